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
    """Steps a schedule once for each epoch, or once for each step, however many batches and optimizers that takes.

    A trainer's count of steps may be one of optimizers: two that step on one batch add 2 to it, 1 to the schedule.
    """

    def __init__(self, schedule: RateScheduler | None, unit: str) -> None:
        self.schedule, self.unit = schedule, unit
        self._seen = 0
        self._counted = 0

    def start(self, epochs: int, steps: int) -> None:
        """Say how far a resumed training is, where the trainer keeps no state of ours."""
        self._counted = steps
        self._go(epochs if self.unit == "epoch" else steps)

    def after_epoch(self, epochs: int) -> None:
        """So many epochs have ended."""
        if self.unit == "epoch":
            self._go(epochs)

    def after_batch(self, steps: int) -> None:
        """A batch has ended, and the trainer counts so many steps: one more for the schedule if there were any."""
        if self.unit == "step" and steps > self._counted:
            self._go(self._seen + 1)
        self._counted = steps

    def _go(self, now: int) -> None:
        if self.schedule is not None:
            for _ in range(now - self._seen):
                self.schedule.step()
        self._seen = max(now, self._seen)

    def state_dict(self) -> dict[str, Any]:
        if self.schedule is None:
            return {}
        return {"seen": self._seen, "counted": self._counted, "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.schedule is None or not state:
            return
        self.schedule.load_state_dict(state["schedule"])
        self._seen, self._counted = int(state["seen"]), int(state["counted"])
