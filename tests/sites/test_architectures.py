"""Sites against draws counted independently, over a table of architectures: none missed, none invented, each works."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import allmasks as am
from allmasks.over_masks.data import Data
from allmasks.over_masks.forward import Forward
from allmasks.over_masks.sources import MaskChunk
from architectures import ARCHITECTURES, Architecture, mlp, x

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections")
each = pytest.mark.parametrize("case", ARCHITECTURES, ids=lambda c: c.name)


class Draws(TorchDispatchMode):
    """Counts random operations by torch's own tag, as they reach the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.rates: list[float] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if torch.Tag.nondeterministic_seeded in func.tags:
            values = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | (kwargs or {})
            off = values.get("dropout_p", 1.0) == 0.0 or values.get("p", 1.0) == 0.0
            scalar = (
                isinstance(result, torch.Tensor) and result.ndim == 0
            )  # LayerDrop of rate 0 draws one and forgets it
            if not off and not scalar:
                self.rates.append(values.get("p", None))
        return result


def built(case: Architecture):
    if case.needs:
        pytest.importorskip(case.needs)
    return case()


def draws_in_training(model: nn.Module, args, kwargs) -> int:
    model.train()
    with torch.random.fork_rng(), torch.no_grad(), Draws() as draws:
        model(*args, **kwargs)
    model.eval()
    return len(draws.rates)


def draws_of(site: am.DropoutSite, model: nn.Module) -> int:
    """A recurrent site stands for the masks of all layers but the last."""
    if site.kind in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        return model.get_submodule(site.name).num_layers - 1
    return 1


@each
def test_sites_are_the_draws_of_training_mode(case):
    model, args, kwargs = built(case)
    drawn = draws_in_training(model, args, kwargs)
    for train in (True, False):
        model.train(train)
        sites = am.find_dropout(model, *args, batch_dim=case.batch_dim, **kwargs)
        assert all(site.controllable for site in sites), [site for site in sites if not site.controllable]
        assert sum(draws_of(site, model) for site in sites) == drawn > 0
        assert len({site.name for site in sites}) == len(sites)


@each
def test_each_site_alone_changes_the_output_and_none_leaves_it(case):
    model, args, kwargs = built(case)
    model.eval()
    sites = am.find_dropout(model, *args, batch_dim=case.batch_dim, **kwargs)
    data = Data(kwargs or args, batch_dim=case.batch_dim)
    batch = data.first(8)
    generator = torch.Generator().manual_seed(0)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        plain = [leaf for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
        for site in sites:
            forward = Forward(model, (site,), extract=lambda output: list(tree_leaves(output)), batched=False)
            rows = 1 if site.batch_dim is None else len(batch)
            changed = False
            for _ in range(20):
                kept = torch.rand(1, rows, site.units, generator=generator) < 1 - site.p
                ((_, outputs),) = forward(batch, MaskChunk({site.name: kept}, torch.ones(1), 0))
                tensors = [leaf[0] for leaf in outputs if isinstance(leaf, torch.Tensor)]
                changed = any(not torch.allclose(a, b, atol=1e-6) for a, b in zip(tensors, plain, strict=True))
                if changed:
                    break
            assert changed, site
        again = [leaf for leaf in tree_leaves(model(*args, **kwargs)) if isinstance(leaf, torch.Tensor)]
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert not any(module.training for module in model.modules())


def test_the_table_is_large_enough():
    assert len(ARCHITECTURES) >= 25
    assert sum(case.needs == "transformers" for case in ARCHITECTURES) >= 10


def test_a_missed_site_would_be_noticed():
    # The planted fault: a model whose functional dropout goes around us, in another thread.
    import threading

    class Elsewhere(nn.Module):
        def forward(self, h):
            out = []
            thread = threading.Thread(target=lambda: out.append(nn.functional.dropout(h, 0.5, self.training)))
            thread.start()
            thread.join()
            return out[0]

    model = nn.Sequential(mlp(), Elsewhere())
    *sites, beside = am.find_dropout(model, x(5, 6))
    assert len(sites) == 2  # what another thread draws is invisible: that it draws is not
    assert (beside.name, beside.controllable) == ("(root):random", False)
    assert "its output changes from pass to pass" in beside.reason
