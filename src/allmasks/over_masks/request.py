"""How an average over masks is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from allmasks.methods import Method, MonteCarlo
from allmasks.methods.monte_carlo import asked_for

__all__ = ["Request"]


@dataclass(frozen=True)
class Request:
    """The keywords of `expected_loss` and `predict` that say how masks are gone through."""

    method: Method | None = None
    n_masks: int | None = None
    atol: float | None = None
    rtol: float | None = None
    budget: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method is not None and not isinstance(self.method, Method):
            raise TypeError(
                f"method must be a value of am.methods, such as am.methods.MonteCarlo(), got {self.method!r}"
            )
        asked_for(self.method, self.n_masks, self.atol, self.rtol)
        if self.budget is not None and not self.budget >= 1:
            raise ValueError(f"budget must be at least 1 evaluation, got {self.budget}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be an integer from 0 to 2**64 - 1, got {self.seed}")

    @property
    def sampling(self) -> MonteCarlo:
        """The Monte Carlo method meant by the method and the call's keywords together."""
        return asked_for(self.method, self.n_masks, self.atol, self.rtol)
