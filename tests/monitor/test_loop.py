"""The plain loop's monitor: training untouched, figures right, files whole, mistakes told at once."""

import csv
import errno
import math
import os
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import allmasks as am
from monitor.nets import data, net, same, train


def rows(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_training_is_the_same_bit_for_bit(tmp_path):
    plain = train(net(), 4)
    model = net()
    monitor = am.Monitor(model, data(), "cross_entropy", csv=tmp_path / "run.csv", tensorboard=tmp_path / "board")
    assert same(train(model, 4, monitor.step), plain)
    assert len(monitor.history) == 4
    monitor.close()


def test_the_test_would_notice_a_monitor_that_draws():
    assert not same(train(net(), 4, lambda: torch.rand(1)), train(net(), 4))


def test_a_generator_shared_with_the_shuffle_is_put_back():
    """The loader that is measured and the one that trains draw from one generator."""

    def run(monitored):
        generator = torch.Generator().manual_seed(5)
        dataset = TensorDataset(*data())
        shuffled = DataLoader(dataset, batch_size=8, shuffle=True, generator=generator)
        held_out = DataLoader(dataset, batch_size=8, generator=generator)
        model = net()
        monitor = am.Monitor(model, held_out, "cross_entropy") if monitored else None
        return train(model, 3, monitor.step if monitor else None, shuffled)

    assert same(run(True), run(False))


def test_layers_with_a_seed_of_their_own_keep_their_place():
    def run(monitored):
        model = net()
        model[6] = am.nn.Dropout(0.5, seed=3)
        monitor = am.Monitor(model, data(), "cross_entropy") if monitored else None
        return train(model, 3, monitor.step if monitor else None)

    assert same(run(True), run(False))


def test_rows_are_what_direct_calls_say(tmp_path):
    model, path = net(), tmp_path / "run.csv"
    told = []
    monitor = am.Monitor(model, data(), "cross_entropy", every=2, csv=path, seed=7)

    def after():
        monitor.step()
        with torch.no_grad():
            told.append(am.expected_loss(model, *data(), "cross_entropy", seed=7))

    train(model, 4, after)
    found = rows(path)
    assert [row["epoch"] for row in found] == ["2", "4"]
    for row, direct in zip(found, told[1::2], strict=True):
        assert float(row["expected_loss"]) == float(direct.value)
        assert float(row["expected_loss_error"]) == float(direct.error)
        assert float(row["weight_scaling_loss"]) == float(direct.weight_scaling_loss)
        assert float(row["penalty"]) == float(direct.penalty)
        assert (row["guarantee"], row["n_masks"]) == ("statistical", "256")
        assert float(row["p/3"]) == 0.3
        assert 0 < float(row["share/6"]) < 1.5


def test_tensorboard_holds_the_same_numbers(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = net()
    with am.Monitor(model, data(), "cross_entropy", tensorboard=tmp_path / "board") as monitor:
        train(model, 2, monitor.step)
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert set(events.Tags()["scalars"]) == set(monitor.history[0][1].finite())
    for name in ("expected_loss", "expected_loss_error", "share/3"):
        found = [(event.step, event.value) for event in events.Scalars(f"allmasks/{name}")]
        wanted = [(epoch, reading.scalars()[f"allmasks/{name}"]) for epoch, reading in monitor.history]
        assert [step for step, _ in found] == [1, 2]
        assert [v for _, v in found] == pytest.approx([v for _, v in wanted], rel=1e-6)


def test_a_writer_of_ones_own_stays_open(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(tmp_path))
    with am.Monitor(net(), data(), "cross_entropy", tensorboard=writer) as monitor:
        monitor.measure()
    writer.add_scalar("mine", 1.0, 1)
    writer.close()


def test_the_schedule_goes_on_once_an_epoch_and_is_logged(tmp_path):
    model, path = net(), tmp_path / "run.csv"
    schedule = am.nn.RateScheduler(model, "linear", steps=2)
    monitor = am.Monitor(model, data(), "cross_entropy", csv=path, schedule=schedule)
    train(model, 3, monitor.step)
    assert [float(row["p/6"]) for row in rows(path)] == [0.5, 0.25, 0.0]
    assert rows(path)[2]["share/6"] == ""
    assert rows(path)[2]["guarantee"] == "exact"


def test_going_on_from_a_checkpoint(tmp_path):
    path = tmp_path / "run.csv"

    def make(**more):
        model = net()
        schedule = am.nn.RateScheduler(model, "early", steps=3)
        return model, am.Monitor(model, data(), "cross_entropy", csv=path, schedule=schedule, **more)

    model, monitor = make()
    train(model, 2, monitor.step)
    state = monitor.state_dict()
    train(model, 1, monitor.step)
    model, monitor = make()
    monitor.load_state_dict(state)
    train(model, 2, monitor.step)
    assert [row["epoch"] for row in rows(path)] == ["1", "2", "3", "4"]
    assert model[6].p == 0
    with pytest.raises(ValueError, match=r"pass what state_dict\(\) returned; got the keys \['t'\]"):
        monitor.load_state_dict({"t": 1})
    with pytest.raises(ValueError, match="the monitor has a schedule and the state has none"):
        monitor.load_state_dict({"epoch": 1, "schedule": None})
    path.write_text("mine,own\n")
    with pytest.raises(ValueError, match=r"run\.csv is not a monitor's file: give another name, or remove it"):
        monitor.load_state_dict(state)
    assert path.read_text() == "mine,own\n"


def diverging(monitored, **how):
    """Batches that end in NaN weights."""
    model = net()
    monitor = am.Monitor(model, data(), "cross_entropy", **how) if monitored else None
    x, y = data()
    return monitor, train(model, 3, monitor.step if monitor else None, [(x, y), (x * float("inf"), y)])


def test_a_diverging_training_ends_where_it_would_have(tmp_path, caplog):
    monitor, left = diverging(True, csv=tmp_path / "run.csv", tensorboard=tmp_path / "board")
    _, plain = diverging(False)
    for a, b in zip(left, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert not bool(torch.isfinite(left[0]).all())
    assert [epoch for epoch, _ in monitor.history] == [1, 2, 3]
    last = monitor.history[-1][1]
    assert last.reason.startswith("ValueError: ")
    assert "finite" in last.reason
    assert (last.guarantee, math.isnan(last.expected_loss), last.finite()) == ("uncontrolled", True, {})
    assert "nothing was measured, and training goes on: ValueError" in caplog.text
    found = rows(tmp_path / "run.csv")
    assert [row["epoch"] for row in found] == ["1", "2", "3"]
    assert (found[-1]["expected_loss"], found[-1]["penalty/3"]) == ("", "")
    assert "finite" in found[-1]["reason"]


def test_a_rate_of_one_is_logged_and_left(caplog):
    model = net()
    monitor = am.Monitor(model, data(), "cross_entropy")
    model[3].p = 1.0
    monitor.step()
    assert "p" in monitor.history[0][1].reason
    model[3].p = 0.5
    monitor.step()
    assert monitor.history[1][1].reason is None


def test_under_inference_mode(caplog):
    model = net()
    monitor = am.Monitor(model, data(), "cross_entropy")
    wanted = monitor.measure()
    with torch.inference_mode():
        found = monitor.measure()
    assert found.reason is not None or found == wanted


class Full:
    """Takes a part of a row, as a disk does that fills up."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        self.file.close()

    def write(self, line):
        self.file.write(line[: len(line) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_rows_that_a_full_disk_refused_come_with_the_next(tmp_path, monkeypatch, caplog):
    path = tmp_path / "run.csv"
    model = net()
    monitor = am.Monitor(model, data(), "cross_entropy", csv=path)
    train(model, 1, monitor.step)
    real = Path.open
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda self, *mode, **how: Full(real(self, *mode, **how)))
        train(model, 1, monitor.step)
    assert f"nothing was written, and training goes on: OSError: [Errno {errno.ENOSPC}]" in caplog.text
    assert f"cannot write {path}" in caplog.text
    assert path.read_bytes()[-1:] != b"\n"
    train(model, 1, monitor.step)
    assert [row["epoch"] for row in rows(path)] == ["1", "2", "3"]
    assert [float(row["penalty"]) for row in rows(path)] == [reading.penalty for _, reading in monitor.history]


@pytest.mark.parametrize("torn", ["3,statis", "3,statistical,256,0.1\n", "\n\n", "x,y\n", "\udcff"])
def test_a_torn_or_blank_row_is_repaired_on_resume(tmp_path, torn):
    path = tmp_path / "run.csv"
    model = net()
    monitor = am.Monitor(model, data(), "cross_entropy", csv=path)
    train(model, 2, monitor.step)
    state = monitor.state_dict()
    with path.open("ab") as file:
        file.write(torn.encode(errors="surrogateescape"))
    monitor = am.Monitor(model, data(), "cross_entropy", csv=path)
    monitor.load_state_dict(state)
    train(model, 1, monitor.step)
    assert [row["epoch"] for row in rows(path)] == ["1", "2", "3"]


def test_other_sites_later_cost_their_columns_alone(tmp_path, caplog):
    model = net()
    monitor = am.Monitor(model, data(), "cross_entropy", csv=tmp_path / "run.csv")
    monitor.step()
    model[7] = torch.nn.Sequential(torch.nn.Dropout(0.1), model[7])
    monitor.step()
    assert "without a column: p/7.0, penalty/7.0" in caplog.text
    assert float(rows(tmp_path / "run.csv")[1]["expected_loss"]) == monitor.history[1][1].expected_loss


def test_resumed_epochs_stand_once_in_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model = net()
    with am.Monitor(model, data(), "cross_entropy", tensorboard=tmp_path, prefix="a/") as monitor:
        train(model, 2, monitor.step)
        state = monitor.state_dict()
        train(model, 2, monitor.step)
    with am.Monitor(model, data(), "cross_entropy", tensorboard=tmp_path, prefix="a/") as monitor:
        monitor.load_state_dict(state)
        train(model, 2, monitor.step)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [event.step for event in events.Scalars("a/expected_loss")] == [1, 2, 3, 4]


def test_mistakes_are_told_before_training(tmp_path, monkeypatch):
    model = net()
    with pytest.raises(ValueError, match="every must be a whole number of epochs of at least 1, got 0"):
        am.Monitor(model, data(), "cross_entropy", every=0)
    with pytest.raises(TypeError, match=r"data must be a pair \(x, y\) or a DataLoader, got Tensor"):
        am.Monitor(model, data()[0], "cross_entropy")
    with pytest.raises(FileNotFoundError, match=r"csv .*the folder .* does not exist; create it first"):
        am.Monitor(model, data(), "cross_entropy", csv=tmp_path / "no" / "run.csv")
    with pytest.raises(ValueError, match="nonsense"):
        am.Monitor(model, data(), "nonsense")
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ImportError, match=r"tensorboard= needs TensorBoard: pip install 'allmasks\[tensorboard\]'"):
        am.Monitor(model, data(), "cross_entropy", tensorboard=tmp_path / "board")


class _Fails(torch.nn.Module):
    on = False

    def forward(self, x):
        if not self.on:
            return x
        raise RuntimeError("long " * 50_000 + '\u2028\r\n"quoted"')


def test_rows_stay_readable_whatever_is_in_them(tmp_path):
    """Names that hold line ends, a reason longer than readers take, a torn row of many sites, a file that is gone."""
    path = tmp_path / "run.csv"
    model = torch.nn.Sequential()
    model.add_module("a\u2028b\n,c", torch.nn.Dropout(0.5))
    model.add_module("linear", torch.nn.Linear(3, 1))
    model.add_module("last", _Fails())
    question = (model, (torch.ones(4, 3), torch.zeros(4, 1)), "squared_error")
    monitor = am.Monitor(*question, csv=path)
    monitor.step()
    state = monitor.state_dict()
    model.last.on = True
    assert monitor.step().reason.startswith("RuntimeError: long long")
    model.last.on = False
    again = am.Monitor(*question, csv=path)
    again.load_state_dict(state)
    again.step()
    again.load_state_dict(again.state_dict())
    again.step()
    with path.open("ab") as file:
        file.write(b"4," + b"0.123456789," * 50_000)
    again.step()
    found = rows(path)
    assert [row["epoch"] for row in found] == ["1", "2", "3", "4"]
    assert all(row["p/a\u2028b\n,c"] == "0.5" for row in found)
    path.unlink()
    again.step()
    assert [row["epoch"] for row in rows(path)] == ["5"]
