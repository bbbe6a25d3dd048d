"""What expected_loss promises beside its number: the model is only borrowed, and the answer is a function of keys."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import allmasks as am
from allmasks.methods import MonteCarlo


class Normed(nn.Module):
    """BatchNorm, three dropout sites, one of them functional, and more bits than can be listed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(8, 24), nn.BatchNorm1d(24), nn.Linear(24, 24)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(24, 3)

    def forward(self, x):
        h = self.drop(torch.relu(self.norm(self.first(x))))
        h = torch.relu(self.second(h))
        h = nn.functional.dropout(h, 0.4, self.training)
        return self.head(self.drop(h))


def compute(*args, **kwargs):
    with torch.no_grad():
        return am.expected_loss(*args, **kwargs)


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = Normed()
        model(torch.randn(64, 8))  # gives BatchNorm statistics of its own
    return model


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    return torch.randn(23, 8, generator=g), torch.randint(0, 3, (23,), generator=g)


def snapshot(model):
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        {k: m.training for k, m in model.named_modules()},
        {
            k: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for k, m in model.named_modules()
        },
        {k: None if p.grad is None else p.grad.clone() for k, p in model.named_parameters()},
        {k: p._version for k, p in model.named_parameters()},
        torch.random.get_rng_state(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        random.getstate(),
        torch.is_grad_enabled(),
    )


def assert_same(before, after):
    for a, b in zip(before, after, strict=True):
        if isinstance(a, dict):
            assert a.keys() == b.keys()
            for key in a:
                same = torch.equal(a[key], b[key]) if isinstance(a[key], torch.Tensor) else a[key] == b[key]
                assert same, key
        else:
            assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("mode", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("end", ["success", "exception", "interrupt"])
def test_the_model_comes_back_as_it_was(net, data, mode, end):
    net.train(mode)
    net.drop.training = not mode  # a flag of its own must come back too
    for i, parameter in enumerate(net.parameters()):
        parameter.grad = torch.full_like(parameter, float(i))
    before = snapshot(net)
    calls = 0

    def loss(output, y):
        nonlocal calls
        calls += 1
        torch.rand(3), np.random.rand(), random.random()  # noqa: NPY002
        if calls > 20 and end == "exception":
            raise ZeroDivisionError("in the loss")
        if calls > 20 and end == "interrupt":
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(output, y, reduction="none")

    if end == "success":
        am.expected_loss(net, *data, loss)
    else:
        with pytest.raises(ZeroDivisionError if end == "exception" else KeyboardInterrupt):
            compute(net, *data, loss)
    assert_same(before, snapshot(net))


def test_train_mode_and_eval_mode_give_identical_results(net, data):
    net.train()
    first = compute(net, *data, "cross_entropy")
    net.eval()
    second = compute(net, *data, "cross_entropy")
    assert torch.equal(first.per_example, second.per_example)
    assert torch.equal(first.per_example_error, second.per_example_error)
    assert float(first.error) > 0


@pytest.mark.parametrize("batch_size", [1, 7, None])
def test_batch_size_changes_nothing(net, data, batch_size):
    whole = compute(net, *data, "cross_entropy", batch_size=23)
    parts = compute(net, *data, "cross_entropy", batch_size=batch_size)
    torch.testing.assert_close(parts.per_example, whole.per_example, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(parts.value, whole.value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.error, whole.error, rtol=1e-3, atol=1e-7)


def test_threads_change_nothing(net, data):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = compute(net, *data, "cross_entropy")
        torch.set_num_threads(2)
        two = compute(net, *data, "cross_entropy")
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(one.per_example, two.per_example, rtol=2e-5, atol=2e-6)


@settings(max_examples=5, deadline=None)  # the first draw loads the kernels
@given(order=st.permutations(range(23)))
def test_a_permuted_data_set_gives_the_permuted_answer(order):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = Normed()
        x, y = torch.randn(23, 8), torch.randint(0, 3, (23,))
    straight = compute(net, x, y, "cross_entropy")
    order = list(order)
    mixed = compute(net, x[order], y[order], "cross_entropy", example_index=order)
    torch.testing.assert_close(mixed.per_example, straight.per_example[order], rtol=2e-5, atol=2e-6)


def test_the_seed_matters_and_decides(net, data):
    first, again, other = (compute(net, *data, "cross_entropy", seed=s) for s in (1, 1, 2))
    assert torch.equal(first.per_example, again.per_example)
    assert not torch.equal(first.per_example, other.per_example)


def test_a_loader_gives_what_tensors_give_even_if_it_shuffles(net, data):
    plain = compute(net, *data, "cross_entropy")
    for shuffle in (False, True):
        loader = DataLoader(TensorDataset(*data), batch_size=5, shuffle=shuffle)
        result = compute(net, loader, loss="cross_entropy")
        torch.testing.assert_close(result.per_example, plain.per_example, rtol=2e-5, atol=2e-6)
        assert bool(result.notes) == shuffle


def test_dict_inputs_and_logits(data):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Normed()

        def forward(self, *, x, scale):
            return {"logits": self.net(x * scale[:, None]), "hidden": x}

    model = Named()
    result = compute(model, {"x": data[0], "scale": torch.ones(23)}, data[1], "cross_entropy")
    direct = compute(model.net, *data, "cross_entropy")
    assert float(result.weight_scaling_loss) == pytest.approx(float(direct.weight_scaling_loss), rel=1e-6)


def test_bfloat16_and_autocast(net, data):
    full = compute(net, *data, "cross_entropy")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = compute(net, *data, "cross_entropy")
    half = compute(net.to(torch.bfloat16), data[0].bfloat16(), data[1], "cross_entropy")
    for other in (cast, half):
        assert other.per_example.dtype == torch.float64
        assert float(other.value) == pytest.approx(float(full.value), rel=0.03)


def test_no_dropout_and_p_zero_answer_exactly(data):
    for net in (nn.Linear(8, 3), nn.Sequential(nn.Dropout(0.0), nn.Linear(8, 3))):
        result = compute(net, *data, "cross_entropy")
        assert (float(result.penalty), float(result.penalty_error), result.guarantee) == (0.0, 0.0, "exact")
    assert "No dropout was found" in compute(nn.Linear(8, 3), *data, "cross_entropy").notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": "hinge"}, "unknown loss 'hinge': use one of"),
        ({"loss": None}, "loss is missing: pass"),
        ({"y": torch.full((23,), 3)}, r"class numbers must lie in 0 … 2 \(the model has 3 outputs\), got 3"),
        ({"y": torch.zeros(22, dtype=torch.long)}, "but y has 22"),
        ({"n_masks": 0}, "n_masks must be at least 1, got 0"),
        ({"atol": -1.0}, "atol must be positive, got -1.0"),
        ({"seed": -1}, "seed must be an integer from 0"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, got 0"),
        ({"method": "enumeration"}, "method must be a value of am.methods"),
        ({"sample_weight": [1.0, 2.0]}, "sample_weight must have one weight for each of 23 examples"),
        ({"sample_weight": [-1.0] * 23}, "sample_weight must be finite and 0 or more"),
        ({"example_index": list(range(22))}, "example_index must be 23 integers"),
        ({"method": am.methods.Enumeration()}, "Enumeration does not apply here: 72 random bits are"),
        ({"method": am.methods.Fourier()}, "Fourier does not apply here"),
        ({"loss": lambda output, y: output.sum()}, "one loss per example"),
        ({"x": torch.full((23, 8), float("nan"))}, "the inputs contain NaN"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(net, data, change, message):
    arguments = {"x": data[0], "y": data[1], "loss": "cross_entropy", **change}
    x, y = arguments.pop("x"), arguments.pop("y")
    with pytest.raises((ValueError, TypeError), match=message):
        compute(net, x, y, **arguments)


def test_a_model_that_is_random_by_itself_is_refused(data):
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.drop = nn.Linear(8, 3), nn.Dropout(0.5)

        def forward(self, x):
            return self.drop(self.linear(x + torch.randn_like(x)))

    with pytest.raises(am.UncontrolledRandomness, match=r"Noisy is random beyond its dropout.*randn"):
        compute(Noisy(), *data, "cross_entropy")


def test_a_loss_that_blows_up_names_example_and_mask(net, data):
    highest = compute(net, *data, "cross_entropy").per_example.max()

    def loss(output, y):
        losses = nn.functional.cross_entropy(output, y, reduction="none")
        return torch.where(losses > highest * 1.2, torch.inf, losses)

    with pytest.raises(ValueError, match=r"not finite for example \d+ under mask \d+"):
        compute(net, *data, loss)


def test_the_plan_prints_what_will_happen(net, data):
    plan = am.plan_expected_loss(net, *data, "cross_entropy")
    text = repr(plan)
    for part in ("3 dropout sites, 72 random bits", "chosen: MonteCarlo", "guarantee: statistical", "Enumeration: 72"):
        assert part in text
    assert plan.evaluations == 256 * 23
    assert isinstance(plan.method, MonteCarlo)


def test_recurrent_layers_after_a_site_fall_back_to_a_loop():
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.rnn, self.head = nn.Dropout(0.5), nn.GRU(4, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.rnn(self.drop(x))[0][:, -1])

    net = Recurrent().double()
    x, y = torch.randn(3, 1, 4, dtype=torch.float64), torch.tensor([0, 1, 1])
    truth = torch.zeros(3, dtype=torch.float64)
    weights = 0.5**4
    with torch.no_grad():
        for mask in am.masks.MaskLaw(0.5, (4,)).enumerate():
            dropped = x * torch.from_numpy(mask) / 0.5
            output = net.head(net.rnn(dropped)[0][:, -1])
            truth += weights * nn.functional.cross_entropy(output, y, reduction="none")
    result = compute(net, x, y, "cross_entropy")
    torch.testing.assert_close(result.per_example.detach(), truth, rtol=1e-12, atol=1e-12)


class WritesInput(nn.Module):
    """Centers its input in place, as people do to save memory."""

    def __init__(self, write) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 2)).double()
        self.write = write

    def forward(self, x):
        return self.net(self.write(x))


@pytest.mark.parametrize("write", [lambda x: x.sub_(1.0), lambda x: torch.relu_(x.sub_(0.3)), lambda x: x.mul_(0.5)])
@pytest.mark.parametrize(
    "call",
    [
        lambda net, x, y: am.expected_loss(net, x, y, "cross_entropy").value.detach(),
        lambda net, x, y: am.expected_loss(net, x, y, lambda z, t: z.square().sum(1), n_masks=16).value.detach(),
        lambda net, x, y: am.predict(net, x, n_masks=16).std,
        lambda net, x, y: am.diagnose.unit_penalty(net, x, y, "cross_entropy")[0].penalty,
        lambda net, x, y: am.thinned(net, x, mask=range(3))(x).detach(),
    ],
)
def test_inputs_that_forward_writes_in_are_as_they_were_for_every_pass(call, write):
    x, y = torch.linspace(-1, 2, 12).double().reshape(4, 3), torch.tensor([0, 1, 1, 0])
    given = x.clone()
    found = call(WritesInput(write), x, y)
    assert torch.equal(x, given)
    wanted = call(WritesInput(lambda x: write(x.clone())), x, y)
    assert abs(torch.as_tensor(found) - torch.as_tensor(wanted)).max() <= 1e-14
