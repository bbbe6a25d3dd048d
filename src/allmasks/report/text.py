"""The report's words in its languages, and numbers written with the digits that their error allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from allmasks.language import N_, Translate
from allmasks.results import GUARANTEES, Guarantee, Note, with_error

if TYPE_CHECKING:
    from allmasks.methods import Method
    from allmasks.sites import DropoutSite

__all__ = [
    "clean",
    "glossary",
    "guarantee_words",
    "meanings",
    "method_words",
    "number",
    "plus_minus",
    "said",
    "site_label",
]

_UNITS = (N_("nats"), N_("target units squared"), N_("loss"))


def guarantee_words(guarantee: Guarantee, _: Translate) -> str:
    """A guarantee and what its error means: "exact (round-off bound)"."""
    return f"{_(guarantee)} ({_(GUARANTEES[guarantee])})"


def method_words(method: Method) -> str:
    """A method with those of its settings that were set.

    >>> from allmasks.methods import MonteCarlo
    >>> method_words(MonteCarlo(n_masks=64))
    'MonteCarlo(n_masks=64, sampler=LatinHypercube())'
    """
    values = {field.name: getattr(method, field.name) for field in fields(method)}
    shown = ", ".join(f"{name}={value!r}" for name, value in values.items() if value is not None)
    return clean(f"{method.name}({shown})" if shown else method.name)


def glossary(_: Translate) -> list[tuple[str, str]]:
    """The report's terms, each with its meaning."""
    return [
        (
            _("expected loss, E_m[L]"),
            _(
                "The loss averaged over all dropout masks m, each with its probability. This, and not the loss in eval "
                "mode, is what training with dropout minimizes."
            ),
        ),
        (
            _("weight scaling"),
            _(
                "What a model does in eval mode: no unit is dropped, and the scale is that of the mean. One pass in "
                "place of the average over all masks; for a nonlinear model the two differ."
            ),
        ),
        (
            _("penalty"),
            _(
                "Expected loss minus weight-scaling loss: what dropout adds, and with it how strongly it regularizes. "
                "It can be negative, for instance where the model is confident and wrong."
            ),
        ),
        (
            _("alone, saved, interaction"),
            _(
                "Alone: the penalty with one site random and the others off. Saved: how much the expected loss falls "
                "when one site is switched off and the others stay random. Interaction: the penalty minus the sum of "
                "all alone."
            ),
        ),
        (
            _("guarantee"),
            _(
                "What the number after ± means. Exact: a bound on round-off. Bounded: a proven bound. Estimated: a "
                "numerical estimate without a proof. Statistical: one Monte Carlo standard error; the true value lies "
                "within two of them about 95 times in 100. Uncontrolled: an approximation, error unknown."
            ),
        ),
        (_("p"), _("The probability that a unit is set to zero.")),
    ]


TERMS: dict[str, str] = {
    "second order": N_(
        "Second order: half the variance that its mask gives a unit, times the loss's curvature there; what the "
        "penalty would be if the loss were quadratic."
    ),
    "ablation interaction": N_(
        "Interaction: what removing two units together costs beyond the sum of removing each alone; below 0 where it "
        "costs less."
    ),
    "effective rank": N_("Effective rank: how many directions the activations use, of as many as there are units."),
    "Shapley value": N_("Shapley value: a unit's fair share of what all units together take off the loss."),
    "Gini": N_("Gini: 0 where all units matter alike, near 1 where one unit carries everything."),
    "dead": N_("Dead units: 0 in every example."),
    "agreement": N_(
        "Second order agrees: how close the penalty's quadratic approximation is to the penalty itself, 100 % if equal."
    ),
    "co-adaptation": N_(
        "Co-adaptation: mean size of the interaction of two removed units, divided by the mean size of removing one."
    ),
    "kept at half": N_("Kept at half: accuracy left when a random half of the units is removed."),
}
"""What is said under a chart or table that uses the word."""


def meanings(terms: Sequence[str], _: Translate) -> str:
    """What these terms mean, in one line."""
    return " ".join(_(TERMS[term]) for term in terms)


def site_label(site: DropoutSite, _: Translate, *, units: bool = True) -> str:
    """A site's name, and, where that is only a number in a list of modules, what the site follows and how wide it is.

    Parameters
    ----------
    units : whether to say how wide it is.
    """
    name = clean(site.name)
    after = site.after
    if after is None and not path_ends_in_number(name):
        return name
    told = [_("{n} units").format(n=f"{site.units:,}")] if units else []
    if after is not None:
        told.insert(0, _("after {module}").format(module=clean(after)) if after else _("input"))
    elif not told:
        told = [clean(site.kind)]
    return f"{name} ({', '.join(told)})"


def path_ends_in_number(name: str) -> bool:
    """Whether a module's name says nothing of it.

    >>> path_ends_in_number("layers.3"), path_ends_in_number("encoder.dropout#2")
    (True, False)
    """
    return name.partition("#")[0].partition(":")[0].rpartition(".")[2].isdecimal()


def said(note: str, _: Translate) -> str:
    """A note in the report's language; a sentence that is no `Note` stays as it is."""
    return clean(note.said(_) if isinstance(note, Note) else note)


def clean(name: Any) -> str:
    """A name without control characters, which could move the cursor or end a line.

    >>> clean("a" + chr(27) + "[31m")
    'a\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def number(value: float, digits: int = 5) -> str:
    """A number alone, to so many significant digits.

    >>> number(0.23141592), number(123456.7, 4)
    ('0.23142', '1.235e+05')
    """
    value = float(value)
    return "–" if math.isnan(value) else f"{value + 0.0:.{digits}g}"


def plus_minus(value: float, error: float, _: Translate, most: int = 8) -> str:
    """`value ± error` with at most so many digits; an error that is not known is said so in the report's language."""
    return with_error(float(value), float(error), most=most, unknown=_("unknown"))
