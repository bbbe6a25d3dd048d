"""The monitor as a Lightning callback, through Lightning's own loggers. Needs `pip install 'allmasks[lightning]'`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

from torch import nn

from allmasks.methods import Method
from allmasks.monitor.clock import Clock, step_by
from allmasks.monitor.reading import PREFIX, Question, Reading, check_every
from allmasks.nn import RateScheduler

try:
    # Two packages hold the same library under two names, and a trainer knows the callbacks of its own alone.
    if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
        from pytorch_lightning import Callback
    else:
        from lightning.pytorch import Callback  # type: ignore[assignment]
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError as problem:
        raise ImportError("allmasks.monitor.lightning needs Lightning: pip install 'allmasks[lightning]'") from problem

__all__ = ["LightningMonitor"]


class LightningMonitor(Callback):
    """A Lightning callback that logs the loss over all masks every few epochs; training is unchanged, bit for bit.

    What is logged, under "allmasks/…", is a `Reading`: `weight_scaling_loss`, `expected_loss` and `penalty` with their
    errors, and p, penalty and share of each site. It goes through the module's `log_dict`, so every
    logger gets it and `ModelCheckpoint(monitor="allmasks/expected_loss")` and `EarlyStopping` work (with every=1).
    Lightning keeps these numbers in float32; `history` has them in full.

    Parameters
    ----------
    loss : as in `expected_loss`: of what the module's `forward` returns.
    data : a pair (x, y), or a DataLoader over a map-style data set; None takes the trainer's first validation loader.
    model : what to measure, if not the LightningModule itself: a module, or the name of an attribute of it.
    every : epochs between two readings.
    schedule : a `RateScheduler` of the model's layers; its state is kept in Lightning's checkpoints.
    schedule_by : "epoch": stepped at the end of every epoch, after the reading; "step": after every batch in which an
        optimizer stepped, once however many optimizers did.
    prefix : what the logged names begin with; two monitors of one Trainer need two.
    method, n_masks, atol, seed, batch_size, leave_off : as in `expected_loss`. The same masks are used at every
        reading.

    Under several processes each measures its share of the data, and all log the same numbers. What cannot be measured
    once training runs (losses that are not finite, a rate of 1) stops nothing: the reason is a warning of the logger
    "allmasks.monitor" and the reading's `reason`, and the numbers are logged as nan.

    Raises
    ------
    ImportError : where Lightning is not installed.
    ValueError, MethodNotApplicable, UncontrolledRandomness : at the start of training, as `expected_loss` would.

    Attributes
    ----------
    history : [(epoch, Reading), …], epochs counted from 1.

    >>> monitor = LightningMonitor("cross_entropy", every=5)  # Trainer(callbacks=[monitor])
    """

    def __init__(
        self,
        loss: Any,
        data: Any = None,
        *,
        model: nn.Module | str | None = None,
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
        super().__init__()
        self.every = check_every(every)
        self.history: list[tuple[int, Reading]] = []
        self._clock = Clock(schedule, step_by(schedule_by))
        self._model = model
        self._how = (method, n_masks, atol, seed, batch_size, leave_off)
        self._given = data
        self._prefix = prefix
        self._sites: tuple[str, ...] = ()
        self._loss = loss

    @property
    def state_key(self) -> str:
        """What Lightning's checkpoints call this callback; two with different prefixes are told apart."""
        if self._prefix == PREFIX:
            return super().state_key
        return self._generate_state_key(prefix=self._prefix)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse now what the first reading would refuse later."""
        self._sites = self._question(trainer).check(self._measured(pl_module))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Step a schedule that goes by steps."""
        self._clock.after_batch(trainer.global_step)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure and log, where due."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every == 0:
            reading = self._question(trainer).attempt(self._measured(pl_module), self._sites)
            self.history.append((epoch, reading))
            # A callback that waits for one of the names ends the training where it is missing; nan it knows.
            logged = reading.finite(self._prefix) if reading.reason is None else reading.scalars(self._prefix)
            pl_module.log_dict(logged, on_step=False, on_epoch=True, batch_size=1)
        self._clock.after_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """What Lightning's checkpoints keep of it: the schedule."""
        return self._clock.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._clock.load_state_dict(state_dict)

    def _measured(self, module: Any) -> nn.Module:
        found = getattr(module, self._model) if isinstance(self._model, str) else self._model
        return module if found is None else found

    def _question(self, trainer: Any) -> Question:
        data = self._given
        if data is None:
            loaders = trainer.val_dataloaders
            data = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
            if data is None or isinstance(data, list | tuple):
                raise ValueError(
                    "LightningMonitor has no data: pass data=(x, y) or a DataLoader, or fit with a validation loader"
                )
        method, n_masks, atol, seed, batch_size, leave_off = self._how
        return Question(data, self._loss, method, n_masks, atol, seed, batch_size, leave_off)
