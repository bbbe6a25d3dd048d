"""Everything about a model and its process, before and after a look that succeeds, is stopped, or fails anywhere."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import nn

import allmasks as am


class Planted(RuntimeError):
    """An exception in the middle of a forward pass."""


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Tensors by their bytes and versions, attributes by what they are, flags, hooks, generators of the process."""
    found: dict[str, Any] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        found[f"tensor {name}"] = (id(tensor), tensor._version, tensor.detach().clone().nan_to_num(1e30))
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            plain = isinstance(value, bool | int | float | str | tuple | type(None))
            box = (
                sorted(map(str, value)) if isinstance(value, dict) else len(value) if isinstance(value, list) else None
            )
            found[f"attribute {path}.{name}"] = repr(value) if plain else (id(value), box)
    found["torch"] = torch.get_rng_state()
    found["python"], found["numpy"] = random.getstate(), str(np.random.get_state())  # noqa: NPY002
    found["gradients"] = torch.is_grad_enabled()
    return found


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Names of what is not as it was."""

    def same(a: Any, b: Any) -> bool:
        if isinstance(a, torch.Tensor):
            return torch.equal(a, b)
        if isinstance(a, tuple) and len(a) == len(b):
            return all(map(same, a, b))
        return bool(a == b)

    return sorted(
        k for k in before.keys() | after.keys() if k not in after or k not in before or not same(before[k], after[k])
    )


def stopped_at(
    model: nn.Module, args: Any, kwargs: Any, module: nn.Module, call: int, error: type[BaseException]
) -> bool:
    """Whether the look reached this call of the module, at which it is stopped."""
    calls = [0]

    def raising(*_: Any) -> None:
        calls[0] += 1
        if calls[0] == call:
            raise error("planted")

    hook = module.register_forward_pre_hook(raising)
    try:
        am.find_dropout(model, *args, **kwargs)
    except (error, ValueError):
        pass
    finally:
        hook.remove()
    return calls[0] >= call


def held(model: nn.Module, args: Any, kwargs: Any, rng: random.Random, modules: int | None = 5) -> list[str]:
    """What is changed by a look that succeeds, and by ones that stop at some modules (all where None)."""
    model.train(rng.random() < 0.5)
    before = snapshot(model)
    wrong = []

    def compare(what: str) -> None:
        changed = changes(before, snapshot(model))
        if changed:
            wrong.append(f"{what}: {changed[:4]}")

    am.find_dropout(model, *args, **kwargs)
    compare("after success")
    there = [(path, module) for path, module in model.named_modules() if not list(module.children())]
    chosen = there if modules is None else rng.sample(there, min(modules, len(there)))
    for k, (path, module) in enumerate(chosen):
        error = KeyboardInterrupt if k % 2 else Planted
        stopped_at(model, args, kwargs, module, 1 if modules is None else rng.choice((1, 1, 2, 3)), error)
        compare(f"after {error.__name__} at {path or 'the model'}")
    return wrong


def main(rows: Iterable[Any], seed: int) -> None:
    """Hold every row, five modules of each drawn at random."""
    from importlib.util import find_spec

    print(f"seed {seed}")
    rng, n, bad = random.Random(seed), 0, 0
    for case in rows:
        if case.needs and find_spec(case.needs) is None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, args, kwargs = case()
            if case.batch_dim is not None:
                kwargs = {**kwargs, "batch_dim": case.batch_dim}
            wrong = held(model, args, kwargs, rng)
        n, bad = n + 1, bad + bool(wrong)
        print(f"{case.name}: {wrong or 'as before'}", flush=True)
    print(f"{n} rows, {bad} not as before")
