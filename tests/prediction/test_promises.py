"""What predict promises beside its numbers: batches, loaders, pytrees, modes; and how it refuses."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import allmasks as am
from allmasks.methods import MonteCarlo
from allmasks.replicates import grouped_sizes
from allmasks.samplers import LatinHypercube
from allmasks.sampling import blocks_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(6, 24), nn.BatchNorm1d(24), nn.Dropout(0.3)
        self.second, self.head = nn.Linear(24, 24), nn.Linear(24, 3)

    def forward(self, x):
        h = self.drop(torch.relu(self.norm(self.first(x))))
        h = nn.functional.dropout(torch.relu(self.second(h)), 0.4, self.training)
        return self.head(h)


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return Net()


X = torch.randn(23, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_and_mode_change_nothing(net, batch_size):
    net.train()
    whole = am.predict(net, X)
    net.eval()
    parts = am.predict(net, X, batch_size=batch_size)
    for quantity in ("mean", "std", "entropy", "mutual_information"):
        torch.testing.assert_close(getattr(parts, quantity), getattr(whole, quantity), rtol=2e-4, atol=2e-6)
    torch.testing.assert_close(parts.mean_error, whole.mean_error, rtol=1e-2, atol=1e-5)


def test_loaders_with_and_without_targets(net):
    plain = am.predict(net, X)
    for data in (TensorDataset(X), TensorDataset(X, torch.zeros(23))):
        result = am.predict(net, DataLoader(data, batch_size=5))
        torch.testing.assert_close(result.mean, plain.mean, rtol=2e-5, atol=2e-6)


def test_a_tolerance_is_kept(net):
    result = am.predict(net, X, atol=0.004)
    assert float(result.mean_error.max()) < 0.004 * 1.15
    assert result.n_masks == am.predict(net, X, atol=0.004).n_masks


def test_any_structure_comes_back(net):
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.rnn = net, nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            out, (h, _) = self.rnn(self.net(x)[:, None])
            return {"value": out[:, 0], "state": h, "none": None}

    result = am.predict(Two(), X)
    assert result.task == "regression"
    assert result.mean["value"].shape == (23, 4)
    assert result.std["state"].shape == (1, 23, 4)
    torch.testing.assert_close(result.mean["state"][0], result.mean["value"])
    assert result.mean["none"] is None


def test_memory_is_for_replicates_not_for_masks():
    assert all(len(grouped_sizes(blocks_of(LatinHypercube(), n).sizes)) <= 64 for n in (256, 10_000, 10**7))
    assert grouped_sizes(blocks_of(LatinHypercube(), 10_001).sizes).sum() == 10_001


def test_inert_sites_are_reported():
    class Inert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.used, self.unused = nn.Linear(6, 2), nn.Dropout(0.5), nn.Dropout(0.5)

        def forward(self, x):
            return self.a(self.used(x)) + 0.0 * self.unused(x).sum(dim=1, keepdim=True)

    result = am.predict(Inert(), X)
    assert result.inert == ("unused",)
    assert any("unused is random, but its masks changed nothing" in note for note in result.notes)


def test_rarely_dropped_units_are_flagged_where_they_are_too_many_to_look_at():
    wide = nn.Sequential(nn.Dropout(0.001), nn.Linear(200, 3))
    result = am.predict(wide, torch.randn(4, 200), task="multiclass")
    assert not bool(result.reliable["mean"].any())
    assert any("fewer than 20 of the 256 masks" in note for note in result.notes)


class Sometimes(nn.Module):
    def __init__(self, how) -> None:
        super().__init__()
        self.drop, self.how = nn.Dropout(0.5), how

    def forward(self, x):
        return self.how(self.drop(x))


def test_nan_under_some_masks_names_the_key():
    model = Sometimes(lambda h: torch.where((h == 0).all(dim=1, keepdim=True), torch.nan, h.sum(dim=1, keepdim=True)))
    x = torch.ones(5, 3)
    with pytest.raises(
        ValueError, match=r"not finite for example \d under mask \d+; replay it with am.thinned"
    ) as caught:
        am.predict(model, x, task="regression", method=MonteCarlo(n_masks=256), seed=4)
    words = str(caught.value)
    mask, key = int(words.split("mask=")[1].split(",")[0]), int(words.split("example_index=")[1].split(")")[0])
    assert bool(torch.isnan(am.thinned(model, x, seed=4, mask=mask, example_index=key)(x)).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "ranking"}, "task must be one of 'regression', 'binary', 'multiclass'"),
        ({"n_masks": 0}, "n_masks must be at least 1, got 0"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"method": am.methods.Fourier()}, "Fourier does not apply here: no random site feeds a Linear|softmax of 3"),
        ({"method": am.methods.Delta()}, "Delta does not apply here: it is for losses"),
        ({"y": torch.zeros(23)}, "y must be class numbers of shape"),
        ({"noise_precision": -1.0}, "noise_precision must be positive"),
        ({"class_dim": 5}, "class_dim=5 is no class axis"),
        ({"x": X * torch.nan}, "the inputs contain NaN"),
        ({"batch_size": 0}, "batch_size must be a whole number"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(net, change, message):
    arguments = {"x": X, **change}
    with pytest.raises((ValueError, TypeError), match=message):
        am.predict(net, arguments.pop("x"), **arguments)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda h: "text", "must return a tensor"),
        (lambda h: h.argmax(dim=1), "return scores or logits, not decisions"),
    ],
)
def test_outputs_that_are_no_predictions(how, message):
    with pytest.raises(TypeError, match=message):
        am.predict(Sometimes(how), torch.randn(5, 3))


def test_a_shape_that_depends_on_the_mask_is_refused():
    model = Sometimes(lambda h: h[:, : 2 + int((h == 0).any())])
    with pytest.raises(ValueError, match="the output changed its shape to"):
        am.predict(model, torch.rand(5, 12) + 1, task="regression", method=MonteCarlo(n_masks=256))


def test_quantities_ask_for_what_they_need(net):
    result = am.predict(net, X)
    with pytest.raises(ValueError, match="quantile needs the samples"):
        result.quantile(0.5)
    with pytest.raises(ValueError, match="quantity must be one of 'mean', 'std'"):
        result.interval(quantity="median")
    assert result.to_dict()["task"] == "multiclass"
    assert "largest gap" in repr(result)


def test_consistent_masks_are_one_thinned_network_for_all(net):
    result = am.predict(net, X, keep_samples=True, consistent=True, n_masks=256, seed=3)
    one = am.thinned(net, X, seed=3, mask=17, example_index=0)
    with torch.no_grad():
        torch.testing.assert_close(result.samples[17].float(), one(X).softmax(-1), rtol=1e-4, atol=1e-5)
    parts = am.predict(net, X, keep_samples=True, consistent=True, n_masks=256, seed=3, batch_size=5)
    torch.testing.assert_close(parts.samples, result.samples, rtol=1e-4, atol=1e-6)
    assert bool(((result.mean - am.predict(net, X, n_masks=2048).mean).abs() < 6 * result.mean_error).all())
    with pytest.raises(ValueError, match="leave example_index out"):
        am.predict(net, X, consistent=True, example_index=range(23))


def test_scripted_parts_are_refused_by_name():
    import warnings

    class Inner(nn.Module):
        def forward(self, h):
            return nn.functional.dropout(h, 0.5, self.training)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = nn.Sequential(nn.Linear(6, 4), torch.jit.script(Inner()), nn.Linear(4, 2))
    with pytest.raises(am.UncontrolledRandomness, match=r"1:bernoulli \(it is TorchScript, whose dropout"):
        am.predict(net, X)
