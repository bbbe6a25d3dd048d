"""Right and wrong training steps: each wrong one is named after its fault, and has a right twin.

An entry is a right model with a wrong step, or a wrong model with an expectation. `make(wrong)` gives the arguments of
`am.verify`; with `wrong=False` the same with nothing wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from verify.zoo_base import ZOO, D, Entry, H, Hand, N, by_hand, data, entry, mlp, right, stepped, twin
from verify.zoo_rates import Attention

__all__ = ["ZOO", "Entry"]


# -- independence --------------------------------------------------------------------------------------------------


@entry("shared_by_examples", "examples", "5")
def one_mask_for_the_batch(wrong):
    return by_hand(wrong, lambda x, p, module: x * torch.bernoulli(torch.full_like(x[:1], 1 - p)) / (1 - p))


@entry("shared_by_examples", site="5")
def antithetic_neighbors(wrong):
    def act(x, p, module):
        kept = torch.rand(len(x) // 2, x.shape[1]) < 0.5
        return x * torch.stack((kept, ~kept), dim=1).reshape(x.shape) / (1 - p)

    return by_hand(wrong, act)


@entry("shared_by_examples", site="2")
def accumulation_with_a_reseeded_generator(wrong):
    """Two half batches whose masks are the same, fresh at each step."""
    model = mlp()
    x, y = data(D)
    count = [0]

    def step():
        count[0] += 1
        losses = []
        for half in (slice(0, N // 2), slice(N // 2, N)):
            if wrong:
                torch.manual_seed(1000 + count[0])
            losses.append(F.cross_entropy(model(x[half]), y[half]))
        return sum(losses) / 2

    return {"model": model, "x": x, "y": y, "loss": "cross_entropy", "step": step}


class Paths(nn.Module):
    """Stochastic depth."""

    def __init__(self, act: Callable[[Tensor, float, Any], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.block, self.b = nn.Linear(D, H), nn.Linear(H, H), nn.Linear(H, 3)
        self.path = Hand(0.3, act)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        return self.b(h + 3 * self.path(self.block(h).tanh()))


def row_wise(x, p, module):
    return x * torch.bernoulli(torch.full((len(x), 1), 1 - p)) / (1 - p)


def batch_wise(x, p, module):
    return x * torch.bernoulli(torch.full((1, 1), 1 - p)) / (1 - p)


@entry("shared_by_examples")
def drop_path_per_batch(wrong):
    model = Paths(row_wise)
    return stepped(model, twin(model, path=Hand(0.3, batch_wise if wrong else row_wise)), *data(D))


@entry("shared_by_examples", "where row is expected", slow=True)
def drop_path_per_batch_in_the_model(wrong):
    x, y = data(D)
    expect = {"path": {"p": 0.3, "sharing": "row"}}
    model = Paths(batch_wise if wrong else row_wise)
    return {"model": model, "x": x, "y": y, "loss": "cross_entropy", "expect": expect}


class Tokens(nn.Module):
    """(n, time, units) → classes."""

    def __init__(self, drop: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.drop, self.b = nn.Linear(8, 12), drop, nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.drop(self.a(x).tanh()).mean(dim=1))


def over_time(x, p, module):
    return x * torch.bernoulli(torch.full_like(x[:, :1], 1 - p)) / (1 - p)


@entry("shared_over_time", "time", "drop")
def one_mask_over_time(wrong):
    model = Tokens(nn.Dropout(0.3))
    return stepped(model, twin(model, **({"drop": Hand(0.3, over_time)} if wrong else {})), *data(5, 8))


@entry("shared_over_time", "where time is expected", slow=True)
def fresh_over_time_where_one_mask_is_declared(wrong):
    x, y = data(5, 8)
    model = Tokens(nn.Dropout(0.3) if wrong else Hand(0.3, over_time))
    expect = {"drop": {"p": 0.3, "sharing": "time"}}
    return {"model": model, "x": x, "y": y, "loss": "cross_entropy", "expect": expect}


@entry("shared_by_units", site="drop")
def channel_dropout_where_element_dropout_is_declared(wrong):
    model = Tokens(nn.Dropout(0.3))
    return stepped(model, twin(model, **({"drop": nn.Dropout1d(0.3)} if wrong else {})), *data(5, 8))


class Heads(nn.Module):
    def __init__(self, weights_drop: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qk, self.v, self.out, self.drop = nn.Linear(8, 32), nn.Linear(8, 16), nn.Linear(16, 3), weights_drop

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).unflatten(-1, (2, 4, 4)).permute(2, 0, 3, 1, 4)
        v = self.v(x).unflatten(-1, (4, 4)).transpose(1, 2)
        weights = self.drop((q @ k.transpose(-2, -1)).softmax(dim=-1))
        return self.out((weights @ v).transpose(1, 2).flatten(2).mean(dim=1))


@entry("shared_by_units", site="drop", slow=True)
def one_mask_for_all_heads(wrong):
    model = Heads(nn.Dropout(0.3))

    def act(x, p, module):
        return x * torch.bernoulli(torch.full_like(x[:, :1], 1 - p)) / (1 - p)

    return stepped(model, twin(model, drop=Hand(0.3, act if wrong else right)), *data(5, 8))


@entry("shared_by_sites", "both draw from one seed")
def masks_shared_by_two_layers(wrong):
    model = mlp(0.5, 0.5)
    count = [0]

    def act(x, p, module):
        count[0] += 1
        generator = torch.Generator().manual_seed((count[0] - 1) // 2)
        return x * torch.bernoulli(torch.full_like(x, 1 - p), generator=generator) / (1 - p)

    hand = act if wrong else right
    return stepped(model, twin(model, _2=Hand(0.5, hand), _5=Hand(0.5, hand)), *data(D))


# -- backward ------------------------------------------------------------------------------------------------------


class Checkpointed(nn.Module):
    def __init__(self, body: nn.Module, preserve: bool) -> None:
        super().__init__()
        self.body, self.preserve = body, preserve

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.body, x, use_reentrant=False, preserve_rng_state=self.preserve)


@entry("backward_mask", "checkpointed")
def checkpoint_without_the_generators_state(wrong):
    model = mlp()
    body = Checkpointed(model, not wrong)
    return stepped(model, body, *data(D))


class DrawsAnew(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p):
        ctx.p = p
        return x * torch.bernoulli(torch.full_like(x, 1 - p)) / (1 - p)

    @staticmethod
    def backward(ctx, grad):
        return grad * torch.bernoulli(torch.full_like(grad, 1 - ctx.p)) / (1 - ctx.p), None


@entry("backward_mask", "backward")
def a_backward_that_draws_anew(wrong):
    return by_hand(wrong, lambda x, p, module: DrawsAnew.apply(x, p))


class NoMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p):
        return x * torch.bernoulli(torch.full_like(x, 1 - p)) / (1 - p)

    @staticmethod
    def backward(ctx, grad):
        return grad, None


@entry("backward_mask", "gradient")
def a_backward_without_a_mask(wrong):
    return by_hand(wrong, lambda x, p, module: NoMask.apply(x, p))


# -- sites that are lost or new ------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = (
            nn.LSTM(8, 12, layers, dropout=0.3 if layers > 1 else 0.0, batch_first=True),
            nn.Linear(12, 3),
        )
        self.rnn.dropout = 0.3

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@entry("never_ran", "drops between its layers", "rnn", slow=True)
def lstm_dropout_with_one_layer(wrong):
    x, y = data(5, 8)
    return {"model": Recurrent(1 if wrong else 2), "x": x, "y": y, "loss": "cross_entropy", "expect": {"rnn": 0.3}}


@entry("missing_site", "fast path")
def attention_dropout_lost_on_a_fast_path(wrong):
    x, y = data(5, 8)
    model = Attention(lambda module: 0.0 if wrong or not module.training else 0.4)
    expect = {"(root):scaled_dot_product_attention": 0.4, "drop": 0.2}
    return {"model": model, "x": x, "y": y, "loss": "cross_entropy", "expect": expect}


@entry("off", "never reached the call", slow=True)
def attention_dropout_lost_in_the_step(wrong):
    x, y = data(5, 8)
    model = Attention(lambda module: 0.4 if module.training else 0.0)
    other = twin(model)
    if wrong:
        other.rate = lambda module: 0.0
    with torch.no_grad():
        model.qkv.weight.mul_(4)
    return stepped(model, other, x, y)


class Unused(nn.Module):
    def __init__(self, used: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.drop, self.b, self.used = nn.Linear(D, H), nn.Dropout(0.3), nn.Linear(H, 3), used

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        return self.b(self.drop(h) if self.used else h)


@entry("never_ran", "is never called", "drop")
def a_module_that_nobody_calls(wrong):
    x, y = data(D)
    return {"model": Unused(not wrong), "x": x, "y": y, "loss": "cross_entropy", "expect": {"drop": 0.3}}


@entry("unexpected_site", "not in the expectation", "2")
def a_dropout_that_nobody_meant(wrong):
    x, y = data(D)
    return {"model": mlp(0.3 if wrong else 0.0), "x": x, "y": y, "loss": "cross_entropy", "expect": {"5": 0.5}}


@entry("unexpected_site", "kind", "1", slow=True)
def plain_dropout_where_alpha_dropout_is_meant(wrong):
    torch.manual_seed(0)
    drop = nn.Dropout(0.2) if wrong else nn.AlphaDropout(0.2)
    x, y = data(D)
    model = nn.Sequential(nn.Linear(D, H), drop, nn.Linear(H, 3))
    expect = {"1": {"p": 0.2, "kind": "alpha_dropout"}}
    return {"model": model, "x": x, "y": y, "loss": "cross_entropy", "expect": expect}


# -- neither of these ----------------------------------------------------------------------------------------------


@entry("law", "another loss", slow=True)
def another_loss_in_the_step(wrong):
    model = mlp()
    x, y = data(D)
    smoothing = 0.1 if wrong else 0.0
    step = lambda: F.cross_entropy(model(x), y, label_smoothing=smoothing)  # noqa: E731
    return {"model": model, "x": x, "y": y, "loss": "cross_entropy", "step": step}


class Gaussian(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, p):
        noise = 1 + torch.randn(x.shape) * (p / (1 - p)) ** 0.5 * 2
        ctx.save_for_backward(noise)
        return x * noise

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0], None


@entry("law", slow=True)
def noise_of_another_law(wrong):
    """Gaussian noise of four times the variance: no mask that could be seen."""
    model = mlp()
    with torch.no_grad():
        model[6].weight.mul_(5)
    return stepped(
        model, twin(model, _5=Hand(0.5, (lambda x, p, m: Gaussian.apply(x, p)) if wrong else right)), *data(D)
    )
