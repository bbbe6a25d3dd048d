"""Where the examples lie in each site's mask and in the output: a few probes with one example poisoned in turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from allmasks.errors import with_way_on
from allmasks.sites.calls import Call
from allmasks.sites.draws import DRAWN
from allmasks.sites.probe import Axis, Inputs, find_axis, poison_lookup
from allmasks.sites.trace import Trace, output_tensors, trace

__all__ = ["Probe", "few_examples", "find_axes", "first_look"]

Kept = dict[str, tuple[tuple[int, ...], Tensor, int]]
"""Calls by name: mask shape, a copy of the input, and how many last axes the input says nothing about."""

Awake = dict[str, Any]
"""Keywords of `trace`: which modules have their training flag set, and what they draw where nothing is dropped."""

_PROBED_EXAMPLES = 3
"""Examples in a probe: enough to tell the first, the second and the rest apart; few, to be quick."""


def find_axes(
    model: nn.Module,
    given: Inputs,
    in_eval: Trace,
    extract: Callable[[Any], Any],
    batch_dim: int | None,
    awake: Awake,
    probe: Probe | None = None,
) -> tuple[dict[str, Axis | str], tuple[int | None, ...]]:
    """The example axis of each site, and of each tensor of the output; `probe`: a clean one that has been made."""
    probe = probe or _clean_probe(model, given, awake)
    if not (in_eval.draws or in_eval.moved):
        together = _evidence(model, given, probe, extract, awake, together=True)
        if together is not None:
            try:
                found = _concluded(model, given, in_eval, probe, together, batch_dim, awake)
            except ValueError:  # what one pass cannot tell, two may
                found = None
            if found is not None and not any(isinstance(axis, str) for axis in found[0].values()):
                return found
    if probe.n < _PROBED_EXAMPLES:
        probe = _clean_probe(model, given, awake)
    apart = _evidence(model, given, probe, extract, awake, noisy=bool(in_eval.draws or in_eval.moved))
    assert apart is not None
    return _concluded(model, given, in_eval, probe, apart, batch_dim, awake)


class Probe(NamedTuple):
    """A pass with few examples: what happened, its calls, and how many examples it had."""

    clean: Trace
    kept: Kept
    n: int


class _Evidence(NamedTuple):
    """Where poison arrived: by site, and in each tensor of the output, which are beside it as they are without."""

    clean: list[Tensor]
    patterns: dict[str, list[tuple[int, Tensor]]]
    outputs: list[list[tuple[int, Tensor]]]


def first_look(model: nn.Module, given: Inputs) -> tuple[Trace, Probe | None]:
    """The first pass, of the model as it was given; a probe at the same time where the examples are few."""
    if not 1 < given.n <= _PROBED_EXAMPLES:
        return trace(model, given, train=False), None
    kept = Kept()
    plain = trace(model, given, train=False, keep=_keeper(kept))
    return plain, Probe(plain, kept, given.n)


def few_examples(model: nn.Module, given: Inputs, plain: Trace) -> tuple[Inputs, Probe | None]:
    """Inputs of as many examples as tell axes apart, and a pass with them, where it shows all that `plain` does.

    Data-dependent paths, such as experts that see some tokens only, may not be taken by few examples: then all are.
    """
    few, kept = given.resized(_PROBED_EXAMPLES), Kept()
    try:
        clean = trace(model, few, train=False, keep=_keeper(kept))
    except Exception:  # a model that insists on its batch size
        return given, None
    same = clean.seen.keys() == plain.seen.keys() and (clean.draws, clean.hosts) == (plain.draws, plain.hosts)
    return (few, Probe(clean, kept, few.n)) if same else (given, None)


def _evidence(
    model: nn.Module,
    given: Inputs,
    probe: Probe,
    extract: Callable[[Any], Any],
    awake: Awake,
    *,
    together: bool = False,
    noisy: bool = False,
) -> _Evidence | None:
    """Two examples poisoned in turn; `together`: in one pass, the first by NaN and the second by other numbers.

    None where one pass does not show both: numbers other than floats, or poison that fades.
    """
    base = given.resized(probe.n)
    before = output_tensors(extract(probe.clean.output))
    found = _Evidence(before, {}, [[] for _ in before])
    for examples in [(0, 1)] if together else [(0,), (1,)]:
        try:
            seen, calls = _poisoned_probe(model, base, examples, awake)
        except ValueError:
            if together:
                return None
            raise
        after = output_tensors(extract(seen.output))
        # How many tensors there are may depend on the inputs; what is not always there is not looked at.
        pairs: list[tuple[Tensor, Tensor, Any]] = [
            (probe.kept[name][1], tensor, name) for name, (_, tensor, _) in calls.items() if name in probe.kept
        ]
        pairs += [(clean, poisoned, k) for k, (clean, poisoned) in enumerate(zip(before, after, strict=False))]
        for clean, poisoned, into in pairs:
            if clean.shape != poisoned.shape:
                continue
            if together and not clean.is_floating_point():
                return None
            there = _patterns(clean, poisoned, examples, noisy)
            if together and len({bool(pattern.any()) for _, pattern in there}) > 1:
                return None
            (found.outputs[into] if isinstance(into, int) else found.patterns.setdefault(into, [])).extend(there)
    return found


def _patterns(clean: Tensor, poisoned: Tensor, examples: tuple[int, ...], noisy: bool) -> list[tuple[int, Tensor]]:
    if len(examples) == 1:
        return [(examples[0], _pattern(clean, poisoned, noisy))]
    nan = torch.isnan(poisoned) & ~torch.isnan(clean)
    return [(examples[0], nan), (examples[1], _pattern(clean, poisoned, noisy) & ~nan)]


def _concluded(
    model: nn.Module,
    given: Inputs,
    in_eval: Trace,
    probe: Probe,
    evidence: _Evidence,
    batch_dim: int | None,
    awake: Awake,
) -> tuple[dict[str, Axis | str], tuple[int | None, ...]]:
    """The axes that this evidence speaks for."""
    kept, n, (clean_outputs, patterns, outputs) = probe.kept, probe.n, evidence
    axes: dict[str, Axis | str] = {}
    drawn = [name for name, seen in in_eval.seen.items() if seen.call.kind in DRAWN]
    if drawn:
        try:
            axes |= _axes_of_draws(model, given, drawn, awake)
        except Exception:  # a model that insists on its batch size
            axes |= _axes_of_that_length(in_eval, given.n, drawn)
    for name in in_eval.seen:
        if name in axes:
            continue
        if name not in patterns:
            axes[name] = "it is called for some inputs only"
            continue
        axes[name] = _axis_of_call(kept[name], n, patterns[name], given.dim if batch_dim is not None else None)
    axes |= _axes_of_constants(model, given, [name for name, axis in axes.items() if axis == Axis(None)], awake)
    first = next((i for i, output in enumerate(clean_outputs) if output.ndim), 0)
    return axes, tuple(
        _output_axis(output, n, found, batch_dim, needed=i == first)
        for i, (output, found) in enumerate(zip(clean_outputs, outputs, strict=True))
    )


def _keeper(kept: Kept) -> Callable[[Call], None]:
    def keep(call: Call) -> None:
        kept[call.name] = (call.mask_shape, call.input.detach().clone(), call.tail)

    return keep


def _axes_of_draws(model: nn.Module, given: Inputs, names: list[str], awake: Awake) -> dict[str, Axis | str]:
    """The axis of a tensor that is drawn from nothing: the one that grows with the number of examples."""
    sizes = (_PROBED_EXAMPLES, _PROBED_EXAMPLES + 2)
    shapes: list[dict[str, tuple[int, ...]]] = []
    for n in sizes:
        seen = trace(model, given.resized(n), train=False, **awake).seen
        shapes.append({name: seen[name].call.mask_shape for name in names if name in seen})
    axes: dict[str, Axis | str] = {}
    for name in names:
        if any(name not in found or len(found[name]) != len(shapes[0].get(name, ())) for found in shapes):
            axes[name] = "it is called for some inputs only"
            continue
        small, large = shapes[0][name], shapes[1][name]
        grows = [d for d, (a, b) in enumerate(zip(small, large, strict=True)) if a != b]
        if not grows:
            axes[name] = Axis(None)
        elif len(grows) == 1 and (small[grows[0]], large[grows[0]]) == sizes:
            axes[name] = Axis(grows[0])
        else:
            axes[name] = "no one axis of what it draws counts the examples"
    return axes


def _axes_of_that_length(in_eval: Trace, n: int, names: list[str]) -> dict[str, Axis | str]:
    """The axis of what is drawn, where only one number of examples can be tried: the one of that length."""
    axes: dict[str, Axis | str] = {}
    for name in names:
        fits = [d for d, length in enumerate(in_eval.seen[name].call.mask_shape) if length == n]
        axes[name] = Axis(fits[0]) if len(fits) == 1 else Axis(None)
        if len(fits) > 1 and n > 1:
            axes[name] = f"axes {', '.join(map(str, fits))} of what it draws all look like it"
    return axes


def _axes_of_constants(model: nn.Module, given: Inputs, names: list[str], awake: Awake) -> dict[str, Axis | str]:
    """Sites whose input hangs on no example, `dropout(ones_like(x))`: each example's own mask if the shape grows."""
    try:
        return _axes_of_draws(model, given, names, awake) if names else {}
    except Exception:  # a model that insists on its batch size; at that size one mask for all is no less true
        return {}


def _clean_probe(model: nn.Module, given: Inputs, awake: Awake) -> Probe:
    """A pass with few examples. Models that insist on their batch size are probed with the examples they have."""
    for n in dict.fromkeys((_PROBED_EXAMPLES, given.n)):
        kept: Kept = {}
        try:
            return Probe(trace(model, given.resized(n), train=False, keep=_keeper(kept), **awake), kept, n)
        except Exception:
            if n == given.n:
                raise
            if given.n < 2:
                raise ValueError(
                    "one example is not enough to tell its axis, and the model cannot be run on more; pass at least 2"
                ) from None
    raise AssertionError("unreachable")


def _poisoned_probe(model: nn.Module, base: Inputs, examples: tuple[int, ...], awake: Awake) -> tuple[Trace, Kept]:
    """A pass with the first of these made NaN, and the second, if there is one, plainly different."""
    example = examples[0]
    error: Exception | None = None
    for with_nan in (True, False):
        kept: Kept = {}
        bad = base
        # Integers become those of the next example: of two, the second goes first, lest it get its own again.
        for each in examples if base.n > len(examples) else examples[::-1]:
            bad = bad.poisoned(each, with_nan=with_nan and each == example)
        watch = poison_lookup(bad, example) if with_nan else None
        try:
            return trace(model, bad, train=False, keep=_keeper(kept), watch=watch, **awake), kept
        except Exception as caught:  # a model may check its inputs for NaN, or index with what it computes
            error = caught
    raise ValueError(
        with_way_on(
            "could not find out which axis is the example's: the model fails when one example is changed "
            f'({type(error).__name__}: {error}); if examples depend on one another, pass batch_dim="whole"'
        )
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


def _output_axis(
    output: Tensor, n: int, patterns: list[tuple[int, Tensor]], batch_dim: int | None, *, needed: bool
) -> int | None:
    if not patterns or not output.ndim:
        return 0 if needed else None
    found = find_axis(tuple(output.shape), n, patterns, prefer=batch_dim, merged=False)
    if isinstance(found, Axis) and found.dim is not None:
        return found.dim
    if isinstance(found, Axis) and output.shape[0] == n:
        return 0  # a constant output depends on no example at all
    if not needed:
        return None
    why = found if isinstance(found, str) else "it has no axis of that length"
    refusal = (
        f"could not find the example axis of the output, of shape {tuple(output.shape)} for {n} examples: {why}. "
        "E_m[L] is a mean over examples, so the model must treat each on its own; pass batch_dim= if the examples "
        'lie along another axis of the inputs, or batch_dim="whole" if they depend on one another (nodes of a graph, a '
        "contrastive loss, statistics of the batch): then masks are drawn for the whole input at once"
    )
    raise ValueError(with_way_on(refusal))
