"""Looking at a model once: its dropout sites, how examples lie in them, and what is random beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from allmasks.sites.borrow import borrowed
from allmasks.sites.calls import Call
from allmasks.sites.probe import Axis, Inputs, find_axis, poison_lookup
from allmasks.sites.site import DropoutSite, mask_shape_of_example, units_of
from allmasks.sites.trace import Draw, Trace, output_tensors, trace

__all__ = ["Inspection", "LastLayer", "find_dropout", "inspect_model"]

_PROBED_EXAMPLES = 3
"""Examples in a probe: enough to tell the first, the second and the rest apart; few, to be quick."""

_GENERATOR_PASSES = 4


@dataclass(frozen=True)
class LastLayer:
    """The site whose output goes straight into a Linear that is the model's output."""

    site: str
    weight: Tensor
    bias: Tensor | None


@dataclass(frozen=True)
class Inspection:
    """What one look at a model shows.

    Attributes
    ----------
    sites : in the order of their calls.
    n_examples : examples in the inputs.
    output : the output with nothing dropped.
    unaccounted : random draws in eval mode that no site explains, as sentences.
    last_linear : see `LastLayer`; None where the model does not end so.
    output_batch_dim : the example axis of the extracted output.
    convolves_after_site : whether a convolution sees masked activations (batching masks is then slow).
    notes : what could not be looked at.
    """

    sites: tuple[DropoutSite, ...]
    n_examples: int
    output: Any
    unaccounted: tuple[str, ...]
    last_linear: LastLayer | None
    output_batch_dim: int = 0
    convolves_after_site: bool = False
    notes: tuple[str, ...] = ()


def find_dropout(model: nn.Module, *args: Any, batch_dim: int | None = None, **kwargs: Any) -> list[DropoutSite]:
    """List every dropout site of a model, by running it once on these inputs; the model is left untouched.

    Parameters
    ----------
    model : in train or eval mode, which makes no difference.
    args, kwargs : what the model is called with; a few examples are enough.
    batch_dim : axis of the examples in the inputs; 0 by default.

    Returns
    -------
    One `DropoutSite` for each call, in order: name, kind, p, shape of one example's mask, units, whether it keeps
    the mean, and whether masks can be put in; if not, the reason.

    Raises
    ------
    ValueError : if a site's example axis cannot be told from its others.

    Example
    -------
    >>> import torch, allmasks as am
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
    >>> am.find_dropout(net, torch.ones(4, 3))
    [DropoutSite(name='1', kind='dropout', p=0.2, shape=(8,), units=8)]
    """
    return list(inspect_model(model, args, kwargs, batch_dim=batch_dim).sites)


def inspect_model(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch_dim: int | None = None,
    extract: Callable[[Any], Tensor | None] | None = None,
) -> Inspection:
    """Everything `Inspection` says, from a handful of forward passes.

    Parameters
    ----------
    extract : output -> the tensor that matters; the first one by default.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    given = _inputs(args, kwargs, batch_dim)
    extract = extract or (lambda output: next(iter(output_tensors(output)), None))
    notes: list[str] = []
    with torch.no_grad(), borrowed(model):
        in_eval = trace(model, given, train=False)
        in_train = _train_pass(model, given, notes)
        uncontrolled = [] if in_train is None else _train_only(model, given, in_eval, in_train, notes)
        axes, out_dim = _axes(model, given, in_eval, extract, batch_dim)
    sites = tuple(_site(name, in_eval, in_train, axes) for name in in_eval.seen)
    sites = tuple(site for site in sites if site.kind != "attention" or site.p > 0)
    notes += [
        f"{site.name} drops units in eval mode too; here eval mode means that it is held at its mean mask."
        for site in sites
        if site.always_on
    ]
    return Inspection(
        sites=(*sites, *uncontrolled),
        n_examples=given.n,
        output=in_eval.output,
        unaccounted=tuple(dict.fromkeys(map(str, in_eval.draws))) + tuple(f"it draws from {m}" for m in in_eval.moved),
        last_linear=_last_linear(model, in_eval, sites, extract),
        output_batch_dim=out_dim,
        convolves_after_site=in_eval.convolves_after_site,
        notes=tuple(notes),
    )


def _inputs(args: tuple[Any, ...], kwargs: dict[str, Any], batch_dim: int | None) -> Inputs:
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor) and leaf.ndim]
    if not tensors:
        raise ValueError("the model's inputs hold no tensor with an example axis; pass what the model is called with")
    dim = 0 if batch_dim is None else batch_dim
    if not -tensors[0].ndim <= dim < tensors[0].ndim:
        raise ValueError(f"batch_dim={dim} does not exist in an input of shape {tuple(tensors[0].shape)}")
    dim %= tensors[0].ndim
    n = tensors[0].shape[dim]
    if n == 0:
        raise ValueError("the inputs hold no examples; at least one is needed")
    return Inputs(args, kwargs, dim, n)


# -- what happens only in training mode ------------------------------------------------------------------------


def _train_pass(model: nn.Module, given: Inputs, notes: list[str]) -> Trace | None:
    """The same pass with training flags set: drop rates that are passed as 0 in eval mode show themselves."""
    try:
        with borrowed(model):
            return trace(model, given, train=True)
    except Exception as error:
        notes.append(
            f"The model could not be run in training mode on these inputs ({type(error).__name__}: {error}), so "
            "dropout that only acts there was not looked for."
        )
        return None


def _train_only(
    model: nn.Module, given: Inputs, in_eval: Trace, in_train: Trace, notes: list[str]
) -> list[DropoutSite]:
    """Sites that eval mode switches off where we cannot switch them on."""
    found = [
        _uncontrolled(name, seen.call.kind, seen.call.p, "it is called in training mode only")
        for name, seen in in_train.seen.items()
        if name not in in_eval.seen and seen.call.p > 0
    ]
    known = set(in_eval.draws)
    draws = [draw for draw in dict.fromkeys(in_train.draws) if draw not in known]
    moved = [generator for generator in in_train.moved if generator not in in_eval.moved]
    if draws and _draws_matter(model, given, in_eval):
        found += [_uncontrolled(f"{draw.path}:{draw.op}", draw.op, math.nan, _why(draw)) for draw in draws]
    if moved:
        names = " and ".join(moved)
        if all(_same_as_eval(model, given, in_eval, None) for _ in range(_GENERATOR_PASSES)):
            notes.append(
                f"In training mode the model draws from {names}; its output was the same in {_GENERATOR_PASSES} "
                "passes, so this was taken to have no effect."
            )
        else:
            reason = f"in training mode the model draws from {names}, which no mask can stand for"
            found.append(_uncontrolled("(root):random", "random", math.nan, reason))
    return found


def _why(draw: Draw) -> str:
    if draw.scripted:
        return "it is TorchScript, whose dropout cannot be reached from outside; pass the module it was made from"
    return (
        f"it calls {draw.op} in training mode, which is not known as dropout: register the function or module that "
        "draws with am.register_dropout"
    )


def _draws_matter(model: nn.Module, given: Inputs, in_eval: Trace) -> bool:
    """Whether stray draws of training mode change anything: tried at both ends of what can be drawn.

    Stochastic depth with rate 0, for one, draws a number and never uses it.
    """
    return not all(_same_as_eval(model, given, in_eval, extreme) for extreme in (0.0, 1.0 - 2**-8))


def _same_as_eval(model: nn.Module, given: Inputs, in_eval: Trace, extreme: float | None) -> bool:
    try:
        with borrowed(model):
            # borrowed() puts generators back, so move them on: each pass draws something else.
            other = trace(model, given, train=True, extreme=extreme)
    except Exception:
        return False
    if other.seen.keys() != in_eval.seen.keys():
        return False
    pairs = list(zip(other.tensors(), in_eval.tensors(), strict=False))
    return len(other.tensors()) == len(in_eval.tensors()) and all(
        a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-5, equal_nan=True)
        for a, b in pairs
    )


def _uncontrolled(name: str, kind: str, p: float, reason: str) -> DropoutSite:
    return DropoutSite(name, kind, p, (), 0, controllable=False, reason=reason)


# -- where the examples lie ------------------------------------------------------------------------------------


def _axes(
    model: nn.Module,
    given: Inputs,
    in_eval: Trace,
    extract: Callable[[Any], Tensor | None],
    batch_dim: int | None,
) -> tuple[dict[str, Axis | str], int]:
    """The example axis of each site, and of the output."""
    clean, kept, n = _clean_probe(model, given)
    shapes: dict[str, tuple[int, ...]] = {}
    patterns: dict[str, list[tuple[int, Tensor]]] = {}
    base = given.resized(n)
    outputs: list[tuple[int, Tensor]] = []
    noisy = bool(in_eval.draws or in_eval.moved)
    clean_output = extract(clean.output)
    for example in (0, 1):
        result = _poisoned_probe(model, base, example)
        for name, (call_shape, tensor, _) in result[1].items():
            if name not in kept or kept[name][1].shape != tensor.shape:
                continue
            shapes[name] = call_shape
            patterns.setdefault(name, []).append((example, _pattern(kept[name][1], tensor, noisy)))
        output = extract(result[0].output)
        if output is not None and clean_output is not None and output.shape == clean_output.shape:
            outputs.append((example, _pattern(clean_output, output, noisy)))
    axes: dict[str, Axis | str] = {}
    for name in in_eval.seen:
        if name not in patterns:
            axes[name] = "it is called for some inputs only"
            continue
        axes[name] = _axis_of_call(kept[name], n, patterns[name], given.dim if batch_dim is not None else None)
    return axes, _output_axis(clean_output, n, outputs, batch_dim)


Kept = dict[str, tuple[tuple[int, ...], Tensor, int]]
"""Calls by name: mask shape, a copy of the input, and how many last axes the input says nothing about."""


def _keeper(kept: Kept) -> Callable[[Call], None]:
    def keep(call: Call) -> None:
        kept[call.name] = (call.mask_shape, call.input.detach().clone(), call.tail)

    return keep


def _clean_probe(model: nn.Module, given: Inputs) -> tuple[Trace, Kept, int]:
    """A pass with few examples. Models that insist on their batch size are probed with the examples they have."""
    for n in dict.fromkeys((_PROBED_EXAMPLES, given.n)):
        kept: Kept = {}
        try:
            return trace(model, given.resized(n), train=False, keep=_keeper(kept)), kept, n
        except Exception:
            if n == given.n:
                raise
            if given.n < 2:
                raise ValueError(
                    "one example is not enough to tell its axis, and the model cannot be run on more; pass at least 2"
                ) from None
    raise AssertionError("unreachable")


def _poisoned_probe(model: nn.Module, base: Inputs, example: int) -> tuple[Trace, Kept]:
    error: Exception | None = None
    for with_nan in (True, False):
        kept: Kept = {}
        bad = base.poisoned(example, with_nan=with_nan)
        watch = poison_lookup(bad, example) if with_nan else None
        try:
            return trace(model, bad, train=False, keep=_keeper(kept), watch=watch), kept
        except Exception as caught:  # a model may check its inputs for NaN, or index with what it computes
            error = caught
    raise ValueError(
        "could not find out which axis is the example's: the model fails when one example is changed "
        f"({type(error).__name__}: {error})"
    ) from error


def _pattern(clean: Tensor, poisoned: Tensor, noisy: bool) -> Tensor:
    """Where the poison arrived: NaN now but not before, or plainly another number (unless all numbers are noisy)."""
    if not clean.is_floating_point():
        return clean != poisoned
    if noisy:
        return torch.isnan(poisoned) & ~torch.isnan(clean)
    a, b = clean.double(), poisoned.double()
    scale = torch.nan_to_num(a, 0.0, 0.0, 0.0).abs().amax() if a.numel() else 0.0
    return (torch.isnan(b) & ~torch.isnan(a)) | ((a - b).abs() > 1e-3 * scale + 1e-30)


def _axis_of_call(
    kept: tuple[tuple[int, ...], Tensor, int], n: int, patterns: list[tuple[int, Tensor]], prefer: int | None
) -> Axis | str:
    mask_shape, x, tail = kept
    shape = tuple(x.shape)
    if tail:
        # Attention: the queries' axes but the last are the mask's; which keys are dropped is no example's axis.
        shape = (*mask_shape[:-tail], *(1,) * tail)
        patterns = [(e, p.any(dim=-1, keepdim=True).expand(shape)) for e, p in patterns]
    axis = find_axis(shape, n, patterns, prefer=prefer)
    if isinstance(axis, Axis) and axis.dim is not None and mask_shape[axis.dim] == 1 != shape[axis.dim]:
        return Axis(None)  # one bit for all examples
    return axis


def _output_axis(output: Tensor | None, n: int, patterns: list[tuple[int, Tensor]], batch_dim: int | None) -> int:
    if output is None or not patterns or not output.ndim:
        return 0
    found = find_axis(tuple(output.shape), n, patterns, prefer=batch_dim, merged=False)
    if isinstance(found, Axis) and found.dim is not None:
        return found.dim
    if isinstance(found, Axis) and output.shape[0] == n:
        return 0  # a constant output depends on no example at all
    why = found if isinstance(found, str) else "it has no axis of that length"
    raise ValueError(
        f"could not find the example axis of the output, of shape {tuple(output.shape)} for {n} examples: {why}. "
        "E_m[L] is a mean over examples, so the model must treat each on its own; pass batch_dim= if the examples "
        "lie along another axis of the inputs"
    )


# -- putting it together ---------------------------------------------------------------------------------------


def _site(name: str, in_eval: Trace, in_train: Trace | None, axes: dict[str, Axis | str]) -> DropoutSite:
    call = in_eval.seen[name].call
    trained = in_train.seen.get(name) if in_train is not None else None
    source = call if trained is None else trained.call
    p = source.p if trained is None or source.training else 0.0
    axis = axes[name]
    reason = call.refusal if p > 0 else None
    if p >= 1:
        reason = reason or "p = 1 drops every unit in training and scales by 1/0; use a smaller p"
    if isinstance(axis, str):
        reason = reason or f"its example axis cannot be told ({axis})"
        axis = Axis(None)
    shape = mask_shape_of_example(call.mask_shape, axis.dim, axis.outer, axis.inner)
    return DropoutSite(
        name=name,
        kind=call.kind,
        p=p,
        shape=shape,
        units=units_of(shape),
        mean_preserving=call.mean_preserving,
        controllable=reason is None,
        reason=reason,
        batch_dim=axis.dim,
        outer=axis.outer,
        inner=axis.inner,
        dependent=call.dependent,
        in_place=call.in_place,
        always_on=p > 0 and call.training and call.p > 0 and call.refusal is None and _flag_ignored(call),
    )


def _flag_ignored(call: Call) -> bool:
    """Functions with a training argument that arrives true in eval mode; attention has none, only its p."""
    return call.op in ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")


def _last_linear(
    model: nn.Module, seen: Trace, sites: tuple[DropoutSite, ...], extract: Callable[[Any], Tensor | None]
) -> LastLayer | None:
    """The site and Linear that the model ends with, by the identity of the objects that passed through.

    The same object came out of the site and went into the Linear, and what came out of that is the output, none of
    them overwritten in between (tensors count their writes). So the output is that Linear of that site: no guess.
    """
    output = extract(seen.output)
    if output is None:
        return None
    for use in seen.linears:
        same = output is use.result or (
            output.data_ptr() == use.result.data_ptr()
            and output.numel() == use.result.numel() > 0
            and output.is_contiguous()
            and use.result.is_contiguous()
            and output.shape in (use.result.shape, use.result.shape[:-1])
        )
        if not same or output._version != use.result_version or use.input.ndim != 2:
            continue
        if not any(use.weight is parameter for parameter in model.parameters()):
            continue
        for site in sites:
            past = seen.seen[site.name]
            if past.result is use.input and past.version == use.input_version:
                whole = site.kind == "dropout" and site.batch_dim == 0 and not site.merged
                fits = site.shape == (use.weight.shape[1],)
                return LastLayer(site.name, use.weight, use.bias) if whole and fits and site.controllable else None
    return None
