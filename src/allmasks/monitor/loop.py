"""The monitor of a plain training loop: rows in a CSV file, charts in TensorBoard."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from allmasks.expect.arguments import data_and_loss
from allmasks.methods import Method
from allmasks.monitor.csv_file import CsvFile
from allmasks.monitor.reading import PREFIX, Question, Reading, all_ranks, check_every, unstopped
from allmasks.nn import RateScheduler

__all__ = ["Monitor"]


class Monitor:
    """Log what dropout does while a model trains in a loop of your own; the training is unchanged, bit for bit.

    Call `step()` at the end of every epoch. Every `every` epochs it measures the weight-scaling loss, the expected loss
    over all masks with its error, the penalty between them, and each site's rate, penalty and share of the whole.

    Parameters
    ----------
    model : the model that is being trained; it is only borrowed.
    data, y : a pair (x, y) as one argument or as two, or a DataLoader; validation or training examples, as you like.
    loss, method, n_masks, atol, seed, batch_size, leave_off : as in `expected_loss`. The same masks are used at every
        reading.
    every : epochs between two readings.
    csv : a file to write, one row a reading, complete after every one. An older file of that name is replaced, unless
        the monitor goes on from a `state_dict`.
    tensorboard : a folder for TensorBoard, or a SummaryWriter of your own; needs `pip install 'allmasks[tensorboard]'`.
        In a folder, what was written after the `state_dict` that the monitor goes on from is purged; a writer of your
        own takes `purge_step=` for that.
    prefix : what the names in TensorBoard begin with; two monitors of one run need two.
    schedule : a `RateScheduler` that `step()` steps after the reading, once an epoch.

    A training is never stopped by being watched: what cannot be measured (losses that are not finite, a rate of 1) or
    written (a full disk) is logged as a warning of the logger "allmasks.monitor", with its reason; the reading then has
    it as `reason`, its row is empty, and rows that could not be written are written with the next one.

    Where torch.distributed is running, every rank makes a monitor and calls `step()`, with the same data, of which each
    measures its share; all have the same readings, and the first rank writes them.

    Raises
    ------
    ValueError, MethodNotApplicable, UncontrolledRandomness : at once, when the monitor is made, as `expected_loss`
        would; also for a file that cannot be written (OSError) and for tensorboard where it is not installed
        (ImportError). Never from `step` and `measure`.

    Attributes
    ----------
    epoch : epochs ended so far.
    history : [(epoch, Reading), …].

    Example
    -------
    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(3, 1))
    >>> with Monitor(net, (torch.ones(4, 3), torch.zeros(4, 1)), "squared_error", every=2) as monitor:
    ...     for epoch in range(4):
    ...         _ = monitor.step()  # after your own training step
    >>> [(epoch, reading.guarantee) for epoch, reading in monitor.history]
    [(2, 'exact'), (4, 'exact')]
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        y: Any = None,
        loss: Any = None,
        *,
        every: int = 1,
        csv: str | Path | None = None,
        tensorboard: Any = None,
        prefix: str = PREFIX,
        schedule: RateScheduler | None = None,
        method: Method | None = None,
        n_masks: int | None = None,
        atol: float | None = None,
        seed: int = 0,
        batch_size: int | None = None,
        leave_off: str | Sequence[str] = (),
    ) -> None:
        self.every = check_every(every)
        self.model, self.schedule = model, schedule
        self.epoch = 0
        self.history: list[tuple[int, Reading]] = []
        self._question = Question(*data_and_loss(data, y, loss), method, n_masks, atol, seed, batch_size, leave_off)
        self._prefix = prefix
        self._sites = self._question.check(model)
        self._csv: CsvFile | None = None
        self._writer: Any = None
        self._board = tensorboard if isinstance(tensorboard, str | Path) else None
        all_ranks().run(lambda: self._open(csv, tensorboard))

    def _open(self, csv: str | Path | None, tensorboard: Any) -> None:
        if all_ranks().rank == 0:
            self._csv = None if csv is None else CsvFile(csv)
            self._writer = tensorboard if self._board is None else _summary_writer(self._board)

    def step(self) -> Reading | None:
        """Say that an epoch has ended: the reading, where one was due."""
        self.epoch += 1
        reading = self.measure() if self.epoch % self.every == 0 else None
        if self.schedule is not None:
            self.schedule.step()
        return reading

    def measure(self) -> Reading:
        """Measure and log now, due or not; before the first `step()` that is epoch 0."""
        reading = self._question.attempt(self.model, self._sites)
        with unstopped("nothing was written"):
            self._write(reading)
        self.history.append((self.epoch, reading))
        return reading

    def _write(self, reading: Reading) -> None:
        # Only the first rank has files, and it says nothing to the others, which therefore wait for nothing.
        if self._csv is not None:
            self._csv.add(self.epoch, reading)
        if self._writer is not None:
            for name, value in reading.finite(self._prefix).items():
                self._writer.add_scalar(name, value, self.epoch)
            self._writer.flush()

    def close(self) -> None:
        """Close the TensorBoard file, where this monitor has opened it."""
        if self._board is not None and self._writer is not None:
            with unstopped("the TensorBoard file was not closed"):
                self._writer.close()

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands, to be kept beside the model's own checkpoint."""
        return {"epoch": self.epoch, "schedule": None if self.schedule is None else self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there. The CSV file then keeps its rows up to that epoch, and loses those of a later one.

        Raises
        ------
        ValueError : if the state is none of a monitor, or has a schedule and this monitor none, or the reverse.
        """
        if set(state) != {"epoch", "schedule"}:
            raise ValueError(f"pass what state_dict() returned; got the keys {sorted(state)}")
        if (state["schedule"] is None) != (self.schedule is None):
            having, lacking = ("state", "monitor") if self.schedule is None else ("monitor", "state")
            raise ValueError(f"the {having} has a schedule and the {lacking} has none")
        if self._csv is not None:
            self._csv.go_on_from(int(state["epoch"]))
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.epoch = int(state["epoch"])
        if self._board is not None and self._writer is not None:
            self._writer.close()
            self._writer = _summary_writer(self._board, purge_step=self.epoch + 1)


def _summary_writer(folder: str | Path, **how: Any) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as problem:
        raise ImportError("tensorboard= needs TensorBoard: pip install 'allmasks[tensorboard]'") from problem
    return SummaryWriter(str(folder), **how)
