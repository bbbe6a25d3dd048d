"""What is wrong with a model or with what it is called with, in words that help, before torch says it in its own."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

__all__ = ["check_module", "refusal_of"]


def check_module(model: Any) -> None:
    """TypeError unless it is a torch.nn.Module; for a linear estimator with what to call instead.

    >>> check_module(nn.Linear(2, 1))
    >>> check_module("net")
    Traceback (most recent call last):
    ...
    TypeError: model must be a torch.nn.Module, got str
    """
    if isinstance(model, nn.Module):
        return
    told = f"model must be a torch.nn.Module, got {type(model).__name__}"
    if isinstance(model, type) and issubclass(model, nn.Module):
        told = f"model must be an instance of a torch.nn.Module, got the class {model.__name__}: call it first"
    elif hasattr(model, "get_params") and hasattr(model, "fit"):
        told += (
            ": for a linear estimator am.expected_score_loss(estimator.coef_, X, y, p, intercept=estimator.intercept_) "
            "is the loss over all masks, and allmasks' own estimators know it as objective_"
        )
    raise TypeError(told)


def refusal_of(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str | None:
    """Why the model cannot be called so, if that can be told from its signature and the types of its weights."""
    takes = inspect.signature(model.forward)
    try:
        takes.bind(*args, **kwargs)
    except TypeError as problem:
        told = f"{type(model).__name__}.forward{takes} cannot be called with "
        told += f"inputs named {', '.join(map(repr, kwargs))}" if kwargs else f"{_number(len(args))}"
        told += f" ({problem}): give several inputs as a tuple in its order, or as a dict by its names"
        return told + ("; labels go where y is" if "labels" in kwargs and "labels" not in takes.parameters else "")
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    given = {t.dtype for t in tree_flatten((args, dict(kwargs)))[0] if isinstance(t, Tensor) and t.is_floating_point()}
    if len(kinds) == 1 and given and not given & kinds:
        own, other = (str(min(dtypes, key=str)) for dtypes in (kinds, given))
        words = [kind.removeprefix("torch.") for kind in (own, other)]
        return f"the inputs are {words[1]} and the model's weights {words[0]}: pass x.to({own}), or model.to({other})"
    return None


def _number(n: int) -> str:
    return "one input" if n == 1 else f"{n} inputs"
