"""What allmasks runs on here, and a self check of the two things everything rests on."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from allmasks.results import Result

__all__ = ["Check", "Doctor", "doctor", "show_versions"]

_PACKAGES = ("allmasks", "torch", "numpy", "scipy", "numba", "scikit-learn", "rich", "typer", "jinja2")
_NEVER_EXTRAS = ("test", "docs", "dev")


@dataclass(frozen=True)
class Check:
    """One self check: what it compares, whether it holds, and the numbers."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Doctor(Result):
    """Versions, machine and self checks.

    Attributes
    ----------
    packages : name and version of what allmasks needs.
    extras : for each extra, name and version of its packages; a missing one says so.
    torch_threads, numba_threads : how many threads each uses, and numba's threading layer.
    kernels, kernels_writable : the folder of compiled kernels, and whether numba can keep them there.
    cache, cache_writable : the folder of the demo's trained net.
    checks, seconds : the self checks, and how long they took.
    """

    python: str
    platform: str
    packages: dict[str, str]
    extras: dict[str, dict[str, str]]
    cpu: str
    cores: int
    torch_threads: int
    numba_threads: int
    gpu: str
    kernels: str
    kernels_writable: bool
    cache: str
    cache_writable: bool
    checks: tuple[Check, ...]
    seconds: float

    @property
    def healthy(self) -> bool:
        """Whether every self check passed."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Every field in plain numbers and strings, ready for json.dump."""
        return super().to_dict() | {"healthy": self.healthy}

    def lines(self) -> list[tuple[str, str]]:
        """Label and text of each line to show."""
        return [
            ("python", f"{self.python} on {self.platform}"),
            *self.packages.items(),
            *((f"extra {name}", _told(found)) for name, found in self.extras.items()),
            ("cpu", f"{self.cpu}, {self.cores} cores available"),
            ("threads", f"torch {self.torch_threads}, numba {self.numba_threads}"),
            ("gpu", self.gpu),
            (
                "compiled kernels",
                self.kernels + ("" if self.kernels_writable else " (not writable: every start compiles them anew)"),
            ),
            (
                "cache folder",
                self.cache + ("" if self.cache_writable else " (not writable: the demo trains each time)"),
            ),
            *((check.name, ("ok: " if check.passed else "FAILED: ") + check.detail) for check in self.checks),
            ("self checks took", f"{self.seconds:.1f} s"),
        ]


def show_versions() -> None:
    """Print what a bug report needs: Python, packages, extras, processor, GPU. `allmasks doctor` also checks them."""
    rows = [
        ("python", f"{platform.python_version()} on {platform.platform()}"),
        *((package, _version(package)) for package in _PACKAGES),
        *((f"extra {name}", _told(found)) for name, found in _extras().items()),
        ("cpu", _cpu()),
        ("gpu", _gpu()),
    ]
    width = max(len(label) for label, _ in rows)
    print("\n".join(f"{label:<{width}}  {text}" for label, text in rows))


_MISSING = "not installed"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return _MISSING


def _told(found: dict[str, str]) -> str:
    told = ", ".join(f"{name} {version}" for name, version in found.items())
    return told if _MISSING in found.values() else f"installed: {told}"


def _extras() -> dict[str, dict[str, str]]:
    """The packages of each extra that a user may want, as the installed metadata list them."""
    found: dict[str, dict[str, str]] = {}
    try:
        lines = metadata.requires("allmasks") or []
    except metadata.PackageNotFoundError:
        return found
    for line in lines:
        requirement, _, condition = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", condition)
        if extra is not None and extra[1] not in _NEVER_EXTRAS:
            name = re.match(r"[\w.-]+", requirement)
            assert name is not None
            found.setdefault(extra[1], {})[name[0]] = _version(name[0])
    return found


def _kernel_cache() -> tuple[str, bool]:
    """Where numba keeps the compiled kernels: asked of one of them."""
    from allmasks.kernels.draw import independent

    folder = Path(str(independent.stats.cache_path))
    existing = next(f for f in (folder, *folder.parents) if f.exists())
    return str(folder), existing.is_dir() and os.access(existing, os.W_OK)


def _compiled(check: str) -> bool:
    """Whether numba has kept what a check needs, or it needs nothing compiled."""
    if check == "compiled bits":
        from allmasks.kernels.draw import independent as kernel
    elif check == "exact expectations":
        from allmasks.scores.row_kernel import logistic_row as kernel
    else:
        return True
    if not hasattr(kernel, "stats"):  # numba's compiler is switched off
        return True
    name = f"{kernel.__module__.rpartition('.')[2]}.{kernel.__name__}-*.nbi"
    return next(Path(str(kernel.stats.cache_path)).glob(name), None) is not None


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as info:
            names = [line.split(":", 1)[1].strip() for line in info if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def _gpu() -> str:
    import torch

    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    return "Apple Metal" if torch.backends.mps.is_available() else "none"


def _threefry() -> Check:
    """The generator against a known answer distributed with Random123: Threefry-2x32, 13 rounds, digits of pi."""
    from allmasks.kernels.reference import threefry2x32

    first, second = threefry2x32((0x13198A2E, 0x03707344), 0x243F6A88, 0x85A308D3)
    found, published = f"{int(first):08x} {int(second):08x}", "ba3e4725 f27d669e"
    return Check("random bits", found == published, f"Threefry-2x32-13 gives {found}, published {published}")


def _exactness() -> Check:
    from allmasks.dropped_scores import expected_score_loss
    from allmasks.masks import MaskLaw

    weights, inputs, target = np.array([1.5, -2.0, 0.5, 1.0, -0.75]), np.array([1.0, 0.5, -2.0, 1.0, 3.0]), 1.0
    law = MaskLaw(0.3, (5,))
    masks = law.enumerate()
    scores = law.noise(masks) @ (weights * inputs)
    listed = float(np.exp(law.log_prob(masks)) @ (np.logaddexp(0, scores) - target * scores))
    found = expected_score_loss(weights, inputs[None], np.array([target]), 0.3, loss="logistic")
    difference = abs(float(found.value) - listed)
    detail = f"logistic loss over {law.n_masks} masks: {found.method.name} and enumeration differ by {difference:.1g}"
    return Check("exact expectations", difference <= 1e-12, detail)


def _same_bits() -> Check:
    """The compiled kernels draw the reference's bits."""
    from allmasks.kernels import reference
    from allmasks.kernels.draw import independent

    masks, examples, units, p = 4, np.arange(3), 37, 0.3
    keys = [reference.derive_key(5, 1, mask) for mask in range(masks)]
    threshold = reference.keep_threshold(np.full(units, 1 - p))
    wanted = np.stack([reference.words(key, examples, units) < threshold for key in keys])
    found = np.empty(wanted.shape, np.uint8)
    rows, flips = examples.astype(np.uint32), np.zeros(masks, np.uint32)
    independent(np.array(keys, np.uint32), flips, rows, threshold.astype(np.uint64), found)
    differ = int((found.astype(bool) != wanted).sum())
    detail = f"the compiled kernel and the reference differ in {differ} of {wanted.size} bits"
    return Check("compiled bits", differ == 0, detail)


def _model() -> Check:
    """The loss of a small net over all its masks, against a loop over them by hand; and the net left as it was."""
    import torch

    from allmasks.expect import expected_loss
    from allmasks.methods import Enumeration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Dropout(0.4), torch.nn.Linear(4, 2))
        net.double()
        x, y = torch.randn(5, 3).double(), torch.arange(5) % 2
    before = torch.get_rng_state()
    with torch.no_grad():
        found = float(expected_loss(net, x, y, "cross_entropy", method=Enumeration()).value)
        hidden, listed = net[1](net[0](x)), 0.0
        for kept in np.ndindex(2, 2, 2, 2):
            mask = torch.tensor(kept, dtype=torch.float64)
            weight = 0.6 ** sum(kept) * 0.4 ** (4 - sum(kept))
            listed += weight * float(torch.nn.functional.cross_entropy(net[3](hidden * mask / 0.6), y))
    difference = abs(found - listed)
    untouched = torch.equal(before, torch.get_rng_state()) and net.training
    detail = f"a net over 16 masks: found and listed by hand differ by {difference:.1g}"
    detail += "; the net and the generator are as before" if untouched else "; THE NET OR THE GENERATOR HAS CHANGED"
    return Check("model untouched", difference <= 1e-12 and untouched, detail)


def doctor(tell: Callable[[str], None] = lambda line: None) -> Doctor:
    """Look at the machine and run the self checks; takes seconds, and draws nothing from any global generator.

    The first run on a machine compiles what the checks need, as the first use would, and keeps it for later ones.

    Parameters
    ----------
    tell : called with a line for the user before anything that takes long.
    """
    import torch

    from allmasks.demo import cache_folder
    from allmasks.scores.threads import launch

    folder = cache_folder()
    existing = next((f for f in (folder, *folder.parents) if f.exists()), folder)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    checks, began = [], time.perf_counter()
    for name, check in (
        ("random bits", _threefry),
        ("compiled bits", _same_bits),
        ("exact expectations", _exactness),
        ("model untouched", _model),
    ):
        if not _compiled(name):
            tell(f"compiling kernels for the check of {name}: once on this machine, up to a minute or two")
        try:
            checks.append(check())
        except Exception as problem:  # a broken installation is what this is here to report
            checks.append(Check(name, False, f"{type(problem).__name__}: {problem}"))
    seconds = time.perf_counter() - began
    kernels, kernels_writable = _kernel_cache()
    return Doctor(
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        packages={name: _version(name) for name in _PACKAGES},
        extras=_extras(),
        cpu=_cpu(),
        cores=cores,
        torch_threads=torch.get_num_threads(),
        numba_threads=launch(),
        gpu=_gpu(),
        kernels=kernels,
        kernels_writable=kernels_writable,
        cache=str(folder),
        cache_writable=existing.is_dir() and os.access(existing, os.W_OK),
        checks=tuple(checks),
        seconds=seconds,
    )
