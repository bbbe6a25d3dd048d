"""Real runs of Lightning's Trainer: the same bits with the callback as without, its figures those of direct calls."""

import csv
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import allmasks as am
from monitor.nets import data, net, same

lightning = pytest.importorskip("lightning.pytorch", reason="Lightning is not installed")

from allmasks.monitor.lightning import LightningMonitor  # noqa: E402 - after the check that Lightning is there

# Lightning's own advice about workers, loggers and log intervals, and what its dependencies deprecate.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The number of training batches.*is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*is deprecated"),
]


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, index):
        self.log("val", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(tmp_path, *callbacks, epochs=4, validation=True, module=None, checkpoint=None, **more):
    module = module or Module()
    dataset = TensorDataset(*data())
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", callbacks=list(callbacks), default_root_dir=tmp_path,
        logger=lightning.loggers.CSVLogger(tmp_path), enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, **more,
    )  # fmt: skip
    held_out = DataLoader(dataset, batch_size=8) if validation else None
    trainer.fit(module, DataLoader(dataset, batch_size=8, shuffle=True), held_out, ckpt_path=checkpoint)
    return trainer, module


def left(module):
    grads = [p.grad.clone() for p in module.parameters() if p.grad is not None]
    flags = torch.tensor([m.training for m in module.modules()])
    return [*module.state_dict().values(), *grads, torch.rand(3), flags]


def test_training_is_the_same_bit_for_bit(tmp_path):
    monitor = LightningMonitor("cross_entropy")
    monitored = left(fit(tmp_path / "a", monitor)[1])
    assert len(monitor.history) == 4
    assert same(monitored, left(fit(tmp_path / "b")[1]))


class Draws(lightning.Callback):
    def on_train_epoch_end(self, trainer, module):
        torch.rand(1)


def test_the_test_would_notice_a_callback_that_draws(tmp_path):
    assert not same(left(fit(tmp_path / "a", Draws())[1]), left(fit(tmp_path / "b")[1]))


class Direct(lightning.Callback):
    """What `am.expected_loss` says at the same moments."""

    def __init__(self):
        self.found = []

    def on_train_epoch_end(self, trainer, module):
        with torch.no_grad():
            self.found.append(am.expected_loss(module, *data(), "cross_entropy", seed=5, batch_size=8))


def test_the_logged_figures_are_those_of_direct_calls(tmp_path):
    direct, monitor = Direct(), LightningMonitor("cross_entropy", every=2, seed=5)
    trainer, _ = fit(tmp_path, monitor, direct)
    with open(f"{trainer.logger.log_dir}/metrics.csv", newline="") as file:
        logged = [row for row in csv.DictReader(file) if row["allmasks/expected_loss"]]
    assert [int(row["epoch"]) for row in logged] == [1, 3]
    assert [epoch for epoch, _ in monitor.history] == [2, 4]
    for row, (_, reading), said in zip(logged, monitor.history, direct.found[1::2], strict=True):
        assert reading.expected_loss == float(said.value)
        assert reading.expected_loss_error == float(said.error)
        assert reading.weight_scaling_loss == float(said.weight_scaling_loss)
        assert reading.penalty == float(said.penalty)
        # Lightning keeps metrics in float32.
        for name, value in reading.finite().items():
            assert float(row[name]) == pytest.approx(value, rel=1e-6)
    assert [site.name for site in monitor.history[0][1].sites] == ["net.3", "net.6"]
    assert "allmasks/expected_loss" in trainer.callback_metrics


def test_a_part_of_the_module_and_data_of_ones_own(tmp_path):
    monitor = LightningMonitor("cross_entropy", data(), model="net")
    fit(tmp_path, monitor, epochs=1, validation=False)
    assert [site.name for site in monitor.history[0][1].sites] == ["3", "6"]


def test_a_schedule_by_epochs_and_by_steps(tmp_path):
    module = Module()
    schedule = am.nn.RateScheduler(module, "linear", steps=4)
    monitor = LightningMonitor("cross_entropy", schedule=schedule)
    fit(tmp_path, monitor, module=module)
    assert [reading.sites[1].p for _, reading in monitor.history] == [0.5, 0.375, 0.25, 0.125]
    module = Module()
    schedule = am.nn.RateScheduler(module, "late", steps=4)
    monitor = LightningMonitor("cross_entropy", schedule=schedule, schedule_by="step")
    # Three batches an epoch make two steps: two together, and the last.
    fit(tmp_path, monitor, module=module, accumulate_grad_batches=2)
    assert schedule.t == 8
    assert [reading.sites[1].p for _, reading in monitor.history] == [0.0, 0.5, 0.5, 0.5]


def test_a_schedule_goes_on_from_a_checkpoint(tmp_path):
    def scheduled():
        module = Module()
        schedule = am.nn.RateScheduler(module, "linear", steps=4)
        return module, LightningMonitor("cross_entropy", schedule=schedule)

    module, monitor = scheduled()
    trainer, _ = fit(tmp_path, monitor, module=module, epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    module, monitor = scheduled()
    fit(tmp_path, monitor, module=module, epochs=4, checkpoint=tmp_path / "two.ckpt")
    assert [(epoch, reading.sites[1].p) for epoch, reading in monitor.history] == [(3, 0.25), (4, 0.125)]


class TwoOptimizers(Module):
    """Both step on every batch, as in adversarial training."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def configure_optimizers(self):
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in (self.net[0], self.net[4:])]

    def training_step(self, batch, index):
        loss = super().training_step(batch, index)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()


def test_steps_are_counted_and_not_optimizers(tmp_path):
    module = TwoOptimizers()
    schedule = am.nn.RateScheduler(module, "late", steps=4)
    trainer, _ = fit(
        tmp_path, LightningMonitor("cross_entropy", schedule=schedule, schedule_by="step"), module=module, epochs=2
    )
    assert (trainer.global_step, schedule.t) == (12, 6)


class Breaks(lightning.Callback):
    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == 1:
            with torch.no_grad():
                module.net[0].weight.fill_(float("nan"))


def test_a_diverging_training_goes_on_and_two_monitors_keep_apart(tmp_path, caplog):
    module = Module()
    kept = {}
    for prefix in ("allmasks/", "b/"):
        schedule = am.nn.RateScheduler(module, "linear", steps=4)
        kept[prefix] = LightningMonitor("cross_entropy", prefix=prefix, schedule=schedule)
    waits = lightning.callbacks.EarlyStopping("allmasks/expected_loss", check_finite=False, patience=9)
    trainer, _ = fit(tmp_path, Breaks(), *kept.values(), waits, module=module, epochs=3)
    assert trainer.current_epoch == 3
    assert [reading.reason is None for _, reading in kept["b/"].history] == [True, False, False]
    assert "nothing was measured, and training goes on" in caplog.text
    assert {"allmasks/penalty", "b/penalty"} <= set(trainer.callback_metrics)
    assert {monitor.state_key for monitor in kept.values()} == {"LightningMonitor", "LightningMonitor{'prefix': 'b/'}"}
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    assert len(torch.load(tmp_path / "two.ckpt", weights_only=False)["callbacks"]) == 3


def test_mistakes_are_told_before_training(tmp_path):
    with pytest.raises(ValueError, match=r"LightningMonitor has no data: pass data=\(x, y\) or a DataLoader, or fit"):
        fit(tmp_path, LightningMonitor("cross_entropy"), validation=False)
    with pytest.raises(ValueError, match='schedule_by must be "epoch" or "step", got \'batch\''):
        LightningMonitor("cross_entropy", schedule_by="batch")
    hidden = (
        "import sys; sys.modules.update({'lightning': None, 'pytorch_lightning': None})\n"
        "try: import allmasks.monitor.lightning\n"
        "except ImportError as problem: print(problem)"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=True)
    assert done.stdout == "allmasks.monitor.lightning needs Lightning: pip install 'allmasks[lightning]'\n"
