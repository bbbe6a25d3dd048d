"""The verdict on a row: are its sites the draws of its training mode, every one, and no others?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import allmasks as am
from allmasks.sites import inspect_model

KEEPS = 0.999
"""A single number that skips no layer."""

_HOSTS = ((random, "random"), (random, "uniform"), *((np.random, n) for n in ("random", "uniform", "rand", "sample")))


class Draws(TorchDispatchMode):
    """Counts random operations by torch's own tag, as they reach the dispatcher, and Python's and NumPy's numbers.

    Single numbers are LayerDrop's, which draws one whatever its rate: they are set to what keeps, number `zero` to 0.
    """

    def __init__(self, zero: int | None = None) -> None:
        super().__init__()
        self.masks, self.singles, self.zero = 0, 0, zero

    def single(self) -> float:
        self.singles += 1
        return 0.0 if self.singles == self.zero else KEEPS

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return result
        values = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | (kwargs or {})
        rated = "dropout" in func._schema.name or any(a.name == "dropout_p" for a in func._schema.arguments)
        if rated and not (values.get("p") or values.get("dropout_p")):
            return result
        if func._schema.name.startswith("aten::bernoulli") and values.get("p") in (0.0, 1.0):
            return result
        if isinstance(result, Tensor) and result.ndim == 0:
            return result.fill_(self.single())
        self.masks += 1
        return result


@contextmanager
def counted(zero: int | None = None) -> Iterator[Draws]:
    """A pass in which draws are counted, its generators put back afterwards."""
    kept = random.getstate(), np.random.get_state()  # noqa: NPY002
    draws, originals = Draws(zero), [(owner, name, getattr(owner, name)) for owner, name in _HOSTS]

    def answering(original: Callable[..., Any]) -> Callable[..., Any]:
        def drawn(*args: Any, **kwargs: Any) -> Any:
            value = original(*args, **kwargs)
            return draws.single() if np.ndim(value) == 0 else value

        return drawn

    try:
        for owner, name, original in originals:
            setattr(owner, name, answering(original))
        with torch.random.fork_rng(), torch.no_grad(), draws:
            torch.manual_seed(3)
            yield draws
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)
        random.setstate(kept[0])
        np.random.set_state(kept[1])  # noqa: NPY002


def tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def draws_in_training(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Masks that training mode draws: every tensor of random numbers, and those single numbers that change the output."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.eval()
    try:
        with counted() as draws:
            base = tensors(model(*args, **kwargs))
        used = 0
        for k in range(1, draws.singles + 1):
            with counted(zero=k):
                skipped = tensors(model(*args, **kwargs))
            used += not (
                len(base) == len(skipped)
                and all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(base, skipped, strict=True))
            )
    finally:
        model.eval()
    return draws.masks + used


def masks_of(site: am.DropoutSite, model: nn.Module) -> int:
    """A recurrent site stands for the masks of all layers but the last."""
    if site.kind in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        return model.get_submodule(site.name).num_layers - 1
    return 1


@dataclass(frozen=True)
class Verdict:
    """What came of a row. `left`: what has to be left off by name, for those that are refused."""

    name: str
    sites: int
    draws: int
    verdict: str
    left: tuple[str, ...] = ()
    why: str = ""


def judged(name: str, built: Any, batch_dim: int | str | None = None) -> Verdict:
    """Look at a model, count, and follow the way on of a refusal to its end."""
    model, args, kwargs = built
    drawn = draws_in_training(model, args, kwargs)
    eval_mode = inspect_model(model, args, kwargs, batch_dim=batch_dim)
    if eval_mode.unaccounted:
        why = "; ".join(eval_mode.unaccounted)
        return Verdict(name, len(eval_mode.sites), drawn, "refused, with a way on", (), f"random in eval mode: {why}")
    left: list[str] = []
    first = ""
    for _ in range(8):
        sites = am.find_dropout(model, *args, batch_dim=batch_dim, leave_off=left, **kwargs)
        refused = [site for site in sites if not site.controllable]
        if not refused:
            break
        first = first or f"{refused[0].name}: {refused[0].reason}"
        if "leave_off" not in str(refused[0].reason):
            return Verdict(name, len(sites), drawn, "refused without a way on", (), first)
        left += [site.name for site in refused if site.name not in left]
    else:
        return Verdict(name, len(sites), drawn, "left off and still refused", tuple(left), first)
    found = sum(masks_of(site, model) for site in sites if site.p > 0)
    heads = [note for note in eval_mode.notes if "parts that only training mode has" in note]
    found += sum(note.partition(" acts ")[0].count(",") + 1 for note in heads)
    if left:
        return Verdict(name, len(sites), drawn, "refused, with a way on", tuple(left), first)
    why = f"{found} sites found, {drawn} drawn"
    return Verdict(name, len(sites), drawn, *(("right",) if found == drawn else ("wrong", (), why)))
