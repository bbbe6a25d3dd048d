"""What comes back: every number with its error, and what kind of error it is."""

from __future__ import annotations

import html
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from allmasks.language import N_
from allmasks.replicates import check_level, half_width

if TYPE_CHECKING:
    from allmasks.methods import Method

__all__ = [
    "GUARANTEES",
    "ExpectedLoss",
    "Guarantee",
    "Note",
    "Reported",
    "Result",
    "ScoreMoments",
    "data_frame",
    "how_computed",
    "plain_numbers",
    "weakest",
    "with_error",
]

Guarantee = Literal["exact", "bounded", "estimated", "statistical", "uncontrolled"]

GUARANTEES: dict[Guarantee, str] = {
    N_("exact"): N_("round-off bound"),
    N_("bounded"): N_("proven bound"),
    N_("estimated"): N_("numerical estimate, not proven"),
    N_("statistical"): N_("Monte Carlo standard error"),
    N_("uncontrolled"): N_("approximation with unknown error"),
}
"""What `error` means under each guarantee, strongest first."""


def weakest(*guarantees: Guarantee) -> Guarantee:
    """The weakest of several guarantees: what a sum of such numbers can claim.

    >>> weakest("exact", "statistical")
    'statistical'
    """
    order = list(GUARANTEES)
    return max(guarantees, key=order.index)


class Note(str):
    """A sentence that a reader should know: a string that also knows its template, which a report translates whole.

    Parameters
    ----------
    template : the sentence with its fields in braces, a message of the report's catalogs.
    fields : what stands in them; notes among them are translated too.

    >>> note = Note("{site} was not measured: {why}.", site="drop", why=Note("it has a single unit"))
    >>> note
    'drop was not measured: it has a single unit.'
    >>> german = {"{site} was not measured: {why}.": "{site}: {why}.", "it has a single unit": "nur eine Einheit"}
    >>> note.said(german.get)
    'drop: nur eine Einheit.'
    """

    template: str
    fields: dict[str, Any]

    def __new__(cls, template: str, /, **fields: Any) -> Note:
        note = super().__new__(cls, template.format(**fields))
        note.template, note.fields = template, fields
        return note

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (self.template,), self.fields

    def said(self, translate: Callable[[str], str]) -> str:
        """The sentence in another language, of which `translate` knows the templates."""
        told = {k: v.said(translate) if isinstance(v, Note) else v for k, v in self.fields.items()}
        return translate(self.template).format(**told)


def _number(value: Any) -> float:
    """A scalar as float, also where it is a tensor that carries gradients."""
    return float(value.detach() if hasattr(value, "detach") else value)


def with_error(value: float, error: float, *, most: int = 10, unknown: str = "unknown") -> str:
    """A value to as many digits as two of its error deserve, `most` at most, and the error.

    `unknown` is said of an error that is nan.

    >>> with_error(1.10812380, 0.00034), with_error(18.0, 3e-15), with_error(0.25, float("nan"))
    ('1.10812 ± 0.00034', '18 ± 3e-15', '0.25 ± unknown')
    >>> with_error(12345.6, 421), with_error(1.2345e-7, 3e-8)
    ('12350 ± 420', '(1.23 ± 0.30)e-7')
    """
    if math.isnan(value):
        return "–"
    if math.isnan(error):
        return f"{value:.6g} ± {unknown}"
    if not (error > 10.0 ** -(most + 1) * abs(value) and math.isfinite(error)):
        return f"{value + 0.0:.{most}g} ± {error:.2g}"
    top = math.floor(math.log10(max(abs(value), error)))
    decimals = 1 - math.floor(math.log10(error))
    if top < -4 or top > 6:
        scaled = (f"{_rounded(x / 10.0**top, decimals + top)}" for x in (value, error))
        return f"({' ± '.join(scaled)})e{top}"
    # Zeros are hard to count: a small error is easier to read with its exponent.
    return f"{_rounded(value, decimals)} ± {_rounded(error, decimals) if error >= 1e-4 else f'{error:.1e}'}"


def _rounded(value: float, decimals: int) -> str:
    # Adding zero turns -0.0 into 0.0.
    return f"{round(value, decimals) + 0.0:.{max(decimals, 0)}f}"


def how_computed(guarantee: Guarantee, method: Method, n_masks: int) -> list[tuple[str, str]]:
    """Two rows: what the error means, and what computed it."""
    masks = f", {n_masks} masks" if n_masks else ""
    return [("guarantee", f"{guarantee} ({GUARANTEES[guarantee]})"), ("method", f"{method!r}{masks}")]


def data_frame(columns: Mapping[str, Any]) -> Any:
    """A pandas DataFrame of one row an example; several outputs (n, k) become columns name[0], name[1], ….

    Raises
    ------
    ImportError : pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise ImportError("to_frame needs pandas: pip install 'allmasks[data]'") from None
    held: dict[str, Any] = {}
    for name, value in columns.items():
        if value is None:
            continue
        array = np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
        if array.ndim == 1:
            held[name] = array
            continue
        for at in np.ndindex(array.shape[1:]):
            held[f"{name}[{', '.join(map(str, at))}]"] = array[(slice(None), *at)]
    return pd.DataFrame(held)


def plain_numbers(value: Any) -> Any:
    """A result, tensor, array or scalar as JSON-ready numbers and strings; NaN and infinities become None."""
    if isinstance(value, str):
        return str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if is_dataclass(value):
        left_out = getattr(value, "_left_out", ())
        return {f.name: _plain_field(f.name, getattr(value, f.name)) for f in fields(value) if f.name not in left_out}
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    if isinstance(value, dict):
        return {k: plain_numbers(v) for k, v in value.items()}
    if isinstance(value, tuple | list) or (isinstance(value, np.ndarray) and value.ndim):
        return [plain_numbers(v) for v in value]
    number = float(value)
    return number if math.isfinite(number) else None


def _plain_field(name: str, value: Any) -> Any:
    # Of a method its repr is all that is known here.
    return repr(value) if name == "method" and is_dataclass(value) else plain_numbers(value)


class Result:
    """Base of every result, a frozen dataclass: what it holds in plain numbers, and how it shows itself.

    A class whose repr is to be read, and not that of a dataclass, gives `_rows()`, and a `_title()` where its name says
    too little.
    """

    _left_out: ClassVar[tuple[str, ...]] = ()
    """Fields that `to_dict` does not hold."""

    def to_dict(self) -> dict[str, Any]:
        """Every field in plain numbers and strings, ready for json.dump; NaN becomes None."""
        plain: dict[str, Any] = plain_numbers(self)
        return plain

    def _title(self) -> str:
        return type(self).__name__

    def _rows(self) -> list[tuple[str, str]]:
        """What there is to read beside `notes`: names and texts."""
        return []

    def _all_rows(self) -> list[tuple[str, str]]:
        notes: tuple[str, ...] = getattr(self, "notes", ())
        return [*self._rows(), *(("note", note) for note in notes)]

    def __repr__(self) -> str:
        rows = self._all_rows()
        width = max((len(name) for name, _ in rows), default=0)
        return "\n".join([self._title(), *(f"  {name:<{width}}  {text}" for name, text in rows)])

    def _repr_html_(self) -> str | None:
        if not self._rows():
            return None
        title = self._title()
        caption = "" if title == type(self).__name__ else f"<caption>{html.escape(title)}</caption>"
        body = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
            for name, text in self._all_rows()
        )
        return f"<table>{caption}{body}</table>"


class Reported(Result):
    """A result with a page in `allmasks.report`: a room below that knows results, and is loaded here by its name."""

    def to_html(self, path: str | Path, lang: str = "en") -> Path:
        """Write one self-contained HTML report ("en" or "ko") that opens offline."""
        written: Path = importlib.import_module(_REPORT).write(self, path, lang=lang)
        return written

    def __repr__(self) -> str:
        return str(importlib.import_module(_REPORT).render_text(self))


_REPORT = "allmasks.report"


@dataclass(frozen=True, repr=False)
class ExpectedLoss(Result):
    """E_m[L], the mean of a loss over all dropout masks, with its error.

    Attributes
    ----------
    value, error : the (weighted) mean over examples, and its error in the sense of `guarantee`.
    guarantee : "exact" (round-off bound), "bounded" (proven bound), "estimated" (a numerical estimate without
        a proof), "statistical" (standard error over masks) or "uncontrolled" (error is nan).
    method : the method that was used, a value of `am.methods`.
    n_masks : masks an example (all of them under enumeration; 0 where none is drawn).
    per_example, per_example_error : (n,) the same for each example.
    weight_scaling_loss : what the model loses in eval mode (scores: the loss at the mean mask).
    penalty, penalty_error : value - weight_scaling_loss, and its error.
    replicates : (r,) value of each independent block of masks, where the error is statistical; else None.
        Two results from the same seed and number of masks can be compared block by block.
    replicate_masks : (r,) masks in each of those blocks, the last may be a shorter one; `value` is the mean of
        `replicates` with these weights.
    reliable : False where the error of `value` is not to be trusted: under sampling, where the masks drawn cannot have
        shown what matters; under an uncontrolled approximation always. A note says why and what would help.
    per_example_reliable : (n,) the same for each example, where scores were sampled; else None.
    bound : the part of a statistical `error` that is a proven bound, where some masks are integrated by bounds; the
        rest is the standard error. `interval` adds it as it is to Student's t times the rest.
    grad : for scores, {"weights", "intercept", "X"} where asked for; else None.
    notes : sentences a reader should know (for instance that the mean is not preserved).
    """

    value: Any
    error: Any
    guarantee: Guarantee
    method: Method
    n_masks: int
    per_example: Any
    per_example_error: Any
    weight_scaling_loss: Any
    penalty: Any
    penalty_error: Any
    replicates: Any = None
    grad: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    replicate_masks: Any = None
    reliable: bool = True
    per_example_reliable: Any = None
    bound: Any = 0.0

    @property
    def n_replicates(self) -> int:
        """Independent blocks of masks behind a statistical error; 0 where there is none."""
        return 0 if self.replicates is None else len(self.replicates)

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the true value lies: value ± error for proven errors, Student's t for statistical ones.

        Parameters
        ----------
        level : coverage of the statistical interval, in (0, 1). Other guarantees do not use it: "exact" and
            "bounded" always hold, "estimated" carries no level, "uncontrolled" gives (nan, nan).
        """
        check_level(level)
        half = _number(self.error)
        if self.guarantee == "statistical":
            half = half_width(half - _number(self.bound), level, self.n_replicates) + _number(self.bound)
        return _number(self.value) - half, _number(self.value) + half

    def to_frame(self) -> Any:
        """A pandas DataFrame, one row an example: expected_loss and error; needs pandas."""
        return data_frame({"expected_loss": self.per_example, "error": self.per_example_error})

    def _rows(self) -> list[tuple[str, str]]:
        guarantee, method = how_computed(self.guarantee, self.method, self.n_masks)
        return [
            ("expected loss", with_error(_number(self.value), _number(self.error))),
            guarantee,
            ("weight-scaling loss", f"{_number(self.weight_scaling_loss):.8g}"),
            ("penalty", with_error(_number(self.penalty), _number(self.penalty_error))),
            method,
            ("examples", f"{len(self.per_example)}"),
        ]


@dataclass(frozen=True)
class ScoreMoments(Result):
    """Mean and variance over masks of σ(S) (or of S itself), for each row.

    Attributes
    ----------
    mean, mean_error, variance, variance_error : (n,) float64.
    guarantee, method : as in `ExpectedLoss`.
    weight_scaling : (n,) the link at the mean mask.
    deviation : (n,) the standard deviation, where it is known better than as the root of the variance; else None.
    notes : sentences a reader should know.
    """

    mean: Any
    mean_error: Any
    variance: Any
    variance_error: Any
    guarantee: Guarantee
    method: Method
    weight_scaling: Any
    deviation: Any = None
    notes: tuple[str, ...] = ()

    @property
    def std(self) -> Any:
        """Standard deviation over masks, (n,)."""
        return np.sqrt(self.variance) if self.deviation is None else self.deviation
