"""The plain loop's monitor: training untouched, figures right, files whole, mistakes told at once."""

import csv
import sys

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
