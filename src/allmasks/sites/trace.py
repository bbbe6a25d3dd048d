"""One forward pass, watched: dropout calls, random draws that are not theirs, and what feeds the output."""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from allmasks.sites.alike import alike
from allmasks.sites.borrow import begin_pass, state_of
from allmasks.sites.calls import Call
from allmasks.sites.hold import hold_masks
from allmasks.sites.naming import Namer
from allmasks.sites.probe import Inputs
from allmasks.sites.settings import (
    bytes_only,
    draw_only,
    generator_states,
    moved_generators,
    seed_hosts,
    set_generator_states,
)
from allmasks.sites.state import version_of

__all__ = ["Draw", "LinearUse", "Seen", "Trace", "linear_arguments", "trace"]


@dataclass(frozen=True)
class Draw:
    """A random operation outside the known dropout calls; `values`: what it goes to, by the names of variables."""

    path: str
    op: str
    scripted: bool = False
    values: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return f"{self.path} calls {self.op}"

    @property
    def name(self) -> str:
        """What it is called where it is refused."""
        return f"{self.path}:{self.op}"

    @property
    def of_system(self) -> bool:
        """Whether it is the system that gives it: `SystemRandom`, `secrets` and `os.urandom`."""
        return self.op.endswith("urandom")

    @property
    def names(self) -> tuple[str, ...]:
        """All that it may be called to be left off."""
        return (self.name, *(f"{self.path}.{value}" for value in self.values))


@dataclass
class Seen:
    """A dropout call as it was made. `result` is the very object that went on through the model."""

    call: Call
    result: Any
    version: int


@dataclass
class LinearUse:
    """A call of F.linear, with the objects that went in and came out, unchanged so far.

    `owned`: the weight is the calling module's own, which in a sharded model is no parameter once the pass is over.
    """

    input: Tensor
    input_version: int
    weight: Tensor
    bias: Tensor | None
    result: Tensor
    result_version: int
    owned: bool = False


@dataclass
class Trace:
    """What happened in one pass.

    `draws` are random operations of torch outside the known dropout calls, `hosts` those of Python and NumPy, `moved`
    their generators that have been drawn from, `own` such of the model's own; `left` what was drawn and kept `still`.
    """

    seen: dict[str, Seen] = field(default_factory=dict)
    draws: list[Draw] = field(default_factory=list)
    hosts: list[Draw] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    own: list[str] = field(default_factory=list)
    left: list[Draw] = field(default_factory=list)
    linears: list[LinearUse] = field(default_factory=list)
    convolves_after_site: bool = False
    links: list[tuple[str, Tensor]] = field(default_factory=list)
    output: Any = None

    def is_like(self, other: Trace) -> bool:
        """Whether this pass in training mode drew nothing but dropout and gave what another gave in eval mode."""
        nothing = not (self.draws or self.hosts or self.moved or self.own)
        return nothing and self.seen.keys() == other.seen.keys() and alike(self.tensors(), other.tensors())

    def tensors(self) -> list[Tensor]:
        """The tensors of the output."""
        return output_tensors(self.output)


_LINKS = {
    torch.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    torch.softmax: "softmax",
    Tensor.softmax: "softmax",
    F.softmax: "softmax",
    torch.log_softmax: "log_softmax",
    Tensor.log_softmax: "log_softmax",
    F.log_softmax: "log_softmax",
}
"""Functions that a classifier may end with: their results are probabilities, not scores."""


def output_tensors(output: Any) -> list[Tensor]:
    """The tensors of a model's output, whatever holds them."""
    return [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]


def _arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """An operator's arguments by name, those that were not given as well."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    defaults = {argument.name: argument.default_value for argument in func._schema.arguments}
    return {name: given.get(name, defaults.get(name)) for name in names}


def _draws_nothing(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether an operation that may draw has been told not to: a rate of 0, or training off."""
    values = _arguments(func, args, kwargs)
    if func._schema.name.startswith("aten::bernoulli") and values.get("p") in (0.0, 1.0):
        return True
    has_rate = "dropout_p" in values or ("dropout" in func._schema.name and "p" in values)
    if has_rate and not (values.get("dropout_p") or values.get("p")):
        return True
    return any(values.get(flag, True) is False for flag in ("train", "training"))


Still = Callable[[Draw], bool]


def _seed(path: str, op: str, k: int) -> int:
    return zlib.crc32(f"{path}:{op}:{k}".encode())


class _Draws(TorchDispatchMode):
    """Records operations tagged as random. `fill` may put something else in place of what is drawn."""

    def __init__(self, namer: Namer, seen: Trace, fill: Callable[[Tensor], object] | None, still: Still | None) -> None:
        super().__init__()
        self.namer, self.seen, self.fill, self.still = namer, seen, fill, still

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or _draws_nothing(func, args, kwargs):
            return func(*args, **kwargs)
        path, module = self.namer.path()
        op = func._schema.name.removeprefix("aten::").strip("_")
        draw = Draw(path, op, isinstance(module, torch.jit.ScriptModule), self.namer.values())
        if self.still is not None and self.still(draw):
            seed = _seed(path, op, len(self.seen.left))
            self.seen.left.append(draw)
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                own = kwargs.get("generator")
                return func(
                    *args,
                    **(kwargs | ({} if own is None else {"generator": torch.Generator(own.device).manual_seed(seed)})),
                )
        result = func(*args, **kwargs)
        self.seen.draws.append(draw)
        if self.fill is not None:
            for leaf in output_tensors(result):
                if leaf.is_floating_point():
                    self.fill(leaf)
                elif func._schema.name.startswith("aten::randint"):
                    given = _arguments(func, args, kwargs)
                    low, share = given.get("low") or 0, torch.empty(leaf.shape, dtype=torch.float64)
                    self.fill(share)
                    leaf.copy_((low + share * (given["high"] - low)).floor())
        return result


def trace(
    model: nn.Module,
    inputs: Inputs,
    *,
    train: bool,
    fill: Callable[[Tensor], object] | None = None,
    hosts: float | None = None,
    answer: Callable[[Call], Tensor | None] | None = None,
    rates: Mapping[str, float] | None = None,
    keep: Callable[[Call], None] | None = None,
    watch: Any = None,
    wake: frozenset[str] = frozenset(),
    constants: Mapping[str, float | None] | None = None,
    still: Still | None = None,
) -> Trace:
    """Run the model once, by default with no unit dropped, and write down what happens. Call it inside `borrowed`.

    Parameters
    ----------
    train : set training flags for the pass. Normalisation stays in eval mode: its statistics are not dropout.
    fill : is given every stray draw, and may write something else there.
    hosts : the number in [0, 1) that generators outside torch give, where that can be had of them.
    answer, rates : masks and rates by site, see `hold_masks`.
    wake : modules whose own training flag is set, see `hold_masks`.
    constants : by name of a uniform draw, the number it gives.
    keep : is shown each dropout call while its input is still what it was.
    still : draw -> whether what is drawn there is to be the same in every pass.
    """
    result = Trace()

    def provide(call: Call) -> Tensor | None:
        if keep is not None:
            keep(call)
        return None if answer is None else answer(call)

    def unmasked(call: Call, value: Any) -> Any:
        if isinstance(value, Tensor) and value is call.input and not call.in_place:
            value = value.view_as(value)  # an object of its own: what is dropped can be told from what is not
        version = version_of(value) if isinstance(value, Tensor) else 0
        result.seen[call.name] = Seen(call, value, version)
        return value

    def look(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any) -> Any:
        if func is F.linear:
            _note_linear(result, args, kwargs, value, namer)
        elif func in _LINKS:
            result.links.append((_LINKS[func], value))
        elif result.seen and getattr(func, "__name__", "").startswith("conv"):
            result.convolves_after_site = True
        return value if watch is None else watch(func, args, kwargs, value)

    def drawn(path: str, name: str, draw: functools.partial[Any]) -> Any:
        seen = Draw(path, name, values=namer.values())
        if still is None or not still(seen):
            result.hosts.append(seen)
            if hosts is not None and seen.of_system:
                return bytes_only(hosts, draw.args[0], sum(each.of_system for each in result.hosts))
            return draw()
        result.left.append(seen)
        return _drawn_alike(seen, draw, len(result.left))

    namer = Namer(model)
    own = inputs.copied()
    begin_pass(model)
    for module in model.modules():
        module.training = train and not isinstance(module, nn.modules.batchnorm._NormBase)
    state = state_of(model)
    before, own_before = generator_states(), [] if state is None else state.generator_states()
    if hosts is not None:
        draw_only(hosts, [] if state is None else state.generators)
    begun = generator_states(), [] if state is None else state.generator_states()
    try:
        with (
            _Draws(namer, result, fill, still),
            hold_masks(model, provide, rates, watch=look, unmasked=unmasked, wake=wake, rest=constants, drawn=drawn),
        ):
            result.output = model(*own.args, **own.kwargs)
    finally:
        for module in model.modules():
            module.training = False
    result.moved = moved_generators(begun[0], generator_states())
    if state is not None:
        drawn_from = [g for g in state.drawn_from(begun[1]) if not isinstance(g, torch.Generator)]
        result.own = [_where(model, generator) for generator in drawn_from]
    if hosts is not None:
        set_generator_states(before)
        if state is not None:
            state.set_generator_states(own_before)
    return result


def _drawn_alike(seen: Draw, draw: functools.partial[Any], k: int) -> Any:
    """The k-th draw outside torch that is left off: the same in every pass."""
    seed = _seed(seen.path, seen.op, k)
    if seen.of_system:  # which takes no seed
        return np.random.default_rng(seed).bytes(draw.args[0])
    before = generator_states()
    seed_hosts(seed)
    try:
        return draw()
    finally:
        set_generator_states(before)


def _where(model: nn.Module, generator: Any) -> str:
    """What a generator of the model's own is called, by the attribute that holds it where one does."""
    kind = f"a {type(generator).__module__}.{type(generator).__qualname__} of its own"
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if value is generator:
                return f"{kind} ({path}.{name})" if path else f"{kind} ({name})"
    return kind


def linear_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Input, weight and bias of a call of F.linear."""
    names = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
    return names["input"], names["weight"], names.get("bias")


def _note_linear(result: Trace, args: tuple[Any, ...], kwargs: dict[str, Any], value: Any, namer: Namer) -> None:
    x, weight, bias = linear_arguments(args, kwargs)
    module = namer.path()[1]
    owned = module is not None and any(own is weight for own in (*module._parameters.values(), *vars(module).values()))
    result.linears.append(LinearUse(x, version_of(x), weight, bias, value, version_of(value), owned))
