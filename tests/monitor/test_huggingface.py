"""Real runs of Transformers' Trainer: the same bits with the callback as without, its figures those of direct calls."""

import json
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import allmasks as am
from monitor.nets import data, net, same

transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
pytest.importorskip("accelerate", reason="Transformers' Trainer needs accelerate")

from allmasks.monitor.huggingface import TrainerMonitor  # noqa: E402 - after the check that Transformers is there


class Rows(Dataset):
    """A data set of dicts, as Transformers take them."""

    def __len__(self):
        return len(data()[0])

    def __getitem__(self, i):
        x, y = data()
        return {"features": x[i], "labels": y[i]}


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, features, labels=None):
        logits = self.net(features)
        found = {"logits": logits}
        if labels is not None:
            found = {"loss": nn.functional.cross_entropy(logits, labels), **found}
        return found


def trainer(tmp_path, epochs=4, **more):
    args = transformers.TrainingArguments(
        output_dir=str(tmp_path), num_train_epochs=epochs, per_device_train_batch_size=8, use_cpu=True, report_to=[],
        disable_tqdm=True, seed=3, logging_strategy="epoch", dataloader_pin_memory=False,
        **{"save_strategy": "no", **more},
    )  # fmt: skip
    return transformers.Trainer(model=Model(), args=args, train_dataset=Rows(), eval_dataset=Rows())


def left(run):
    run.train()
    model = run.model
    flags = torch.tensor([m.training for m in model.modules()])
    return [*model.state_dict().values(), *run.optimizer.state_dict()["state"][0].values(), torch.rand(3), flags]


def test_training_is_the_same_bit_for_bit(tmp_path):
    run = trainer(tmp_path)
    monitor = TrainerMonitor(run)
    run.add_callback(monitor)
    monitored = left(run)
    assert len(monitor.history) == 4
    plain = trainer(tmp_path)
    assert same(monitored, left(plain))
    kept = [
        {k: v for k, v in row.items() if k in ("loss", "grad_norm", "learning_rate")} for row in plain.state.log_history
    ]
    mine = [
        {k: row[k] for k in ("loss", "grad_norm", "learning_rate")} for row in run.state.log_history if "loss" in row
    ]
    assert mine == kept[: len(mine)]


class Draws(transformers.TrainerCallback):
    def on_epoch_end(self, args, state, control, **rest):
        torch.rand(1)


def test_the_test_would_notice_a_callback_that_draws(tmp_path):
    run = trainer(tmp_path)
    run.add_callback(Draws())
    assert not same(left(run), left(trainer(tmp_path)))


class Direct(transformers.TrainerCallback):
    """What `am.expected_loss` says at the same moments."""

    def __init__(self):
        self.found = []

    def on_epoch_end(self, args, state, control, model=None, **rest):
        x, y = data()
        with torch.no_grad():
            self.found.append(am.expected_loss(model, {"features": x}, y, "cross_entropy", seed=5, batch_size=8))


def test_the_logged_figures_are_those_of_direct_calls(tmp_path):
    run, direct = trainer(tmp_path), Direct()
    run.add_callback(TrainerMonitor(run, every=2, seed=5))
    run.add_callback(direct)
    run.train()
    logged = [row for row in run.state.log_history if "allmasks/penalty" in row]
    assert [row["epoch"] for row in logged] == [2.0, 4.0]
    for row, said in zip(logged, direct.found[1::2], strict=True):
        assert row["allmasks/expected_loss"] == float(said.value)
        assert row["allmasks/expected_loss_error"] == float(said.error)
        assert row["allmasks/weight_scaling_loss"] == float(said.weight_scaling_loss)
        assert row["allmasks/penalty"] == float(said.penalty)
        assert 0 < row["allmasks/share/net.6"] < 1.5
    json.dumps(run.state.log_history, allow_nan=False)


def test_a_pair_instead_of_the_trainers_own_data(tmp_path):
    run = trainer(tmp_path, epochs=1)
    x, y = data()
    monitor = TrainerMonitor(run, ({"features": x}, y), batch_size=8)
    run.add_callback(monitor)
    run.train()
    other = trainer(tmp_path, epochs=1)
    same_data = TrainerMonitor(other)
    other.add_callback(same_data)
    other.train()
    assert monitor.history == same_data.history


@pytest.mark.parametrize(("unit", "steps"), [("epoch", 4), ("step", 12)])
def test_a_schedule_and_going_on_from_a_checkpoint(tmp_path, unit, steps):
    def scheduled(epochs):
        run = trainer(tmp_path, epochs=epochs, save_strategy="epoch")
        schedule = am.nn.RateScheduler(run.model, "linear", steps=steps)
        monitor = TrainerMonitor(run, schedule=schedule, schedule_by=unit)
        run.add_callback(monitor)
        return run, monitor

    run, monitor = scheduled(4)
    run.train()
    rates = [reading.sites[1].p for _, reading in monitor.history]
    assert rates == ([0.5, 0.375, 0.25, 0.125] if unit == "epoch" else [0.375, 0.25, 0.125, 0.0])
    run, monitor = scheduled(4)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert [(epoch, reading.sites[1].p) for epoch, reading in monitor.history] == [(3, rates[2]), (4, rates[3])]


@pytest.mark.parametrize(("steps", "epochs"), [(1, [1]), (4, [1, 2]), (7, [1, 2, 3])])
def test_an_epoch_that_is_cut_short_counts_as_one(tmp_path, steps, epochs):
    """Three batches an epoch: a training of 1, 4 or 7 steps ends within one."""
    run = trainer(tmp_path, max_steps=steps)
    schedule = am.nn.RateScheduler(run.model, "linear", steps=10)
    monitor = TrainerMonitor(run, schedule=schedule)
    run.add_callback(monitor)
    run.train()
    assert [epoch for epoch, _ in monitor.history] == epochs
    assert schedule.t == len(epochs)


class Breaks(transformers.TrainerCallback):
    def on_step_end(self, args, state, control, model=None, **rest):
        if state.global_step == 4:
            with torch.no_grad():
                model.net[0].weight.fill_(float("nan"))


def test_a_diverging_training_goes_on_and_two_monitors_have_their_prefixes(tmp_path, caplog):
    run = trainer(tmp_path, epochs=2)
    monitor = TrainerMonitor(run, prefix="a/")
    for callback in (Breaks(), monitor, TrainerMonitor(run, prefix="b/", seed=2)):
        run.add_callback(callback)
    run.train()
    assert [reading.reason is None for _, reading in monitor.history] == [True, False]
    assert run.state.global_step == 6
    assert "nothing was measured, and training goes on" in caplog.text
    names = {name for row in run.state.log_history for name in row}
    assert {"a/penalty", "b/penalty"} <= names
    assert "allmasks/penalty" not in names


def test_mistakes_are_told_before_training(tmp_path):
    with pytest.raises(TypeError, match="trainer must be the Trainer that the callback is added to, got tuple"):
        TrainerMonitor(data(), "cross_entropy")
    run = trainer(tmp_path)
    run.eval_dataset = None
    with pytest.raises(ValueError, match="TrainerMonitor has no data: pass data="):
        TrainerMonitor(run)
    hidden = (
        "import sys; sys.modules['transformers'] = None\n"
        "try: import allmasks.monitor.huggingface\n"
        "except ImportError as problem: print(problem)"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=True)
    assert done.stdout == "allmasks.monitor.huggingface needs Transformers: pip install 'allmasks[hf]'\n"
