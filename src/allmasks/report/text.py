"""The report's words in its languages, and numbers written with the digits that their error allows."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from allmasks.language import N_, Translate, translator
from allmasks.results import Note

if TYPE_CHECKING:
    from allmasks.diagnose import Audit
    from allmasks.methods import Method

__all__ = [
    "clean",
    "explanation",
    "glossary",
    "guarantee_words",
    "method_words",
    "number",
    "said",
    "with_error",
]

# The same words as `allmasks.results.GUARANTEES`; a test keeps them equal.
_GUARANTEE_WORDS = {
    "exact": N_("round-off bound"),
    "bounded": N_("proven bound"),
    "estimated": N_("numerical estimate, not proven"),
    "statistical": N_("Monte Carlo standard error"),
    "uncontrolled": N_("approximation with unknown error"),
}
_UNITS = (N_("nats"), N_("target units squared"), N_("loss"))
_GUARANTEE_NAMES = (N_("exact"), N_("bounded"), N_("estimated"), N_("statistical"), N_("uncontrolled"))


def guarantee_words(guarantee: str, _: Translate) -> str:
    """A guarantee and what its error means: "exact (round-off bound)"."""
    return f"{_(guarantee)} ({_(_GUARANTEE_WORDS[guarantee])})"


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


def explanation(audit: Audit, lang: str) -> str:
    """Train-mode loss against eval-mode loss in one sentence."""
    if lang == "en":
        return audit.explanation
    _ = translator(lang)
    if not audit.per_site:
        return _("No mask varies, so the loss in train mode and in eval mode is the same.")
    train = with_error(audit.train_mode_loss, audit.train_mode_error)
    penalty = audit.train_mode_loss - audit.eval_mode_loss
    if penalty >= 0:
        message = _(
            "On the very same examples this model loses {train} in train mode (the mean over masks) and {eval} in "
            "eval mode: a training loss {gap} above the validation loss is what dropout costs, not a sign that "
            "validation data are easier."
        )
    else:
        message = _(
            "On the very same examples this model loses {train} in train mode (the mean over masks) and {eval} in "
            "eval mode: here the masks lower the loss by {gap}, which happens where the model is confident and wrong."
        )
    return message.format(train=train, eval=number(audit.eval_mode_loss, 4), gap=number(abs(penalty), 2))


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


def with_error(value: float, error: float, *, unknown: str = "?") -> str:
    """`value ± error`, the value cut where its error begins.

    The error keeps one significant digit, or two where the first is a 1; a value known to more than eight digits
    is shown with eight. An unknown (NaN) error is written as `unknown`.

    >>> with_error(0.23138, 0.00061), with_error(18, 2e-15), with_error(1.2e-7, 3e-8)
    ('0.2314 ± 0.0006', '18 ± 2e-15', '(1.2 ± 0.3)e-7')
    """
    value, error = float(value), float(error)
    if math.isnan(value):
        return "–"
    if math.isnan(error):
        return f"{value:.5g} ± {unknown}"
    if not (math.isfinite(value) and math.isfinite(error)):
        return f"{value:g} ± {error:g}"
    if error == 0 or error < 1e-8 * abs(value):
        return f"{value + 0.0:.8g} ± {_short(error)}"
    # The exponent after rounding: 0.0096 shows as 0.010, one place further left.
    place = math.floor(math.log10(float(f"{error:.0e}")))
    if f"{error:.1e}".startswith("1"):
        place = math.floor(math.log10(float(f"{error:.1e}"))) - 1
    top = math.floor(math.log10(max(abs(value), error)))
    if -4 <= top < 7 and place < 1 and place > -9:
        # Zeros are hard to count: a small error is easier to read with its exponent.
        shown = _fixed(error, -place) if error >= 1e-5 else _short(error, two=f"{error:.1e}".startswith("1"))
        return f"{_fixed(value, -place)} ± {shown}"
    decimals = max(top - place, 0)
    return f"({_fixed(value / 10.0**top, decimals)} ± {_fixed(error / 10.0**top, decimals)})e{top}"


def _fixed(value: float, decimals: int) -> str:
    # Adding zero turns -0.0 into 0.0.
    return f"{round(value, decimals) + 0.0:.{decimals}f}"


def _short(error: float, *, two: bool = False) -> str:
    if error == 0:
        return "0"
    mantissa, exponent = f"{error:.{int(two)}e}".split("e")
    return f"{mantissa}e{int(exponent)}"
