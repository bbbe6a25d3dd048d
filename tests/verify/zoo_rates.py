"""The first half of the zoo: off, on in eval mode, rates, scales, masks that come again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verify.zoo_base import D, H, Hand, by_hand, data, entry, mlp, right, stepped, twin

# -- off, on, rates ------------------------------------------------------------------------------------------------


@entry("off")
def off_in_the_step(wrong):
    """model.eval() was never undone."""
    model = mlp()
    other = twin(model)
    return stepped(model, other.eval() if wrong else other, *data(D))


@entry("off", "5", "5")
def one_layer_off(wrong):
    model = mlp()
    return stepped(model, twin(model, **({"_5": nn.Identity()} if wrong else {})), *data(D))


@entry("off", "never reached the call", "5")
def rate_never_reached_the_kernel(wrong):
    model = mlp()
    return stepped(model, twin(model, _5=nn.Dropout(0.0 if wrong else 0.5)), *data(D))


class Functional(nn.Module):
    def __init__(self, forgets: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.forgets = nn.Linear(D, H), nn.Linear(H, 3), forgets

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.dropout(self.a(x).tanh(), 0.3, training=True if self.forgets else self.training))


@entry("on_in_eval", "dropped there too")
def functional_dropout_without_the_flag(wrong):
    x, y = data(D)
    return {"model": Functional(wrong), "x": x, "y": y, "loss": "cross_entropy"}


class Attention(nn.Module):
    """A head by itself: `rate` gives dropout_p of a module."""

    def __init__(self, rate: Callable[[Any], float], heads: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rate, self.heads = rate, heads
        self.qkv, self.out, self.drop = nn.Linear(8, 24), nn.Linear(8, 3), nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=self.rate(self))
        return self.out(self.drop(attended.transpose(1, 2).flatten(2)).mean(dim=1))


@entry("on_in_eval")
def sdpa_with_a_constant_dropout_p(wrong):
    x, y = data(5, 8)
    model = Attention((lambda module: 0.4) if wrong else (lambda module: 0.4 if module.training else 0.0))
    return {"model": model, "x": x, "y": y, "loss": "cross_entropy"}


@entry("rate", "swapped", "2")
def p_and_one_minus_p_swapped(wrong):
    model = mlp()
    return stepped(model, twin(model, _2=nn.Dropout(0.7 if wrong else 0.3)), *data(D))


@entry("rate", "another rate", "2")
def a_tenth_where_fifteen_hundredths_were_meant(wrong):
    model = mlp(first=0.1 if wrong else 0.15)
    x, y = data(D)
    expect = {"2": 0.15, "5": 0.5}
    return {"model": model, "x": x, "y": y, "loss": "cross_entropy", "expect": expect}


@entry("rate", "another rate", "2")
def a_kernel_that_draws_another_rate(wrong):
    def act(x, p, module):
        return x * torch.bernoulli(torch.full_like(x, 0.75)) / (1 - p)

    return by_hand(wrong, act, "_2", 0.4)


@entry("rate", site="2")
def a_mask_drawn_in_bfloat16(wrong):
    """Uniform numbers of 8 bits know no rate below 1/256."""

    def act(x, p, module):
        return x * (torch.rand(x.shape, dtype=torch.bfloat16) > p) / (1 - p)

    return by_hand(wrong, act, "_2", 0.005)


@entry("twice", site="5")
def dropout_twice(wrong):
    model = mlp()
    two = nn.Sequential(nn.Dropout(0.5), nn.Dropout(0.5))
    return stepped(model, twin(model, **({"_5": two} if wrong else {})), *data(D))


@entry("twice", "twice", "5")
def two_masks_in_one_kernel(wrong):
    return by_hand(wrong, lambda x, p, module: right(right(x, p, module), p, module))


class Called(nn.Module):
    def __init__(self, times: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.drop, self.b, self.times = nn.Linear(D, H), nn.Dropout(0.3), nn.Linear(H, 3), times

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        for _ in range(self.times):
            h = self.drop(h)
        return self.b(h)


@entry("twice", "one call of it is expected", "drop#2")
def the_module_called_twice(wrong):
    x, y = data(D)
    return {"model": Called(1 + wrong), "x": x, "y": y, "loss": "cross_entropy", "expect": {"drop": 0.3}}


# -- scale -----------------------------------------------------------------------------------------------------------


@entry("scale", "no 1/(1 − p)", "5")
def no_scaling(wrong):
    return by_hand(wrong, lambda x, p, module: x * torch.bernoulli(torch.full_like(x, 1 - p)))


@entry("scale", "scaled twice", "5")
def scaled_twice(wrong):
    return by_hand(wrong, lambda x, p, module: right(x, p, module) / (1 - p))


@entry("scale", "the mean of its output is not its input", "2")
def scaled_by_one_over_p(wrong):
    return by_hand(wrong, lambda x, p, module: right(x, p, module) * (1 - p) / p, "_2", 0.3)


# -- fresh masks ---------------------------------------------------------------------------------------------------


@entry("same_each_step")
def generator_reseeded_each_step(wrong):
    model = mlp()
    x, y = data(D)

    def step():
        if wrong:
            torch.manual_seed(7)
        return F.cross_entropy(model(x), y)

    return {"model": model, "x": x, "y": y, "loss": "cross_entropy", "step": step}


@entry("same_each_step", "a mask is kept", "5")
def a_mask_kept_in_a_buffer(wrong):
    def act(x, p, module):
        if not hasattr(module, "mask"):
            module.register_buffer("mask", torch.bernoulli(torch.full_like(x, 1 - p)))
        return x * module.mask / (1 - p)

    return by_hand(wrong, act)


@entry("same_each_step", site="5")
def a_mask_by_place_in_the_batch(wrong):
    """A table of masks, looked up by the row's number."""

    def act(x, p, module):
        table = torch.bernoulli(torch.full((64, x.shape[1]), 1 - p), generator=torch.Generator().manual_seed(3))
        return x * table[: len(x)] / (1 - p)

    return by_hand(wrong, act)


@entry("same_each_step", site="5", slow=True)
def four_seeds_in_turn(wrong):
    def act(x, p, module):
        module.calls = getattr(module, "calls", 0) + 1
        generator = torch.Generator().manual_seed(module.calls % 4)
        return x * torch.bernoulli(torch.full_like(x, 1 - p), generator=generator) / (1 - p)

    return by_hand(wrong, act)


@entry("same_each_step", slow=True)
def compiled_with_a_seed_inside(wrong):
    """What a captured graph does that replays one seed."""
    model = mlp()
    x, y = data(D)
    forward = torch.compile(lambda: F.cross_entropy(model(x), y), backend="eager")

    def step():
        if wrong:
            torch.manual_seed(11)
        return forward()

    return {"model": model, "x": x, "y": y, "loss": "cross_entropy", "step": step}


class LayerDrop(nn.Module):
    """A block that is skipped for the whole batch; `frozen`: the coin was tossed once."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.block, self.b = nn.Linear(D, H), nn.Linear(H, H), nn.Linear(H, 3)
        self.gate = Hand(0.5, self.toss)
        self.frozen, self.tossed = frozen, None

    def toss(self, x: Tensor, p: float, module: Any) -> Tensor:
        if self.tossed is None or not self.frozen:
            self.tossed = torch.bernoulli(torch.full((1, 1), 1 - p))
        return x * self.tossed / (1 - p)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        return self.b(h + 3 * self.gate(self.block(h).tanh()))


@entry("same_each_step", slow=True)
def layer_drop_tossed_once(wrong):
    model = LayerDrop(False)
    other = twin(model)
    other.frozen = wrong
    other.gate.act = other.toss
    return stepped(model, other, *data(D))
