"""What allmasks runs on here, and a self check of the two things everything rests on."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from allmasks.results import plain_numbers

__all__ = ["Check", "Doctor", "doctor"]

_PACKAGES = ("allmasks", "torch", "numpy", "scipy", "numba", "scikit-learn", "rich", "typer", "jinja2", "plotly")
_OPTIONAL = ("safetensors", "pandas", "pyarrow")


@dataclass(frozen=True)
class Check:
    """One self check: what it compares, whether it holds, and the numbers."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Doctor:
    """Versions, machine and self checks."""

    python: str
    platform: str
    packages: dict[str, str]
    cpu: str
    cores: int
    torch_threads: int
    gpu: str
    cache: str
    cache_writable: bool
    checks: tuple[Check, ...]

    @property
    def healthy(self) -> bool:
        """Whether every self check passed."""
        return all(check.passed for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Every field in plain numbers and strings, ready for json.dump."""
        plain: dict[str, Any] = plain_numbers(self)
        return plain | {"healthy": self.healthy}

    def lines(self) -> list[tuple[str, str]]:
        """Label and text of each line to show."""
        return [
            ("python", f"{self.python} on {self.platform}"),
            *self.packages.items(),
            ("cpu", f"{self.cpu}, {self.cores} cores available, torch uses {self.torch_threads} threads"),
            ("gpu", self.gpu),
            (
                "cache folder",
                self.cache + ("" if self.cache_writable else " (not writable: the demo trains each time)"),
            ),
            *((check.name, ("ok: " if check.passed else "FAILED: ") + check.detail) for check in self.checks),
        ]


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed" + (" (optional)" if package in _OPTIONAL else "")


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
    from allmasks.masks import MaskLaw
    from allmasks.scores import expected_score_loss

    weights, inputs, target = np.array([1.5, -2.0, 0.5, 1.0, -0.75]), np.array([1.0, 0.5, -2.0, 1.0, 3.0]), 1.0
    law = MaskLaw(0.3, (5,))
    masks = law.enumerate()
    scores = law.noise(masks) @ (weights * inputs)
    listed = float(np.exp(law.log_prob(masks)) @ (np.logaddexp(0, scores) - target * scores))
    found = expected_score_loss(weights, inputs[None], np.array([target]), 0.3, loss="logistic")
    difference = abs(float(found.value) - listed)
    detail = f"logistic loss over {law.n_masks} masks: {found.method.name} and enumeration differ by {difference:.1g}"
    return Check("exact expectations", difference <= 1e-12, detail)


def doctor() -> Doctor:
    """Look at the machine and run the self checks; takes a second or two and draws nothing."""
    import torch

    from allmasks.demo import cache_folder

    folder = cache_folder()
    existing = next((f for f in (folder, *folder.parents) if f.exists()), folder)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    checks = []
    for name, check in (("random bits", _threefry), ("exact expectations", _exactness)):
        try:
            checks.append(check())
        except Exception as problem:  # a broken installation is what this is here to report
            checks.append(Check(name, False, f"{type(problem).__name__}: {problem}"))
    return Doctor(
        python=platform.python_version(),
        platform=platform.platform(terse=True),
        packages={name: _version(name) for name in (*_PACKAGES, *_OPTIONAL)},
        cpu=_cpu(),
        cores=cores,
        torch_threads=torch.get_num_threads(),
        gpu=_gpu(),
        cache=str(folder),
        cache_writable=existing.is_dir() and os.access(existing, os.W_OK),
        checks=tuple(checks),
    )
