"""The methods, as values: what is passed as `method=`. Their fields override the call's keywords.

A method is a frozen dataclass that carries its own settings; the rooms below (`scores`, `expect`) say where
each applies and run it. Listed from the strongest guarantee to none.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields

from allmasks.samplers import LatinHypercube, Sampler

__all__ = ["ClosedForm", "Delta", "Enumeration", "Fourier", "GaussianMoments", "Method", "MonteCarlo"]


@dataclass(frozen=True, repr=False)
class Method:
    """Base of all methods."""

    @property
    def name(self) -> str:
        """How reports and plans call it."""
        return type(self).__name__

    def __repr__(self) -> str:
        # Fields at their defaults say nothing; the sampler is always told, since it decides what the error is worth.
        shown = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if f.default is MISSING or getattr(self, f.name) != f.default
        ]
        return f"{self.name}({', '.join(shown)})"


@dataclass(frozen=True, repr=False)
class ClosedForm(Method):
    """An explicit formula: squared, Poisson and exponential losses of a dropped-out linear score. Exact."""


@dataclass(frozen=True, repr=False)
class Fourier(Method):
    """One integral over the score's characteristic function: the logistic loss over all masks, to round-off.

    Parameters
    ----------
    tol : truncation error allowed a row, proven by a tail bound, relative to 1 + |score|.
    max_nodes : most nodes a row; past it the method refuses.
    """

    tol: float = 1e-12
    max_nodes: int = 4096

    def __post_init__(self) -> None:
        if not 0 < self.tol < 1:
            raise ValueError(f"tol must lie between 0 and 1, got {self.tol}")
        if self.max_nodes < 2:
            raise ValueError(f"max_nodes must be at least 2, got {self.max_nodes}")


@dataclass(frozen=True, repr=False)
class Enumeration(Method):
    """Every mask, weighted by its probability. Exact, where there are few enough.

    Parameters
    ----------
    max_masks : most masks an example may have.
    """

    max_masks: int = 2**20

    def __post_init__(self) -> None:
        if self.max_masks < 1:
            raise ValueError(f"max_masks must be at least 1, got {self.max_masks}")


@dataclass(frozen=True, repr=False)
class GaussianMoments(Method):
    """The score replaced by a Gaussian of its mean and variance: "fast dropout" (Wang & Manning 2013).

    An approximation with no error bound (`guarantee="uncontrolled"`): used only when asked for.
    """


@dataclass(frozen=True, repr=False)
class Delta(Method):
    """Second order in the noise: L(μ) + ½ L''(μ) σ² (quadratic noising, Wager, Wang & Liang 2013).

    An approximation with no error bound (`guarantee="uncontrolled"`): used only when asked for.
    """


@dataclass(frozen=True, repr=False)
class MonteCarlo(Method):
    """The mean over sampled masks, with its standard error from independent blocks of masks.

    Parameters
    ----------
    n_masks : masks an example, exactly so many, 1 or more; beside atol or rtol the most that may be drawn.
    atol, rtol : the standard error wanted, absolute or relative to the value. A pilot
        of fixed size then fixes n once; there is no peeking.
    sampler : how masks are drawn together.
    control : None, or "quadratic": subtract the last layer's second-order form and add its exact mean.
    """

    n_masks: int | None = None
    atol: float | None = None
    rtol: float | None = None
    sampler: Sampler = field(default_factory=LatinHypercube)
    control: str | None = None

    def __post_init__(self) -> None:
        if self.n_masks is not None and (isinstance(self.n_masks, bool) or self.n_masks != int(self.n_masks)):
            raise ValueError(f"n_masks must be a whole number, got {self.n_masks}")
        if self.n_masks is not None and self.n_masks < 1:
            raise ValueError(f"n_masks must be at least 1, got {self.n_masks}")
        for name in ("atol", "rtol"):
            tolerance = getattr(self, name)
            if tolerance is not None and not tolerance > 0:
                raise ValueError(f"{name} must be positive, got {tolerance}")
        if self.control not in (None, "quadratic"):
            raise ValueError(f'control must be None or "quadratic", got {self.control!r}')
        if not isinstance(self.sampler, Sampler):
            raise TypeError(f"sampler must be one of am.samplers, got {self.sampler!r}")
