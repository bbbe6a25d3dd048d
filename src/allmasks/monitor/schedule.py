"""When a trainer's callback steps a `RateScheduler`."""

from __future__ import annotations

from typing import Any

from allmasks.nn import RateScheduler

__all__ = ["Clock", "step_by"]


def step_by(unit: str) -> str:
    """ "epoch" or "step"."""
    if unit not in ("epoch", "step"):
        raise ValueError(f'schedule_by must be "epoch" or "step", got {unit!r}')
    return unit


class Clock:
    """Steps a schedule once for each epoch, or once for each optimizer step however many batches that takes."""

    def __init__(self, schedule: RateScheduler | None, unit: str) -> None:
        self.schedule, self.unit = schedule, unit
        self._seen = 0

    def start(self, epochs: int, steps: int) -> None:
        """Say how far a resumed training is, where the trainer keeps no state of ours."""
        self._go(epochs if self.unit == "epoch" else steps)

    def after_epoch(self, epochs: int) -> None:
        """So many epochs have ended."""
        if self.unit == "epoch":
            self._go(epochs)

    def after_step(self, steps: int) -> None:
        """So many optimizer steps have been taken."""
        if self.unit == "step":
            self._go(steps)

    def _go(self, now: int) -> None:
        if self.schedule is not None:
            for _ in range(now - self._seen):
                self.schedule.step()
        self._seen = max(now, self._seen)

    def state_dict(self) -> dict[str, Any]:
        return {} if self.schedule is None else {"seen": self._seen, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.schedule is None or not state:
            return
        self.schedule.load_state_dict(state["schedule"])
        self._seen = int(state["seen"])
