"""The monitor as a callback of Transformers' Trainer. Needs `pip install 'allmasks[hf]'`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

from torch.utils.data import DataLoader

from allmasks.methods import Method
from allmasks.monitor.clock import Clock, step_by
from allmasks.monitor.reading import PREFIX, Question, Reading, check_every
from allmasks.nn import RateScheduler

try:
    from transformers import TrainerCallback, default_data_collator
except ImportError as problem:
    raise ImportError("allmasks.monitor.huggingface needs Transformers: pip install 'allmasks[hf]'") from problem

__all__ = ["TrainerMonitor"]


class TrainerMonitor(TrainerCallback):
    """A `TrainerCallback` that logs the loss over all masks every few epochs; training is unchanged, bit for bit.

    What is logged, under "allmasks/…", is a `Reading`: `weight_scaling_loss`, `expected_loss` and `penalty` with their
    errors, and p, penalty and share of each site. It goes through `trainer.log`, so it reaches
    `trainer.state.log_history` and every reporter. A callback is not told its trainer, so it must be given:

        trainer.add_callback(TrainerMonitor(trainer, validation, "cross_entropy"))

    Parameters
    ----------
    trainer : the Trainer that it is added to.
    data : a pair (x, y), a DataLoader, or a data set of dicts with "labels", as the Trainer takes them; None takes the
        trainer's `eval_dataset`, collated as the Trainer would.
    loss : as in `expected_loss`: of the model's `logits`.
    every : epochs between two readings.
    schedule : a `RateScheduler` of the model's layers. When training goes on from a checkpoint it is stepped to where
        the checkpoint's training was.
    schedule_by : "epoch": stepped at the end of every epoch, after the reading; "step": after every optimizer step.
    prefix : what the logged names begin with; two monitors of one Trainer need two.
    method, n_masks, atol, seed, batch_size, leave_off : as in `expected_loss`. The same masks are used at every
        reading.

    Under several processes each measures its share of the data. What cannot be measured once training runs (losses that
    are not finite, a rate of 1) stops nothing: the reason is a warning of the logger "allmasks.monitor" and the
    reading's `reason`.

    Raises
    ------
    ImportError : where Transformers is not installed.
    ValueError, MethodNotApplicable, UncontrolledRandomness : at the start of training, as `expected_loss` would.

    Attributes
    ----------
    history : [(epoch, Reading), …], epochs counted from 1; one that `max_steps` cuts short counts as one.
    """

    def __init__(
        self,
        trainer: Any,
        data: Any = None,
        loss: Any = "cross_entropy",
        *,
        every: int = 1,
        schedule: RateScheduler | None = None,
        schedule_by: Literal["epoch", "step"] = "epoch",
        prefix: str = PREFIX,
        method: Method | None = None,
        n_masks: int | None = None,
        atol: float | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        leave_off: str | Sequence[str] = (),
    ) -> None:
        self.every = check_every(every)
        self.history: list[tuple[int, Reading]] = []
        if not callable(getattr(trainer, "log", None)):
            raise TypeError(f"trainer must be the Trainer that the callback is added to, got {type(trainer).__name__}")
        self._trainer = trainer
        self._clock = Clock(schedule, step_by(schedule_by))
        self._prefix = prefix
        self._sites: tuple[str, ...] = ()
        self._question = Question(_loader(data, trainer), loss, method, n_masks, atol, seed, batch_size, leave_off)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        """Refuse now what the first reading would refuse later; bring a schedule to where the training is."""
        self._clock.start(int(state.epoch or 0), state.global_step)
        self._sites = self._question.check(model)

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Step a schedule that goes by optimizer steps."""
        self._clock.after_batch(state.global_step)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **rest: Any) -> None:
        """Measure and log, where due."""
        # A training of a given number of steps may end within an epoch: its number is that of the epoch it is in.
        epoch = math.ceil(state.epoch - 1e-6)
        if epoch % self.every == 0:
            reading = self._question.attempt(model, self._sites)
            self.history.append((epoch, reading))
            if reading.reason is None:
                self._trainer.log(reading.finite(self._prefix))
        self._clock.after_epoch(epoch)


def _loader(data: Any, trainer: Any) -> Any:
    if isinstance(data, DataLoader) or (isinstance(data, list | tuple) and len(data) == 2):
        return data
    dataset = getattr(trainer, "eval_dataset", None) if data is None else data
    if dataset is None or isinstance(dataset, dict):
        raise ValueError(
            "TrainerMonitor has no data: pass data=, a pair (x, y), a DataLoader or a data set, or give the Trainer "
            "one eval_dataset"
        )
    collate = getattr(trainer, "data_collator", None) or default_data_collator
    size = trainer.args.per_device_eval_batch_size
    return DataLoader(dataset, batch_size=size, collate_fn=collate)
