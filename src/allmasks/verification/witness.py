"""One pass of a step, witnessed: every mask that is drawn, by whom, at which rate, and what was made of it.

Two modes look on. One meets the calls of dropout functions, whose input and output show the mask on any device; the
other
every random operation below them, on the CPU with its outcome. Modules that draw by hand show their mask by what they
make
of their input. Nothing is put in place of anything: what is drawn is what the step draws.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from allmasks.sites.calls import Call, parse
from allmasks.sites.naming import ROOT, Namer, path_of

__all__ = ["Bits", "Mask", "Seen", "witnessed"]

Bits = np.ndarray[Any, np.dtype[np.int8]]
"""1 kept, 0 dropped, -1 not to be told, in the layout of what is masked."""

_CALLED = nn.Module._call_impl.__code__
_UNIFORM = ("rand", "rand_like", "uniform")
_SPLITS = ("gt", "ge", "lt", "le", "floor", "round", "ceil")
"""What makes bits of uniform numbers."""


@dataclass
class Mask:
    """One mask as it was met in a pass.

    Attributes
    ----------
    name : as `find_dropout` names sites. path : the module that asks for it.
    p : the rate that the call was given; nan where it tells none.
    active : whether the call was to drop at all.
    bits : see `Bits`; None where nothing could be told.
    scale : what kept units are multiplied by; nan where it cannot be told, or is not the same for all.
    sure : whether 0 is known to be "dropped" (a comparison of uniform numbers does not say).
    gradient_differs : whether the gradient went through another mask; None where it was not met.
    """

    name: str
    path: str
    op: str
    p: float = math.nan
    active: bool = True
    bits: Bits | None = None
    scale: float = math.nan
    sure: bool = True
    gradient_differs: bool | None = None
    drawn: list[_Draw] = field(default_factory=list)


@dataclass
class _Draw:
    """A random operation: what it is, with which chance of a 1, and the bits it came to."""

    op: str
    q: float
    bits: Bits | None


@dataclass
class Seen:
    """What one pass showed.

    Attributes
    ----------
    masks : in the order of their calls.
    again : masks that backward drew, such as a checkpointed part's.
    autocast : device type and type of the autocast that dropout was called under.
    applied : by path, (bits, scale) of modules that turned out to multiply their input by a mask.
    trained : paths of batch normalization that ran on statistics of the batch.
    generators : generators that were passed to a draw, with their states before.
    """

    masks: list[Mask] = field(default_factory=list)
    again: list[Mask] = field(default_factory=list)
    autocast: tuple[str, torch.dtype] | None = None
    applied: dict[str, tuple[Bits, float]] = field(default_factory=dict)
    trained: list[str] = field(default_factory=list)
    generators: dict[int, tuple[torch.Generator, Tensor]] = field(default_factory=dict)
    backward: bool = False


class _Names:
    """Names of calls by the model's modules, or by those of a step that has copies of its own."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self.begin()

    def begin(self) -> None:
        self._namer = Namer(self._model)
        self._others: dict[int, Namer] = {}

    def at(self) -> tuple[Namer, str, nn.Module | None]:
        path, module = self._namer.path()
        if module is not None:
            return self._namer, path, module
        outermost: nn.Module | None = None
        frame = sys._getframe(1)
        while frame is not None:
            if frame.f_code is _CALLED:
                outermost = frame.f_locals.get("self", outermost)
            frame = frame.f_back  # type: ignore[assignment]
        if outermost is None:
            return self._namer, ROOT, None
        other = self._others.setdefault(id(outermost), Namer(outermost))
        return (other, *other.path())


class _Calls(TorchFunctionMode):
    """Meets the calls of dropout functions."""

    def __init__(self, seen: Seen, names: _Names, draws: _Draws) -> None:
        super().__init__()
        self.seen, self.names, self.draws = seen, names, draws

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        call = None if func is F.multi_head_attention_forward else parse(func, args, kwargs)
        if call is None:
            return func(*args, **kwargs)
        namer, path, module = self.names.at()
        active = call.training and call.p > 0
        mask = Mask(namer.named(path, module, call.op), path, call.op, call.p, active)
        (self.seen.again if self.seen.backward else self.seen.masks).append(mask)
        _note_autocast(self.seen, call.input)
        simple = isinstance(call.input, Tensor) and call.tail == 0
        before = call.input.detach().clone() if simple and call.in_place else call.input
        if simple and active and not call.in_place and not self.seen.backward and call.input.requires_grad:
            args, kwargs, inlet = _with_inlet(args, kwargs, call.input)
        else:
            inlet = None
        self.draws.current.append(mask)
        try:
            result = func(*args, **kwargs)
        finally:
            self.draws.current.pop()
        _conclude(mask, call, before if simple else None, result)
        if inlet is not None and isinstance(result, Tensor) and result.requires_grad:
            _compare_gradients(mask, inlet, result)
        return result


def _with_inlet(args: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> tuple[Any, Any, Tensor]:
    """The call with an alias of its input, whose gradient is that of this call alone."""
    inlet = x.view_as(x)
    swap: Callable[[Any], Any] = lambda value: inlet if value is x else value  # noqa: E731
    return tuple(map(swap, args)), {key: swap(value) for key, value in kwargs.items()}, inlet


def _compare_gradients(mask: Mask, inlet: Tensor, result: Tensor) -> None:
    came: list[Tensor] = []
    result.register_hook(lambda grad: came.append(grad.detach()))

    def compare(grad: Tensor) -> None:
        if not came or mask.bits is None or math.isnan(mask.scale):
            return
        given, own = came[-1].double(), grad.detach().double()
        kept = torch.from_numpy(mask.bits.astype(np.float64)).to(given.device)
        known = (kept >= 0).expand(given.shape)
        wanted = given * kept.clamp_min(0) * mask.scale
        off = (own - wanted).abs() > 0.02 * mask.scale * given.abs()
        mask.gradient_differs = bool((off & known).any())

    inlet.register_hook(compare)


def _compare_applied(mask: Mask, inlet: Tensor, output: Tensor, applied: tuple[Bits, float]) -> None:
    """The same of a module that drops by hand, whose mask is what it made of its input."""
    mask.bits, mask.scale = applied
    _compare_gradients(mask, inlet, output)


def _conclude(mask: Mask, call: Call, before: Tensor | None, result: Any) -> None:
    """The mask's bits and scale, from what was drawn inside the call and from its input and output."""
    if not mask.active:
        return
    drawn = [draw.bits for draw in mask.drawn if draw.bits is not None]
    if len(drawn) == 1:
        mask.bits = drawn[0]
    elif len(drawn) > 1 and len({bits.shape[:-1] for bits in drawn}) == 1:
        mask.bits = np.concatenate(drawn, axis=-1)
    if before is None or not isinstance(result, Tensor) or not call.mean_preserving:
        return
    applied = _ratio(before.detach(), result.detach())
    if applied is None:
        return
    shown, mask.scale = applied
    if mask.bits is None or mask.bits.size != math.prod(call.mask_shape):
        mask.bits = _shared(shown, call.mask_shape)


def _shared(bits: Bits, shape: tuple[int, ...]) -> Bits:
    """Bits of the whole input as those of a mask of this shape: along an axis of length 1 any that is known tells."""
    for axis, (own, wanted) in enumerate(zip(bits.shape, shape, strict=False)):
        if own != wanted == 1:
            bits = bits.max(axis=axis, keepdims=True)
    return bits


def _ratio(x: Tensor, y: Tensor) -> tuple[Bits, float] | None:
    """Bits and scale where y is x times a mask of one scale; None where it is not."""
    if x.shape != y.shape or not x.is_floating_point() or not y.is_floating_point() or x.numel() == 0:
        return None
    told = x != 0
    kept = told & (y != 0)
    ratios = y[kept].double() / x[kept].double()
    scale = float(ratios.median()) if ratios.numel() else math.nan
    eps = max(torch.finfo(x.dtype).eps, torch.finfo(y.dtype).eps)
    if ratios.numel() and not bool(((ratios - scale).abs() <= 8 * eps * abs(scale) + 1e-12).all()):
        return None
    bits = torch.where(told, kept.to(torch.int8), torch.full_like(kept, -1, dtype=torch.int8))
    return bits.cpu().numpy(), scale


def _note_autocast(seen: Seen, tensor: Any) -> None:
    device = tensor.device.type if isinstance(tensor, Tensor) else "cpu"
    if seen.autocast is None and torch.is_autocast_enabled(device):
        seen.autocast = device, torch.get_autocast_dtype(device)


class _Draws(TorchDispatchMode):
    """Meets every random operation, and follows uniform numbers to where they become bits."""

    def __init__(self, seen: Seen, names: _Names) -> None:
        super().__init__()
        self.seen, self.names = seen, names
        self.current: list[Mask] = []
        self.pending: dict[int, tuple[Tensor, _Draw, Mask]] = {}
        self.drew: dict[int, Mask] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        if isinstance(generator, torch.Generator) and id(generator) not in self.seen.generators:
            self.seen.generators[id(generator)] = generator, generator.get_state()
        result = func(*args, **kwargs)
        op = func._schema.name.removeprefix("aten::").strip("_")
        if torch.Tag.nondeterministic_seeded in func.tags:
            self._draw(op, args, kwargs, result)
        elif self.pending:
            self._follow(op, args, result)
        return result

    def _draw(self, op: str, args: Any, kwargs: Any, result: Any) -> None:
        draw = _Draw(op, math.nan, None)
        if op == "bernoulli":
            q = kwargs.get("p", args[1] if len(args) > 1 else args[0])
            draw.q = float(q.double().mean()) if isinstance(q, Tensor) and q.numel() else _number(q)
            if isinstance(result, Tensor):
                draw.bits = (result != 0).to(torch.int8).cpu().numpy()
        elif op == "native_dropout":
            draw.q = 1.0 - _number(args[1])
            draw.bits = result[1].to(torch.int8).cpu().numpy()
        elif op not in _UNIFORM or not isinstance(result, Tensor) or not result.is_floating_point():
            return
        mask = self.current[-1] if self.current else self._mask(op, draw)
        mask.drawn.append(draw)
        if op in _UNIFORM:
            self.pending[id(result)] = result, draw, mask

    def _mask(self, op: str, draw: _Draw) -> Mask:
        """A draw by hand is a mask of its own."""
        namer, path, module = self.names.at()
        told = "rand" if op in _UNIFORM else op
        p = 1.0 - draw.q
        mask = Mask(
            namer.named(path, module, told),
            path,
            told,
            p,
            bits=draw.bits,
            sure=isinstance(module, nn.MultiheadAttention),
        )
        (self.seen.again if self.seen.backward else self.seen.masks).append(mask)
        if module is not None and not self.seen.backward:
            self.drew.setdefault(id(module), mask)
        return mask

    def _follow(self, op: str, args: Any, result: Any) -> None:
        if not isinstance(result, Tensor):
            return
        for arg in args:
            found = self.pending.get(id(arg)) if isinstance(arg, Tensor) else None
            if found is None:
                continue
            _, draw, mask = found
            if op in _SPLITS and draw.bits is None:
                draw.bits = (result != 0).to(torch.int8).cpu().numpy()
                mask.bits = draw.bits if mask.bits is None else mask.bits
            elif result.is_floating_point() and result.numel() == found[0].numel():
                self.pending.setdefault(id(result), (result, draw, mask))
            return


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


@contextmanager
def witnessed(model: nn.Module, owners: frozenset[str]) -> Iterator[Seen]:
    """Write down what a pass inside shows; set `backward` of what is yielded before going back.

    Parameters
    ----------
    owners : paths of modules that are known to drop by themselves, whose input and output are compared.
    """
    seen, names = Seen(), _Names(model)
    draws = _Draws(seen, names)
    paths = {id(module): path or ROOT for path, module in model.named_modules()}

    def before(module: nn.Module, args: Any) -> Any:
        given = args[0] if args and isinstance(args[0], Tensor) else None
        if given is None or seen.backward or not given.requires_grad or names.at()[1] not in owners:
            return None
        if isinstance(module, (nn.modules.dropout._DropoutNd, nn.MultiheadAttention)) or any(module.children()):
            return None  # its call is met by itself
        return (given.view_as(given), *args[1:])

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training and not seen.backward:
            seen.trained.append(paths.get(id(module), type(module).__name__))
        if seen.backward or not (args and isinstance(args[0], Tensor) and isinstance(output, Tensor)):
            return
        drew = draws.drew.get(id(module))
        path = drew.path if drew is not None else names.at()[1]
        if drew is None and path not in owners:
            return
        found = None if output is args[0] else _ratio(args[0].detach(), output.detach())
        if found is not None and path not in seen.applied:
            seen.applied[path] = found
            if drew is not None and args[0].requires_grad and output.requires_grad and not args[0].is_leaf:
                _compare_applied(drew, args[0], output, found)

    hooks = [
        nn.modules.module.register_module_forward_pre_hook(before),
        nn.modules.module.register_module_forward_hook(after),
    ]
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        with eager, draws, _Calls(seen, names, draws):
            yield seen
    finally:
        for hook in hooks:
            hook.remove()
    for mask in seen.masks:
        applied = seen.applied.get(path_of(mask.name))
        if applied is not None and mask.op in ("bernoulli", "rand"):
            # What a module made of its input is what was meant by its draw.
            mask.bits, mask.scale, mask.sure = applied[0], applied[1], True
