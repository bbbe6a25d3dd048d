"""Models as they are met: batch sizes built in, outputs whose first part is one number, exceptions of their own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import allmasks as am

X = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)).double()
Y = torch.arange(12) % 3


def head():
    torch.manual_seed(0)
    return nn.Linear(6, 3).double()


class Baked(nn.Module):
    """Takes batches of 12 and nothing else, and draws in that shape."""

    def __init__(self, how):
        super().__init__()
        self.out, self.how = head(), how

    def forward(self, x):
        x = x.view(12, 6)
        if self.how == "rows" and self.training:
            x = x * (torch.rand(12, 1) >= 0.4) / 0.6
        return self.out(F.dropout(x, 0.4, self.training) if self.how == "call" else x)


@pytest.mark.parametrize("how", ["call", "rows"])
def test_a_batch_size_built_in_is_no_error_of_ours(how):
    class Free(Baked):
        def forward(self, x):
            if self.how == "rows" and self.training:
                x = x * (torch.rand(len(x), 1) >= 0.4) / 0.6
            return self.out(F.dropout(x, 0.4, self.training) if self.how == "call" else x)

    baked, free = (am.expected_loss(kind(how), X, Y, "cross_entropy", n_masks=64) for kind in (Baked, Free))
    assert torch.allclose(baked.value, free.value, atol=1e-12)
    predicted = [am.predict(kind(how), X, task="multiclass", n_masks=64).mean for kind in (Baked, Free)]
    assert torch.allclose(*predicted, atol=1e-12)
    assert [site.shape for site in am.find_dropout(Baked(how), X)] == [(6,) if how == "call" else (1,)]
    with pytest.raises(RuntimeError, match=r"shape '\[12, 6\]' is invalid"):
        am.expected_loss(Baked(how), X[:11], Y[:11], "cross_entropy")


class Own(Exception):
    """Of the user's."""


@pytest.mark.parametrize("where", ["forward", "loss", "masks"])
def test_an_exception_of_the_models_own_comes_back_as_itself(where):
    class Raises(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = head()

        def forward(self, x):
            h = F.dropout(x, 0.4, self.training)
            if where == "forward" or (where == "masks" and (h == 0).any()):
                raise Own("mine")
            return self.out(h)

    def loss(output, y):
        if where == "loss":
            raise Own("mine")
        return F.cross_entropy(output, y, reduction="none")

    with pytest.raises(Own, match=r"^mine$") as raised:
        am.expected_loss(Raises(), X, Y, loss, n_masks=16)
    assert raised.value.__cause__ is None
    if where != "loss":
        with pytest.raises(Own, match=r"^mine$"):
            am.predict(Raises(), X, task="regression", n_masks=16)


class LossFirst(nn.Module):
    """As transformers with labels: its own loss before the scores."""

    def __init__(self, kind):
        super().__init__()
        self.out, self.kind = head(), kind

    def forward(self, x, start_positions=None):
        scores = self.out(F.dropout(x, 0.4, self.training))
        loss = scores.square().mean()
        return (loss, scores) if self.kind is tuple else {"loss": loss, "start": scores}


@pytest.mark.parametrize("kind", [tuple, dict])
def test_a_loss_of_the_models_own_before_its_scores_is_passed_over(kind):
    model, inputs = LossFirst(kind), {"x": X, "start_positions": Y}
    plain = nn.Sequential(nn.Dropout(0.4), model.out)
    ours = am.expected_loss(model, inputs, Y, "cross_entropy", method=am.methods.Enumeration())
    assert torch.allclose(
        ours.value, am.expected_loss(plain, X, Y, "cross_entropy", method=am.methods.Enumeration()).value, atol=1e-12
    )
    (site,) = am.find_dropout(model, **inputs)
    assert site.shape == (6,)
    predicted = am.predict(model, inputs, task="regression")
    rows = predicted.mean[1] if kind is tuple else predicted.mean["start"]
    assert torch.allclose(rows, am.predict(plain, X, task="regression").mean, atol=1e-12)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_dropout_of_data_parallel_and_exported_and_compiled_models_is_that_of_the_model_inside():
    net = nn.Sequential(nn.Dropout(0.4), head())
    truth = am.expected_loss(net, X, Y, "cross_entropy", method=am.methods.Enumeration()).value
    for wrapped in (nn.DataParallel(net), torch.compile(net)):
        (site,) = [site for site in am.find_dropout(wrapped, X) if site.p > 0]
        assert (site.p, site.shape, site.controllable) == (0.4, (6,), True)
        found = am.expected_loss(wrapped, X, Y, "cross_entropy", method=am.methods.Enumeration())
        assert torch.allclose(found.value, truth, atol=1e-12)
    exported = torch.export.export(net.train(), (X,)).module()
    (site,) = am.find_dropout(exported, X)
    assert site.p == 0.4
    found = am.expected_loss(exported, X, Y, "cross_entropy", method=am.methods.Enumeration())
    assert torch.allclose(found.value, truth, atol=1e-12)


def test_lora_takes_masks_of_its_own():
    peft = pytest.importorskip("peft")
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, lora_dropout=0.25, target_modules=["0", "2"], init_lora_weights=False)
    model = peft.get_peft_model(net, config).double()
    sites = [site for site in am.find_dropout(model, X) if site.p > 0]
    assert [(site.p, site.shape) for site in sites] == [(0.25, (6,)), (0.25, (4,))]
    result = am.expected_loss(model, X, Y, "cross_entropy", method=am.methods.Enumeration())
    model.train()
    torch.manual_seed(0)
    with torch.no_grad():
        runs = torch.stack([F.cross_entropy(model(X), Y) for _ in range(1000)])
    z = (runs.mean() - result.value) / (runs.std() / 1000**0.5)
    assert abs(z) < 4.5
    assert abs((runs.mean() - result.weight_scaling_loss) / (runs.std() / 1000**0.5)) > 4.5
