"""Draws of training mode alone: drop path called twice, DropBlock, LayerDrop; what no site stands for is refused."""

import itertools
import os
import random
import secrets

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

import allmasks as am
from allmasks.sites import hold_masks
from architectures import DropBlock, DropPath, PathTwice, x


class LayerDrop(nn.Module):
    """As BART and wav2vec 2.0 have it; `draw` may be Python's, NumPy's or torch's."""

    def __init__(self, draw, p=0.3, layers=3):
        super().__init__()
        self.draw, self.p = draw, p
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(layers))

    def forward(self, h):
        for layer in self.layers:
            if self.training and self.draw() < self.p:
                continue
            h = h + torch.tanh(layer(h))
        return h


class Wider(nn.Module):
    """The draw's other direction, and a rate for each layer, the first of which is never dropped."""

    def __init__(self):
        super().__init__()
        self.rates, self.layers = [0.0, 0.2, 0.5], nn.ModuleList(nn.Linear(6, 6) for _ in range(3))

    def forward(self, h):
        for p, layer in zip(self.rates, self.layers, strict=True):
            if not self.training or random.uniform(0, 1) < 1 - p:
                h = h + torch.tanh(layer(h))
        return h


def image(module):
    return nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), module), x(4, 2, 7, 7)


DRAWN = {
    "twice": lambda: (nn.Sequential(PathTwice(0.3), nn.Linear(6, 2)), x(4, 6)),
    "twice, behind a layer scale": lambda: (nn.Sequential(PathTwice(0.3, 1e-5)), x(4, 6)),
    "twice, double": lambda: (nn.Sequential(PathTwice(0.25)).double(), x(4, 6).double()),
    "DropBlock": lambda: image(DropBlock(0.3)),
    "DropBlock, uniform": lambda: image(DropBlock(0.3, uniform=True)),
    "LayerDrop of torch": lambda: (nn.Sequential(LayerDrop(lambda: torch.rand([]))), x(4, 6)),
    "LayerDrop of Python": lambda: (nn.Sequential(LayerDrop(lambda: random.random())), x(4, 6)),
    "LayerDrop of NumPy": lambda: (nn.Sequential(LayerDrop(lambda: np.random.uniform(0, 1))), x(4, 6)),  # noqa: NPY002
    "LayerDrop with paths": lambda: (
        nn.Sequential(LayerDrop(lambda: np.random.rand()), PathTwice(0.4), Wider()),  # noqa: NPY002
        x(4, 6),
    ),
}
each = pytest.mark.parametrize("case", DRAWN)


def built(case):
    torch.manual_seed(0)
    model, h = DRAWN[case]()
    return model.eval(), h


class Recorded(TorchFunctionMode):
    """Every number that is drawn, in order, whoever draws it."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.drawn = []
        for owner, name in ((random, "random"), (random, "uniform"), (np.random, "uniform"), (np.random, "rand")):
            monkeypatch.setattr(owner, name, self.recorded(getattr(owner, name)))

    def recorded(self, draw):
        def drawn(*args):
            value = draw(*args)
            self.drawn.append(torch.as_tensor(value))
            return value

        return drawn

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.rand, torch.rand_like, torch.Tensor.bernoulli_):
            self.drawn.append(result.clone())
        return result


@each
def test_the_draws_of_training_mode_put_in_as_masks_give_its_output(case, monkeypatch):
    model, h = built(case)
    sites = {site.name: site for site in am.find_dropout(model, h)}
    wake = frozenset(site.wakes for site in sites.values())
    rates = {name: site.call_rate for name, site in sites.items()}
    assert all(site.controllable for site in sites.values())
    seen_different = False
    for seed in range(6):
        for seeds in (torch.manual_seed, random.seed, np.random.seed):
            seeds(seed)
        with monkeypatch.context() as patch, torch.no_grad(), Recorded(patch) as record:
            trained = model.train()(h)
        drawn = iter(record.drawn)

        def provide(call, drawn=drawn):
            value = next(drawn)
            return value.bool() if call.kind == "bernoulli" else value >= rates[call.name]

        with torch.no_grad(), hold_masks(model.eval(), provide, rates, wake=wake):
            held = model(h)
        assert next(drawn, None) is None
        torch.testing.assert_close(held, trained, rtol=1e-6, atol=1e-6)
        with torch.no_grad():
            seen_different |= not torch.equal(held, model(h))
    assert seen_different
    assert len(record.drawn) == len(sites)


@each
def test_means_and_spreads_are_those_of_training_mode(case):
    model, h = built(case)
    result = am.predict(model, h, task="regression", n_masks=2048, seed=3)
    for seeds in (torch.manual_seed, random.seed, np.random.seed):
        seeds(1)
    with torch.no_grad():
        passes = torch.stack([model.train()(h) for _ in range(2000)]).double()
    spread = passes.std(dim=0)
    error = (spread**2 / 2000 + torch.as_tensor(result.mean_error).double() ** 2).sqrt() + 1e-6 * passes.abs().max()
    assert bool(((result.mean - passes.mean(dim=0)).abs() < 5 * error).all())
    kurtosis = ((passes - passes.mean(dim=0)) ** 4).mean(dim=0) / spread.clamp_min(1e-300) ** 4
    spread_error = spread * ((kurtosis - 1).clamp_min(0) / 2000).sqrt() + 1e-6 * passes.abs().max()
    assert bool(((result.std - spread).abs() < 5 * spread_error).all())
    assert float(spread.max()) > 0


def test_layer_drop_is_one_bit_a_layer_shared_by_the_batch_and_enumerated():
    model, h = built("LayerDrop of Python")
    sites = am.find_dropout(model, h)
    assert [(s.name, s.p, s.shape, s.units, s.batch_dim, s.wakes) for s in sites] == [
        (name, 0.3, (), 1, None, "0") for name in ("0:random", "0:random#2", "0:random#3")
    ]
    want = torch.zeros(4)
    y = x(4, 6) * 0
    with torch.no_grad():
        for bits in itertools.product((0, 1), repeat=3):
            out = h
            for bit, layer in zip(bits, model[0].layers, strict=True):
                out = out + bit * torch.tanh(layer(out))
            want += 0.7 ** sum(bits) * 0.3 ** (3 - sum(bits)) * (out**2).sum(dim=1)
    result = am.expected_loss(model, h, y, "squared_error")
    assert result.guarantee == "exact"
    torch.testing.assert_close(result.per_example.float(), want, rtol=1e-5, atol=0)


def test_each_call_has_a_mask_of_its_own_and_a_rate_of_zero_drops_nothing():
    sites = am.find_dropout(nn.Sequential(PathTwice(0.3)), x(4, 6))
    assert [(s.name, s.p, s.shape, s.mean_preserving) for s in sites] == [
        ("0.path:rand", 0.3, (1,), True),
        ("0.path:rand#2", 0.3, (1,), True),
    ]
    assert len({s.id for s in sites}) == 2
    assert [round(s.p, 6) for s in am.find_dropout(Wider(), x(4, 6))] == [0.0, 0.2, 0.5]
    assert am.find_dropout(nn.Sequential(LayerDrop(lambda: random.random(), p=0.0)), x(4, 6)) == []


class Skips(nn.Module):
    """Leaves its layer out where `draw` is small."""

    def __init__(self, draw, p, **held):
        super().__init__()
        self.draw, self.p, self.layer = draw, p, nn.Linear(6, 6)
        vars(self).update(held)

    def forward(self, h):
        return h if self.training and self.draw(self) < self.p else h + self.layer(h)


class Sampler:
    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)


_BY_NAME = random.random
PRIVATE = {
    "Python, imported by name": (lambda m: _BY_NAME(), lambda seed: {}, "draws from Python's random"),
    "random.Random": (
        lambda m: m.g.random(),
        lambda seed: {"g": random.Random(seed)},
        r"random\.Random of its own \(0\.g\)",
    ),
    "RandomState": (lambda m: m.g.rand(), lambda seed: {"g": np.random.RandomState(seed)}, r"RandomState of its own"),
    "default_rng": (lambda m: m.g.random(), lambda seed: {"g": np.random.default_rng(seed)}, r"Generator of its own"),
    "inside an object": (lambda m: m.g.rng.random(), lambda seed: {"g": Sampler(seed)}, r"Generator of its own"),
    "torch.Generator": (
        lambda m: float(torch.rand([], generator=m.g)) + float(torch.randn([], generator=m.g)) * 1e-3,
        lambda seed: {"g": torch.Generator().manual_seed(seed)},
        "it calls randn in training mode",
    ),
    "randint": (lambda m: torch.randint(0, 10**4, ()) / 10**4, lambda seed: {}, "it calls randint in training mode"),
    "choice": (lambda m: random.choice([0.0] + [1.0] * 500), lambda seed: {}, r"it calls random\.choice in training"),
    "sample": (
        lambda m: min(random.sample(range(10**4), 8)) / 10**4,
        lambda seed: {},
        r"it calls random\.sample in training",
    ),
    "os.urandom": (
        lambda m: int.from_bytes(os.urandom(4), "big") / 2**32,
        lambda seed: {},
        r"it calls os\.urandom in training",
    ),
    "SystemRandom": (
        lambda m: m.g.random(),
        lambda seed: {"g": random.SystemRandom()},
        r"random\._urandom in training",
    ),
    "secrets": (lambda m: secrets.randbelow(10**4) / 10**4, lambda seed: {}, r"random\._urandom in training"),
}


@pytest.mark.parametrize("kind", PRIVATE)
@pytest.mark.parametrize("seed", range(5))
def test_what_no_site_stands_for_is_refused_whatever_the_seed(kind, seed):
    draw, held, why = PRIVATE[kind]
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    model = nn.Sequential(Skips(draw, 0.002, **held(seed)), nn.Dropout(0.5), nn.Linear(6, 1))
    *_, beside = am.find_dropout(model, x(4, 6))
    assert not beside.controllable
    with pytest.raises(am.UncontrolledRandomness, match=why):
        am.expected_loss(model, x(4, 6), torch.zeros(4, 1), "squared_error")
    assert "register" in beside.reason


@pytest.mark.parametrize(
    "kind", ["Python, imported by name", "random.Random", "RandomState", "torch.Generator", "SystemRandom"]
)
def test_what_is_drawn_and_never_used_is_no_reason_to_refuse(kind):
    draw, held, _ = PRIVATE[kind]
    model = nn.Sequential(Skips(draw, -1.0, **held(0)), nn.Dropout(0.5), nn.Linear(6, 1))
    assert [site.name for site in am.find_dropout(model, x(4, 6))] == ["1"]


@pytest.mark.parametrize("draw", [lambda: np.random.randn(), lambda: random.gauss(0, 1)])  # noqa: NPY002
def test_samplers_that_reject_what_they_draw_come_to_an_end(draw):
    class Noisy(nn.Module):
        def forward(self, h):
            return h + 0.1 * draw() if self.training else h

    (site,) = am.find_dropout(nn.Sequential(nn.Linear(6, 6), Noisy()), x(4, 6))
    assert not site.controllable
    assert "register" in site.reason


def test_a_rate_in_a_configuration_is_the_decimal_that_was_written_there():
    class Configured(nn.Module):
        def __init__(self, p):
            super().__init__()
            self.config, self.layer = {"layerdrop": p}, nn.Linear(6, 6)

        def forward(self, h):
            return h if self.training and random.random() < self.config["layerdrop"] else self.layer(h)

    for p in (0.1, 0.05, 0.35):
        (site,) = am.find_dropout(nn.Sequential(Configured(p)), x(4, 6))
        assert site.p == p
    (site,) = am.find_dropout(nn.Sequential(Configured(1 / 3)), x(4, 6))
    assert site.p == pytest.approx(1 / 3, abs=1e-8)


class Scaled(nn.Module):
    """Three times its output where it trains, at a scale no absolute tolerance sees."""

    def forward(self, h):
        if not self.training:
            return 1e-6 * h
        return 3e-6 * h * torch.bernoulli(torch.full_like(h, 0.5)) / 0.5


def test_outputs_are_compared_at_their_own_scale():
    (site,) = am.find_dropout(nn.Sequential(nn.Linear(6, 6), Scaled()), x(4, 6))
    assert not site.controllable
    assert "behaves differently in training mode even where nothing is dropped" in site.reason


def test_drop_path_behind_any_layer_scale_is_a_site():
    for scale in (1e-5, 1e-9, 0.0):
        assert len(am.find_dropout(nn.Sequential(PathTwice(0.3, scale)), x(4, 6))) == 2


def test_functions_of_python_and_numpy_are_their_own_again():
    functions = random.random, random.uniform, np.random.rand, np.random.random, np.random.uniform
    model, h = built("LayerDrop with paths")
    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    am.predict(model, h, task="regression", n_masks=64)

    class Fails(nn.Module):
        def forward(self, h):
            random.random()
            raise RuntimeError("the user's own")

    with pytest.raises(RuntimeError, match="the user's own"):
        am.find_dropout(nn.Sequential(Fails()), h)
    assert functions == (random.random, random.uniform, np.random.rand, np.random.random, np.random.uniform)
    assert not nn.modules.module._has_any_global_hook()
    assert random.getstate() == states[0]
    assert (np.random.get_state()[1] == states[1]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


def test_a_path_of_one_example_shape_that_is_drawn_twice_in_one_call_is_refused_with_a_way_on():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.path = nn.Linear(6, 6), nn.Linear(6, 6), DropPath(0.3)

        def forward(self, h):
            return torch.sin(h * torch.rand(len(h), 1)) + torch.rand(len(h), 1) if self.training else h

    (site,) = am.find_dropout(nn.Sequential(Both()), x(4, 6))
    assert not site.controllable
    assert "am.register_dropout" in site.reason


class Otherwise(nn.Module):
    """Not the same in training mode, and not by chance: another scale, or a head more."""

    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, h):
        if not self.training:
            return h
        return (h, 2 * h) if self.head else 1.5 * h


@pytest.mark.parametrize("head", [True, False])
def test_a_difference_of_training_mode_that_is_not_random_is_said_and_eval_mode_is_meant(head):
    model = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), Otherwise(head)).eval()
    h, y = x(4, 6), torch.zeros(4, 6)
    assert [site.name for site in am.find_dropout(model, h)] == ["1"]
    result = am.expected_loss(model, h, y, "squared_error")
    (note,) = [note for note in result.notes if "differs from that in eval mode" in note]
    assert note in am.predict(model, h, task="regression").notes
    alone = am.expected_loss(model[:2], h, y, "squared_error")
    assert result.value.item() == pytest.approx(alone.value.item(), rel=1e-6)
    assert not any("differs" in note for note in alone.notes)
    left = nn.Sequential(Skips(lambda m: random.gauss(0, 1), 1.0), *model[:2])
    assert not any("differs" in n for n in am.expected_loss(left, h, y, "squared_error", leave_off="0:*").notes)
    normed = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
    assert not any("differs" in note for note in am.expected_loss(normed, h, y, "squared_error").notes)
