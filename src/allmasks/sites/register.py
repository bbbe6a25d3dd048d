"""Hand-written dropout made known: a function or a module class that becomes a site."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from allmasks.masks import Sharing
from allmasks.sites.calls import PARSERS, Call, inverted

__all__ = ["register_dropout"]


def register_dropout(
    target: Any = None,
    *,
    p: float | str | Callable[..., float] = "p",
    input: int | str = 0,
    sharing: Sharing = "element",
    mean_preserving: bool = True,
    off: bool = False,
) -> Any:
    """Make hand-written dropout a site that `find_dropout` lists and `expected_loss` controls.

    Parameters
    ----------
    target : a function, or a subclass of `nn.Module` whose forward is the dropout; left out above a `def` or `class`:
        `@am.register_dropout(p="rate")`.
    p : the drop rate, or where it is found: the name of an argument (function) or attribute (module), or a
        callable that is given all arguments.
    input : position or name of the tensor that is masked (a module's `self` not counted).
    sharing : "element"; "channel": one bit for each index of the first axis after the example's; "row": one bit
        an example (stochastic depth).
    mean_preserving : True for inverted dropout, whose result under a mask m is m · x / (1 − p); False for the
        classic kind, m · x.
    off : the randomness is not dropout at all (say, noise for augmentation): it stays off, its input passes
        through.

    Returns
    -------
    What to use in place of a function; or the module class itself, whose forward is now known. Without a
        target the decorator that does this.

    The call must return what it drops, and do nothing else. In eval mode your own code runs as before.

    Raises
    ------
    TypeError : if the target is neither a function nor a module class.

    Example
    -------
    >>> import torch, allmasks as am
    >>> @am.register_dropout
    ... def noisy(x, p):
    ...     return x * torch.bernoulli(torch.full_like(x, 1 - p)) / (1 - p)
    >>> class Net(torch.nn.Module):
    ...     def forward(self, x):
    ...         return noisy(x, 0.25) if self.training else x
    >>> @am.register_dropout(p="drop_prob", sharing="row")
    ... class DropPath(torch.nn.Module):
    ...     drop_prob = 0.1
    ...     def forward(self, x):
    ...         return x * (torch.rand(len(x), 1) > 0.1) / 0.9 if self.training else x
    >>> [(site.name, site.p, site.units) for site in am.find_dropout(torch.nn.Sequential(DropPath()), torch.ones(5, 3))]
    [('0', 0.1, 1)]
    """
    if target is None:
        how: dict[str, Any] = {
            "p": p,
            "input": input,
            "sharing": sharing,
            "mean_preserving": mean_preserving,
            "off": off,
        }
        return functools.partial(register_dropout, **how)
    is_class = isinstance(target, type) and issubclass(target, nn.Module)
    if not is_class and (isinstance(target, type) or not callable(target) or isinstance(target, nn.Module)):
        raise TypeError(f"register_dropout takes a function or a subclass of nn.Module, got {target!r}")
    if sharing not in ("element", "channel", "row"):
        raise ValueError(f'sharing must be "element", "channel" or "row", got {sharing!r}')
    original = target.forward if is_class else target
    if getattr(original, "_allmasks_original", None) is not None:
        original = original._allmasks_original  # registered anew, with other settings
    signature = inspect.signature(original)

    @functools.wraps(original)
    def visible(*args: Any, **kwargs: Any) -> Any:
        tensors = tuple(a for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
        if has_torch_function(tensors):
            return handle_torch_function(visible, tensors, *args, **kwargs)
        return original(*args, **kwargs)

    def parse(*args: Any, **kwargs: Any) -> Call:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = list(bound.arguments.values())
        x = bound.arguments[input] if isinstance(input, str) else values[input + is_class]
        if not isinstance(x, Tensor):
            raise TypeError(f"{_title(target)}: what is masked must be a tensor, got {type(x).__name__}")
        return Call(
            op="" if is_class else original.__name__,
            kind=target.__name__,
            p=0.0 if off else _rate(p, bound, values[0] if is_class else None, target),
            training=True,
            input=x,
            mask_shape=_mask_shape(tuple(x.shape), sharing),
            apply=lambda kept, rate: inverted(x, kept, rate) if mean_preserving else x * kept.to(x.dtype),
            identity=lambda: x if off or _in_training(args) else original(*args, **kwargs),
            mean_preserving=mean_preserving,
        )

    visible._allmasks_original = original  # type: ignore[attr-defined]
    PARSERS[visible] = parse
    if is_class:
        target.forward = visible
        return target
    return visible


def _mask_shape(shape: tuple[int, ...], sharing: Sharing) -> tuple[int, ...]:
    kept_axes = {"element": len(shape), "channel": 2, "row": 1}[sharing]
    return shape[:kept_axes] + (1,) * (len(shape) - kept_axes)


def _rate(p: Any, bound: inspect.BoundArguments, module: Any, target: Any) -> float:
    if callable(p):
        return float(p(*bound.args, **bound.kwargs))
    if not isinstance(p, str):
        return float(p)
    if p in bound.arguments:
        return float(bound.arguments[p] or 0.0)
    if module is not None and hasattr(module, p):
        return float(getattr(module, p) or 0.0)
    raise ValueError(
        f"{_title(target)} has no argument or attribute {p!r}; say where its drop rate is found: "
        "register_dropout(..., p=...)"
    )


def _title(target: Any) -> str:
    return f"the registered dropout {getattr(target, '__name__', target)!r}"


def _in_training(args: tuple[Any, ...]) -> bool:
    """Whether the original would drop: a module in training mode; a function is called only where it drops."""
    first = args[0] if args else None
    return first.training if isinstance(first, nn.Module) else True


def _unregister(target: Any) -> None:
    """Undo a registration (for tests)."""
    visible: Any = getattr(target, "forward", target)
    PARSERS.pop(visible, None)
    if visible is not target:
        target.forward = visible._allmasks_original
