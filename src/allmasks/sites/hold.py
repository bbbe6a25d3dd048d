"""Putting masks into a model that is not ours: one mode that answers every dropout call made inside it."""

from __future__ import annotations

import functools
import sys
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from allmasks.sites.calls import Call, parse
from allmasks.sites.checkpoints import Answer, checkpoints_follow
from allmasks.sites.draws import DRAWS, parse_draw
from allmasks.sites.hosts import hosts_seen, parse_host
from allmasks.sites.naming import Namer, modules_at, path_of

__all__ = ["hold_masks"]

Provide = Callable[[Call], Tensor | None]
"""A call -> the kept bits to apply, broadcasting to the call's mask shape; None leaves it at its mean mask."""

Watch = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], Any]
"""Sees every other torch function with its result, and may replace that."""

Unmasked = Callable[[Call, Any], Any]
"""Sees every dropout call that got no mask with its result, and may replace that."""


Rest = Mapping[str, float | None]
"""By name of a uniform draw that gets no mask, the number it gives instead: one that drops nothing. Drop path keeps the
mean, which no number does: None, and the call of its module that would draw is made in eval mode."""

Drawn = Callable[[str, str, functools.partial[Any]], Any]
"""Makes the calls of functions outside torch that draw and are no dropout call: (path of the module, name of the
function, the call)."""


def _never(*args: Any, **kwargs: Any) -> bool:
    return False


def _inner_multi_head_attention() -> Callable[..., Any]:
    """F.multi_head_attention_forward without its own dispatch.

    Inside a mode's handler the function would find the mode again and call the handler for ever. The copy shares
    the code and answers "no overrides here", so that only the dropout *inside* it is dispatched.
    """
    original = F.multi_head_attention_forward
    names = dict.fromkeys(("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"), _never)
    # Its helpers keep their own globals; only this function's view is changed.
    copy = types.FunctionType(
        original.__code__, {**original.__globals__, **names}, original.__name__, original.__defaults__
    )
    copy.__kwdefaults__ = original.__kwdefaults__
    return copy


_INNER_MHA = _inner_multi_head_attention()
_MHA_TRAINING = 13
_SLEEPS = "(asleep)"


class _Hold(TorchFunctionMode):
    def __init__(
        self,
        model: nn.Module,
        provide: Provide,
        rates: Mapping[str, float],
        watch: Watch | None,
        unmasked: Unmasked | None,
        wake: frozenset[str],
        rest: Rest,
        drawn: Drawn | None = None,
    ) -> None:
        super().__init__()
        self.wake = wake
        self.rest = rest
        self.asleep = {name.partition("#")[0] for name, number in rest.items() if number is None}
        self.drawn = drawn
        self.meant: bool | None = None  # the training flag of the attention call whose inside is being run
        self.namer = Namer(model)
        self.provide = provide
        self.rates = rates
        self.watch = watch
        self.unmasked = unmasked
        self.answers: list[Answer] = []
        self.model = model
        self.checkpoints_follow = False

    def again(self, answers: list[Answer]) -> AbstractContextManager[None]:
        """A context in which dropout calls get these answers in turn: a checkpointed part is computed again."""
        return _entered(_Again(self.model, self.wake, self.rest, answers))

    def sleeps(self, path: str) -> bool:
        """Whether the call that a woken module begins is made as in eval mode.

        What it would draw is counted as drawn: names are those of a pass with all masks.
        """
        own = [base for base in self.asleep if path_of(base) == path]
        sleeping = [base for base in own if self.rest.get(self.namer.coming(base), 0.0) is None]
        for base in sleeping:
            self.answers.append(Answer(_SLEEPS, None, 0.0))
            self.namer.count(base)
        return bool(sleeping)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._attention_module(args, kwargs)
        call = parse(func, args, kwargs)
        if call is None and self.wake and func in DRAWS and self.namer.path()[0] in self.wake:
            call = parse_draw(func, args, kwargs)
        if call is None:
            result = func(*args, **kwargs)
            return result if self.watch is None else self.watch(func, args, kwargs, result)
        return self._answer(func, call)

    def host(self, name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of Python or NumPy that draws, called inside."""
        path = self.namer.path()[0]
        call = parse_host(name, args, kwargs) if path in self.wake else None
        if call is not None:
            return self._answer(name, call)
        if self.drawn is not None:
            return self.drawn(path, name, functools.partial(original, *args, **kwargs))
        return original(*args, **kwargs)

    def _attention_module(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Called in training mode whatever the flag, so that its own dropout call is made and can be answered."""
        positional = list(args)
        if len(positional) > _MHA_TRAINING:
            meant, positional[_MHA_TRAINING] = bool(positional[_MHA_TRAINING]), True
        else:
            meant, kwargs = bool(kwargs.get("training", True)), {**kwargs, "training": True}
        around, self.meant = self.meant, meant
        try:
            with self:
                return _INNER_MHA(*positional, **kwargs)
        finally:
            self.meant = around

    def _answer(self, func: Any, call: Call) -> Any:
        call.name = self.namer.name(call.op)
        if self.meant is not None:
            call.training = self.meant
        kept = self.provide(call)
        rate = self.rates.get(call.name, call.p)
        number = self.rest.get(call.name)
        self.answers.append(Answer(func, kept, rate, number))
        if kept is None:
            result = call.identity() if number is None else call.rest(number)
            return result if self.unmasked is None else self.unmasked(call, result)
        if self.namer.in_checkpoint and not self.checkpoints_follow and torch.is_grad_enabled():
            raise RuntimeError(
                f"{call.name} lies in a checkpointed part of the model, whose backward pass would run without the "
                "masks with this release of torch; call under torch.no_grad(), or switch checkpointing off"
            )
        try:
            fits = torch.broadcast_shapes(kept.shape, call.mask_shape) == torch.Size(call.mask_shape)
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(
                f"the mask of {call.name} has shape {tuple(kept.shape)} but this batch needs {call.mask_shape}: the "
                "site's shape changes from batch to batch; pad every batch to one length"
            )
        return call.apply(kept, rate)


class _Again(_Hold):
    """Gives the answers of an earlier run of the same part, in turn: in backward its callers are not on the stack."""

    def __init__(self, model: nn.Module, wake: frozenset[str], rest: Rest, answers: list[Answer]) -> None:
        super().__init__(model, lambda call: None, {}, None, None, wake, rest)
        self.coming = list(answers)

    def sleeps(self, path: str) -> bool:
        """As it did in the earlier run."""
        sleeping = False
        while self.coming and self.coming[0].function is _SLEEPS:
            self.answers.append(self.coming.pop(0))
            sleeping = True
        return sleeping

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            return self._attention_module(args, kwargs)
        call = parse(func, args, kwargs)
        if call is None and func in DRAWS and self.coming and self.coming[0].function is func:
            call = parse_draw(func, args, kwargs)
        return func(*args, **kwargs) if call is None else self._answer(func, call)

    def host(self, name: str, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In backward its callers are not on the stack either."""
        call = parse_host(name, args, kwargs) if self.coming and self.coming[0].function == name else None
        return original(*args, **kwargs) if call is None else self._answer(name, call)

    def _answer(self, func: Any, call: Call) -> Any:
        if not self.coming or self.coming[0].function is not func:
            raise RuntimeError(
                f"a checkpointed part of the model calls {call.op or call.kind} in backward where it did not in "
                "forward; switch checkpointing off"
            )
        answer = self.coming.pop(0)
        self.answers.append(answer)
        if answer.kept is not None:
            return call.apply(answer.kept, answer.rate)
        return call.identity() if answer.number is None else call.rest(answer.number)


@contextmanager
def hold_masks(
    model: nn.Module,
    provide: Provide,
    rates: Mapping[str, float] | None = None,
    *,
    watch: Watch | None = None,
    unmasked: Unmasked | None = None,
    wake: frozenset[str] = frozenset(),
    rest: Rest | None = None,
    drawn: Drawn | None = None,
) -> Iterator[None]:
    """Every dropout call made by `model` inside takes the mask that `provide` gives; without one it drops nothing.

    Parameters
    ----------
    provide : called with each dropout call, whose `name`, `p`, `input` and `mask_shape` say what is wanted.
    rates : p by site name, for calls that do not carry theirs in eval mode (attention passes 0 there).
    wake : paths of modules whose own training flag is set inside, because they drop in training mode only; what
        they draw is a dropout call too.
    rest : what those of their draws give that get no mask, see `Rest`.
    watch, unmasked, drawn : see other torch functions, dropout calls without a mask, and what is drawn outside torch;
        for looking at a model.

    One context is one forward pass: calls are counted from its start. But for `wake`, dropout is switched off or on
    here and not by the modules' flags, so nothing else in the model that looks at them is woken.
    """
    with _entered(_Hold(model, provide, rates or {}, watch, unmasked, wake, rest or {}, drawn)):
        yield


@contextmanager
def _entered(hold: _Hold) -> Iterator[None]:
    woken = [module for path in hold.wake for module in modules_at(hold.model, path)]
    flags = [module.training for module in woken]
    hooks = []
    # A compiled part would trace the mode itself; run eagerly it makes the same calls.
    eager = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        for module in woken:
            module.training = True
        for path in {path_of(base) for base in hold.asleep}:
            hooks.append(_put_to_sleep(hold, path))
        with eager, checkpoints_follow(hold) as hold.checkpoints_follow, hosts_seen(hold), hold:
            yield
    finally:
        for hook in hooks:
            hook.remove()
        for module, flag in zip(woken, flags, strict=True):
            module.training = flag


def _put_to_sleep(hold: _Hold, path: str) -> Any:
    """A hook on the module of this path: each of its calls finds the flag that is meant for it."""
    modules = modules_at(hold.model, path)

    def before(module: nn.Module, args: Any) -> None:
        flag = not hold.sleeps(path)
        for each in modules:
            each.training = flag

    return modules[-1].register_forward_pre_hook(before)
