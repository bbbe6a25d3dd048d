"""Models as other frameworks hold them: Lightning modules, and LayerDrop of transformers."""

import pytest
import torch
from torch import nn

import allmasks as am

lightning = pytest.importorskip("lightning")
transformers = pytest.importorskip("transformers")


class Lit(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 6), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(6, 1))

    def forward(self, x):
        return self.head(self.net(x))

    def training_step(self, batch, index):
        return self(batch[0]).mean()


def test_a_lightning_module_is_its_net():
    module = Lit()
    net = nn.ModuleDict({"net": module.net, "head": module.head})
    net.forward = lambda x: net["head"](net["net"](x))
    x = torch.randn(5, 4)
    mine, plain = (am.predict(model, x, task="regression", n_masks=256) for model in (module, net))
    assert [site.name for site in am.find_dropout(module, x)] == ["net.2", "head.0"]
    assert torch.equal(mine.mean, plain.mean)
    assert torch.equal(mine.std, plain.std)
    assert torch.equal(mine.mean_error, plain.mean_error)
    assert module.training  # as it was


@pytest.mark.parametrize("rate", [0.3, 0.0])
def test_layer_drop_is_a_bit_a_layer_and_at_rate_zero_forgotten(rate):
    torch.manual_seed(0)
    sizes = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(
        vocab_size=30, d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=10, **sizes
    )
    config.encoder_layerdrop, config.dropout = rate, 0.1
    model = transformers.BartModel(config).eval()
    x = {"input_ids": torch.randint(3, 30, (4, 6)), "decoder_input_ids": torch.randint(3, 30, (4, 5))}
    layers = [site for site in am.find_dropout(model, **x) if site.kind == "uniform"]
    assert [(site.name, site.p, site.units) for site in layers] == [
        (name, rate, 1) for name in ("encoder:rand", "encoder:rand#2") if rate
    ]
    result = am.predict(model, x, task="regression", n_masks=512)
    assert result.n_masks == 512
    with torch.no_grad():
        passes = torch.stack([model.train()(**x)[0] for _ in range(500)]).double()
    mean, own = result.mean[0], result.mean_error[0]
    error = (passes.var(dim=0) / 500 + own**2).sqrt()
    assert bool(((mean - passes.mean(dim=0)).abs() < 5 * error + 1e-6).all())
