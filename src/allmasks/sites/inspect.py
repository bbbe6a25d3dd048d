"""Looking at a model once: its dropout sites, how examples lie in them, and what is random beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from allmasks.results import Note
from allmasks.sites.alike import identical
from allmasks.sites.axes import Probe, few_examples, find_axes, first_look
from allmasks.sites.borrow import borrowed, written_by_pass
from allmasks.sites.callable_with import check_module, refusal_of
from allmasks.sites.calls import Call
from allmasks.sites.ending import LastLayer, last_linear_of, link_of
from allmasks.sites.graphs import call_with, holds_graphs, is_graph
from allmasks.sites.joint import WHOLE, BatchDim, joint_axes, the_rows
from allmasks.sites.left_off import LeftOff, patterns_of, with_way_on
from allmasks.sites.naming import precedes
from allmasks.sites.probe import Axis, Inputs
from allmasks.sites.settings import leaves_no_trace
from allmasks.sites.site import DropoutSite, mask_shape_of_example, units_of
from allmasks.sites.trace import Trace, output_tensors, trace
from allmasks.sites.training_only import TrainingOnly, look_in_training
from allmasks.sites.unexplained import random_beyond

__all__ = ["Inspection", "find_dropout", "inspect_model"]


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
    output_batch_dim : the example axis of the extracted output, of its first tensor if it holds several.
    output_batch_dims : the same of each of its tensors; None where a further one has no example axis.
    output_link : "sigmoid", "softmax" or "log_softmax" where the extracted output comes straight from that.
    convolves_after_site : whether a convolution sees masked activations (batching masks is then slow).
    notes : what could not be looked at, and what was left off.
    rest : what the draws of woken modules give where they get no mask, see `hold_masks`.
    """

    sites: tuple[DropoutSite, ...]
    n_examples: int
    output: Any
    unaccounted: tuple[str, ...]
    last_linear: LastLayer | None
    output_batch_dim: int = 0
    output_batch_dims: tuple[int | None, ...] = (0,)
    output_link: str | None = None
    convolves_after_site: bool = False
    notes: tuple[str, ...] = ()
    rest: Mapping[str, float | None] = field(default_factory=dict)


@leaves_no_trace
def find_dropout(
    model: nn.Module,
    *args: Any,
    batch_dim: BatchDim = None,
    leave_off: str | Sequence[str] = (),
    **kwargs: Any,
) -> list[DropoutSite]:
    """List every dropout site of a model, by running it once on these inputs; the model is left untouched.

    Parameters
    ----------
    model : in train or eval mode, which makes no difference.
    args, kwargs : what the model is called with; a few examples are enough. `batch_dim` and `leave_off` are never the
        model's. A graph of PyTorch Geometric alone is given to it as its attributes, where forward's arguments are
        named so.
    batch_dim : axis of the examples in the inputs; 0 by default. "whole": examples depend on one another (nodes of a
        graph), and one mask covers the whole input; so with graphs.
    leave_off : names of sites, of what a refusal names, or of modules, with `*` and `?` as in `fnmatch`: randomness
        that is deliberately not averaged over. It stays as in eval mode and is not listed; results say so in `notes`.

    Returns
    -------
    One `DropoutSite` for each call, in order: name, kind, p, shape of one example's mask, units, whether it keeps
    the mean, and whether masks can be put in; if not, the reason.

    Raises
    ------
    ValueError : if a site's example axis cannot be told from its others, or a name in `leave_off` matches nothing.

    Example
    -------
    >>> import torch, allmasks as am
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.2), torch.nn.Linear(8, 1))
    >>> am.find_dropout(net, torch.ones(4, 3))
    [DropoutSite(name='1', kind='dropout', p=0.2, shape=(8,), units=8)]
    """
    if len(args) == 1 and not kwargs and is_graph(args[0]) and isinstance(model, nn.Module):
        args, kwargs = call_with(model, args[0])
        batch_dim = WHOLE if batch_dim is None else batch_dim
    return list(inspect_model(model, args, kwargs, batch_dim=batch_dim, leave_off=leave_off).sites)


def inspect_model(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    batch_dim: BatchDim = None,
    extract: Callable[[Any], Any] | None = None,
    leave_off: str | Sequence[str] = (),
    strict: bool = True,
) -> Inspection:
    """Everything `Inspection` says, from a handful of forward passes.

    Parameters
    ----------
    extract : output -> what matters of it, a tensor or anything that holds some; its first tensor by default.
    strict : whether each name in `leave_off` must match something.
    """
    check_module(model)
    batch_dim = WHOLE if holds_graphs((args, kwargs)) and batch_dim is None else batch_dim
    given = _inputs(args, kwargs, batch_dim)
    extract = extract or (lambda output: next(iter(output_tensors(output)), None))
    notes: list[str] = []
    left = LeftOff(patterns_of(leave_off))
    with torch.no_grad(), borrowed(model):
        plain, probe = _first_pass(model, given, batch_dim)
        written = written_by_pass(model)
        # What follows needs no more examples than tell axes apart, where those show all that these do.
        few = given
        if probe is None and batch_dim != WHOLE:
            few, probe = few_examples(model, given, plain)
        base = plain if probe is None else probe.clean
        in_train = _train_pass(model, few, notes)
        training = TrainingOnly()
        if in_train is not None:
            look_in_training(model, few, base, in_train, training, left)
            if any(not found.mean_preserving for found in training.thresholds.values()):
                # A layer that this pass happened to skip has not shown what it draws.
                in_train = trace(model, few, train=True, wake=training.awake, constants=training.nothing_dropped)
                look_in_training(model, few, base, in_train, training, left)
        awake: dict[str, Any] = {"wake": training.awake, "constants": training.nothing_dropped}
        in_eval = trace(model, few, train=False, **awake) if training.awake else base
        if batch_dim == WHOLE:
            axes, out_dims = joint_axes(in_eval, extract)
            given = replace(given, n=the_rows(output_tensors(extract(plain.output))))
        else:
            assert not isinstance(batch_dim, str)
            axes, out_dims = find_axes(
                model, given, in_eval, extract, batch_dim, awake, None if training.awake else probe
            )
        sites = tuple(_site(name, in_eval, in_train, axes, base, training) for name in in_eval.seen)
        if batch_dim == WHOLE:
            sites = tuple(replace(site, joint=True) for site in sites)
        if in_train is not None and not (training.refused or plain.draws or plain.moved or in_train.is_like(base)):
            tipping = {name: found.at for name, found in training.thresholds.items()}
            beside = random_beyond(model, few, sites, tipping, training.awake, notes, left)
            training.refused += [] if beside is None or left.takes(beside.name) else [beside]
        _drop_heads(model, few, extract, base, in_train, training, notes)
        sites = tuple(site for site in sites if not left.takes(site.name, random=site.p != 0))
        last_linear = last_linear_of(model, few, in_eval, sites, extract, training.awake, written)
    sites = tuple(
        replace(site, after=precedes(model, site.name)) for site in sites if site.kind != "attention" or site.p > 0
    )
    if strict:
        draws = (draw.name for draw in (() if in_train is None else (*in_train.draws, *in_train.hosts)))
        left.check(model, (*(site.name for site in sites), *draws))
    notes += left.notes()
    notes += [
        Note(
            "{site} drops units in eval mode too; here eval mode means that it is held at its mean mask.",
            site=site.name,
        )
        for site in sites
        if site.always_on
    ]
    return Inspection(
        sites=tuple(map(with_way_on, (*sites, *training.refused))),
        n_examples=given.n,
        output=plain.output,
        unaccounted=tuple(dict.fromkeys(map(str, plain.draws))) + tuple(f"it draws from {m}" for m in plain.moved),
        last_linear=last_linear,
        output_batch_dim=(out_dims[0] or 0) if out_dims else 0,
        output_batch_dims=out_dims,
        output_link=link_of(in_eval, extract),
        convolves_after_site=in_eval.convolves_after_site,
        notes=tuple(notes),
        rest=training.rest,
    )


def _inputs(args: tuple[Any, ...], kwargs: dict[str, Any], batch_dim: BatchDim) -> Inputs:
    if isinstance(batch_dim, str):
        if batch_dim != WHOLE:
            raise ValueError(f'batch_dim must be an axis or "whole", got {batch_dim!r}')
        return Inputs(args, kwargs, 0, 0)
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


def _first_pass(model: nn.Module, given: Inputs, batch_dim: BatchDim) -> tuple[Trace, Probe | None]:
    """The model as it was given; where it cannot be called so, what it can be called with."""
    try:
        return (trace(model, given, train=False), None) if batch_dim == WHOLE else first_look(model, given)
    except (TypeError, RuntimeError) as problem:
        told = refusal_of(model, given.args, given.kwargs)
        if told is None:
            raise
        raise TypeError(told) from problem


def _train_pass(model: nn.Module, given: Inputs, notes: list[str]) -> Trace | None:
    """The same pass with training flags set: drop rates that are passed as 0 in eval mode show themselves."""
    try:
        with borrowed(model):
            return trace(model, given, train=True)
    except Exception as error:
        notes.append(
            Note(
                "The model could not be run in training mode on these inputs ({error}), so dropout that only acts "
                "there was not looked for.",
                error=f"{type(error).__name__}: {error}",
            )
        )
        return None


def _drop_heads(
    model: nn.Module,
    given: Inputs,
    extract: Callable[[Any], Any],
    plain: Trace,
    in_train: Trace | None,
    training: TrainingOnly,
    notes: list[str],
) -> None:
    """Take dropout off the refused that reaches nothing but heads which training mode adds, and say so."""
    names = [site.name for site in training.refused if in_train is not None and site.name in in_train.seen]
    if not names or in_train is None:
        return

    def dropped(call: Call) -> Tensor | None:
        return torch.zeros(call.mask_shape, dtype=torch.bool) if call.name in names else None

    try:
        rates = {name: in_train.seen[name].call.p for name in names}
        other = trace(model, given, train=True, wake=training.awake, answer=dropped, rates=rates)
        wanted = len(output_tensors(extract(plain.output)))
        before, after = (output_tensors(extract(seen.output))[:wanted] for seen in (in_train, other))
    except Exception:  # what is refused stays so
        return
    if in_train.draws or in_train.hosts or not identical(before, after):
        return
    training.refused = [site for site in training.refused if site.name not in names]
    notes.append(
        Note(
            "{sites} acts in parts that only training mode has, which the output in eval mode does not hang on.",
            sites=", ".join(names),
        )
    )


# -- putting it together ---------------------------------------------------------------------------------------


def _site(
    name: str,
    in_eval: Trace,
    in_train: Trace | None,
    axes: dict[str, Axis | str],
    plain: Trace,
    training: TrainingOnly,
) -> DropoutSite:
    call = in_eval.seen[name].call
    trained = in_train.seen.get(name) if in_train is not None else None
    source = call if trained is None else trained.call
    p = source.p if trained is None or source.training else 0.0
    tipping = training.thresholds.get(name)
    if tipping is not None:
        p = round(1.0 - tipping.at, 15) if tipping.low_keeps else tipping.at
    axis = axes[name]
    reason = call.refusal if p > 0 or math.isnan(p) else None
    if p >= 1:
        reason = reason or "p = 1 drops every unit in training and scales by 1/0; use a smaller p"
    if isinstance(axis, str):
        reason = reason or f"its example axis cannot be told ({axis})"
        axis = Axis(None)
    shape = mask_shape_of_example(call.mask_shape, axis.dim, axis.outer, axis.inner)
    asleep = name not in plain.seen
    return DropoutSite(
        name=name,
        kind=call.kind,
        p=p,
        shape=shape,
        units=units_of(shape),
        mean_preserving=call.mean_preserving and (tipping is None or tipping.mean_preserving),
        controllable=reason is None,
        reason=reason,
        batch_dim=axis.dim,
        outer=axis.outer,
        inner=axis.inner,
        dependent=call.dependent,
        in_place=call.in_place,
        always_on=not asleep and p > 0 and _drops_in_eval(plain.seen[name].call),
        wakes=training.who(name) if asleep else None,
        low_keeps=tipping is not None and tipping.low_keeps,
    )


def _drops_in_eval(call: Call) -> bool:
    """Functions with a training argument that arrives true in eval mode; attention has none, only its p."""
    functions = ("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout")
    return call.training and call.p > 0 and call.refusal is None and call.op in functions
