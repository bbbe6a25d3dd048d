"""Both ways of giving data and loss mean the same in every call that takes a loss; what is missing is said."""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import allmasks as am
from allmasks import diagnose, monitor
from allmasks.diagnose.compare import effective_penalty

G = torch.Generator().manual_seed(3)
X = torch.randn(6, 4, generator=G, dtype=torch.float64)
Y = torch.randn(6, 2, generator=G, dtype=torch.float64)
CLASSES = torch.tensor([0, 1, 1, 0, 1, 0])


@pytest.fixture
def net():
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Dropout(0.5), nn.Linear(3, 2)).double()


CALLS = {
    "expected_loss": lambda *a, **k: am.expected_loss(*a, **k).value.item(),
    "plan_expected_loss": lambda *a, **k: repr(am.plan_expected_loss(*a, **k)),
    "audit": lambda *a, **k: float(am.audit(*a, **k, progress=False, instruments=False).expected.value),
    "unit_penalty": lambda *a, **k: diagnose.unit_penalty(*a, **k)[0].penalty.tolist(),
    "co_adaptation": lambda *a, **k: diagnose.co_adaptation(*a, **k)[0].interaction.tolist(),
    "concentration": lambda *a, **k: diagnose.concentration(*a, **k)[0].shapley.tolist(),
    "robustness": lambda *a, **k: diagnose.robustness(*a, **k)[0].loss.tolist(),
    "effective_penalty": lambda *a, **k: effective_penalty(*a, **k).tolist(),
    "Monitor": lambda *a, **k: am.Monitor(*a, **k).measure().expected_loss,
    "read": lambda *a, **k: monitor.read(*a, **k).expected_loss,
}


@pytest.mark.parametrize("name", CALLS)
def test_both_ways_of_giving_data_mean_the_same(net, name):
    call = CALLS[name]
    wanted = call(net, X, Y, "squared_error")
    loader = DataLoader(TensorDataset(X, Y), batch_size=6)
    assert call(net, (X, Y), "squared_error") == wanted
    assert call(net, [X, Y], "squared_error") == wanted
    assert call(net, loader, "squared_error") == wanted
    assert call(net, loader, loss="squared_error") == wanted
    if name not in ("expected_loss", "plan_expected_loss"):
        assert call(net, (X, Y), loss="squared_error") == wanted
    assert call(net, X, y=Y, loss="squared_error") == wanted
    with pytest.raises(TypeError, match="loss is missing: pass"):
        call(net, X, Y)
    with pytest.raises(TypeError, match=r"data must be a pair \(x, y\) or a DataLoader, got Tensor: y is missing"):
        call(net, X, "squared_error")
    with pytest.raises(TypeError, match=r"data must be a pair \(x, y\) or a DataLoader, got tuple of 3"):
        call(net, (X, Y, Y), "squared_error")
    with pytest.raises(ValueError, match="a DataLoader carries its own targets: pass y=None"):
        call(net, loader, Y, "squared_error")


@pytest.mark.parametrize("loss", ["squared_error", nn.MSELoss(), lambda z, y: ((z - y) ** 2).sum(dim=1)])
def test_every_kind_of_loss_is_known_for_one(net, loss):
    assert CALLS["expected_loss"](net, (X, Y), loss) == CALLS["expected_loss"](net, X, Y, loss)


class Named(nn.Module):
    """As Hugging Face's classifiers: a dict of inputs, labels among them, a loss of its own beside the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.head = nn.Dropout(0.4), nn.Linear(4, 2)

    def forward(self, inputs, labels=None):
        logits = self.head(self.drop(inputs))
        own = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return OrderedDict(loss=own, logits=logits) if labels is not None else OrderedDict(logits=logits)


def test_labels_inside_the_inputs():
    model = Named().double()
    inputs = {"inputs": X, "labels": CLASSES}
    wanted = am.expected_loss(model, {"inputs": X}, CLASSES, "cross_entropy").value.item()
    assert am.expected_loss(model, inputs, None, "cross_entropy").value.item() == wanted
    assert am.expected_loss(model, inputs, "cross_entropy").value.item() == wanted
    assert float(am.audit(model, inputs, "cross_entropy", progress=False).expected.value) == wanted
    assert inputs.keys() == {"inputs", "labels"}
    with pytest.raises(TypeError, match=r"a model's own loss is one number for a whole batch\. Pass loss="):
        am.expected_loss(model, inputs)
    with pytest.raises(TypeError, match="y is missing: loss 'cross_entropy' compares outputs with targets"):
        am.expected_loss(model, {"inputs": X}, loss="cross_entropy")
    with pytest.raises(TypeError, match=r"y is missing.*\(model, \(x, y\), loss\)"):
        am.expected_loss(model, (X, CLASSES), loss="cross_entropy")


def test_a_label_inside_the_inputs_as_data_sets_name_it():
    model = Named().double()
    wanted = am.expected_loss(model, {"inputs": X}, CLASSES, "cross_entropy").value.item()
    assert am.expected_loss(model, {"inputs": X, "label": CLASSES}, "cross_entropy").value.item() == wanted
    rows = [{"inputs": x, "label": y} for x, y in zip(X, CLASSES, strict=True)]
    assert am.expected_loss(model, DataLoader(rows, batch_size=4), loss="cross_entropy").value.item() == wanted
    # Beside "labels", or beside a y, it is an input like others.
    with pytest.raises(Exception, match="label"):
        am.expected_loss(model, {"inputs": X, "label": CLASSES}, CLASSES, "cross_entropy")
    with pytest.raises(Exception, match=r"\blabel\b"):
        am.expected_loss(model, {"inputs": X, "label": CLASSES, "labels": CLASSES}, "cross_entropy")


class Causal(nn.Module):
    """As Hugging Face's causal language models: a loss of its own that compares each output with the next label."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.drop, self.head = nn.Embedding(9, 4), nn.Dropout(0.0), nn.Linear(4, 9)

    def forward(self, input_ids, labels=None):
        logits = self.head(self.drop(self.embed(input_ids)))
        own = (
            None
            if labels is None
            else nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        )
        return OrderedDict(loss=own, logits=logits)


@pytest.mark.parametrize("loss", ["cross_entropy", nn.CrossEntropyLoss()])
@pytest.mark.parametrize("form", ["dict", "pair", "loader"])
def test_labels_that_are_the_input_tokens_are_to_be_shifted(loss, form):
    torch.manual_seed(0)
    model, ids = Causal().double(), torch.randint(0, 9, (6, 5))
    labels = ids.clone()
    labels[:3, 4:] = -100

    def data(labels):
        if form == "pair":
            return {"input_ids": ids}, labels
        if form == "dict":
            return {"input_ids": ids, "labels": labels}, None
        return DataLoader([{"input_ids": a, "labels": b} for a, b in zip(ids, labels, strict=True)], batch_size=2), None

    with pytest.raises(
        ValueError, match=r"the labels are the input tokens themselves.*shift the labels first, labels = "
    ):
        am.expected_loss(model, *data(labels), loss)
    # What the message says to do gives the model's own number.
    shifted = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=-100)
    own = model(ids, labels)["loss"].item()
    assert am.expected_loss(model, *data(shifted), nn.CrossEntropyLoss()).value.item() == pytest.approx(own, rel=1e-12)


def test_labels_that_are_the_input_tokens_are_the_affair_of_a_callable():
    model, ids = Causal().double(), torch.randint(0, 9, (6, 5))

    def own(output, labels):
        return nn.functional.cross_entropy(output["logits"][:, :-1].mT, labels[:, 1:], reduction="none").mean(dim=1)

    found = am.expected_loss(model, {"input_ids": ids, "labels": ids}, None, own).value.item()
    assert found == pytest.approx(model(ids, ids)["loss"].item(), rel=1e-12)


def test_a_class_where_an_instance_is_meant(net):
    with pytest.raises(TypeError, match=r"loss is the class MSELoss; pass an instance, MSELoss\(\)"):
        am.expected_loss(net, X, Y, nn.MSELoss)


@dataclass
class Output:
    score: Tensor
    hidden: Tensor
    n: int = 1


class Many(nn.Module):
    """Returns one score and what came before it, in whichever structure."""

    def __init__(self, pack) -> None:
        super().__init__()
        self.lower, self.drop, self.head = nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2)
        self.pack = pack

    def forward(self, x):
        h = self.drop(torch.tanh(self.lower(x)))
        return self.pack(self.head(h), h)


STRUCTURES = {
    "tuple": (lambda z, h: (z, h), lambda out: (out[0], out[1])),
    "list": (lambda z, h: [z, h], lambda out: (out[0], out[1])),
    "dict": (lambda z, h: {"logits": z, "h": h}, lambda out: (out["logits"], out["h"])),
    "dict without logits": (lambda z, h: {"a": z, "h": h}, lambda out: (out["a"], out["h"])),
    "dataclass": (Output, lambda out: (out.score, out.hidden)),
    "nested": (lambda z, h: {"o": Output(z, (h,))}, lambda out: (out["o"].score, out["o"].hidden[0])),
    "with numbers": (lambda z, h: (3, z, h, None), lambda out: (out[1], out[2])),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_callable_gets_the_whole_output(name):
    """In the eval pass, under every mask, in backward, and in the audit."""
    pack, unpack = STRUCTURES[name]
    model = Many(pack).double()
    seen = set()

    def loss(output, y):
        seen.add(type(output))
        z, h = unpack(output)
        assert z.shape == (6, 2)
        assert h.shape == (6, 3)
        return ((z - y) ** 2).sum(dim=1) + h.pow(2).sum(dim=1)

    h = torch.tanh(model.lower(X))
    truth = 0.0
    for k in range(8):
        kept = torch.tensor([k & 1, k & 2, k & 4]).bool() / 0.5
        truth = (
            truth + ((model.head(h * kept) - Y) ** 2).sum(dim=1).mean() / 8 + (h * kept).pow(2).sum(dim=1).mean() / 8
        )
    found = am.expected_loss(model, X, Y, loss)
    assert abs(found.value.item() - truth.item()) <= float(found.error)
    at_mean = ((model.head(h) - Y) ** 2).sum(dim=1).mean() + h.pow(2).sum(dim=1).mean()
    assert found.weight_scaling_loss.item() == pytest.approx(at_mean.item(), rel=1e-13)
    wanted = torch.autograd.grad(truth, list(model.parameters()))
    for a, b in zip(torch.autograd.grad(found.value, list(model.parameters())), wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    audit = am.audit(model, (X, Y), loss, progress=False)
    assert float(audit.expected.value) == pytest.approx(truth.item(), rel=1e-12)
    assert audit.instruments[0].unit_penalty.penalty.sum() > 0
    assert seen == {type(model(X))}


def test_a_callable_may_do_without_targets(net):
    def size(output, y):
        assert y is None
        return output.pow(2).sum(dim=1)

    wanted = am.expected_loss(net, X, torch.zeros_like(Y), "squared_error").value.item()
    assert am.expected_loss(net, X, None, size).value.item() == pytest.approx(wanted, rel=1e-12)
    assert am.expected_loss(net, DataLoader(X, batch_size=4), size).value.item() == pytest.approx(wanted, rel=1e-12)


class Inferring(nn.Module):
    def __init__(self, net) -> None:
        super().__init__()
        self.net = net

    @torch.inference_mode()
    def forward(self, x):
        return self.net(x)


def test_inference_mode_inside_forward(net):
    """The value is right; a gradient that cannot be is refused, as autograd itself does."""
    wanted = am.expected_loss(net, X, Y, "squared_error", method=am.methods.Enumeration())
    for loss in ("squared_error", lambda z, y: ((z - y) ** 2).sum(dim=1)):
        found = am.expected_loss(Inferring(net), X, Y, loss, method=am.methods.Enumeration())
        assert found.value.item() == pytest.approx(wanted.value.item(), rel=1e-13)
        with pytest.raises(RuntimeError, match="no derivative: does forward run under no_grad or inference_mode"):
            found.value.backward()
    assert am.predict(Inferring(net), X, task="regression").mean.shape == (6, 2)
    audit = am.audit(Inferring(net), (X, Y), "squared_error", progress=False)
    assert float(audit.expected.value) == pytest.approx(wanted.value.item(), rel=1e-13)
