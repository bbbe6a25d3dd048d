"""What comes back: every number with its error, and what kind of error it is."""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import numpy as np

from allmasks.methods import Method

__all__ = ["GUARANTEES", "ExpectedLoss", "Guarantee", "ScoreMoments", "plain_numbers", "weakest", "with_error"]

Guarantee = Literal["exact", "bounded", "estimated", "statistical", "uncontrolled"]

GUARANTEES: dict[Guarantee, str] = {
    "exact": "round-off bound",
    "bounded": "proven bound",
    "estimated": "numerical estimate, not proven",
    "statistical": "Monte Carlo standard error",
    "uncontrolled": "approximation with unknown error",
}
"""What `error` means under each guarantee, strongest first."""


def weakest(*guarantees: Guarantee) -> Guarantee:
    """The weakest of several guarantees: what a sum of such numbers can claim.

    >>> weakest("exact", "statistical")
    'statistical'
    """
    order = list(GUARANTEES)
    return max(guarantees, key=order.index)


def _number(value: Any) -> float:
    """A scalar as float, also where it is a tensor that carries gradients."""
    return float(value.detach() if hasattr(value, "detach") else value)


def with_error(value: float, error: float) -> str:
    """A value to as many digits as two of its error deserve, and the error.

    >>> with_error(1.10812380, 0.00034), with_error(18.0, 3e-15), with_error(0.25, float("nan"))
    ('1.10812 ± 0.00034', '18 ± 3e-15', '0.25 ± unknown')
    """
    if math.isnan(error):
        return f"{value:.6g} ± unknown"
    if not error > 1e-11 * abs(value) or error >= 1:
        return f"{value:.10g} ± {error:.2g}"
    decimals = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{decimals}f} ± {error:.2g}"


def plain_numbers(value: Any) -> Any:
    """A result, tensor, array or scalar as JSON-ready numbers and strings; NaN and infinities become None."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Method):
        return repr(value)
    if is_dataclass(value):
        return {f.name: plain_numbers(getattr(value, f.name)) for f in fields(value)}
    if hasattr(value, "detach"):
        value = value.detach().cpu().double().numpy()
    if isinstance(value, dict):
        return {k: plain_numbers(v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return [plain_numbers(v) for v in value]
    if isinstance(value, np.ndarray) and value.ndim:
        return [plain_numbers(v) for v in value]
    number = float(value)
    return number if math.isfinite(number) else None


@dataclass(frozen=True, repr=False)
class ExpectedLoss:
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
        if not 0 < level < 1:
            raise ValueError(f"level must lie between 0 and 1, got {level}")
        half = _number(self.error)
        if self.guarantee == "statistical":
            from allmasks.replicates import half_width

            half = half_width(half, level, self.n_replicates)
        return _number(self.value) - half, _number(self.value) + half

    def to_dict(self) -> dict[str, Any]:
        """Every field in plain numbers, ready for json.dump; NaN becomes None."""
        return {f.name: plain_numbers(getattr(self, f.name)) for f in fields(self)}

    def _rows(self) -> list[tuple[str, str]]:
        return [
            ("expected loss", with_error(_number(self.value), _number(self.error))),
            ("guarantee", f"{self.guarantee} ({GUARANTEES[self.guarantee]})"),
            ("weight-scaling loss", f"{_number(self.weight_scaling_loss):.8g}"),
            ("penalty", with_error(_number(self.penalty), _number(self.penalty_error))),
            ("method", f"{self.method!r}" + (f", {self.n_masks} masks" if self.n_masks else "")),
            ("examples", f"{len(self.per_example)}"),
            *(("note", note) for note in self.notes),
        ]

    def __repr__(self) -> str:
        rows = self._rows()
        width = max(len(name) for name, _ in rows)
        return "ExpectedLoss\n" + "\n".join(f"  {name:<{width}}  {text}" for name, text in rows)

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
            for name, text in self._rows()
        )
        return f"<table>{body}</table>"


@dataclass(frozen=True)
class ScoreMoments:
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

    def to_dict(self) -> dict[str, Any]:
        """Every field in plain numbers, ready for json.dump; NaN becomes None."""
        return {f.name: plain_numbers(getattr(self, f.name)) for f in fields(self)}
