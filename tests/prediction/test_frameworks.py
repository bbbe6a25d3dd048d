"""Models as other frameworks hold them: Lightning modules, and LayerDrop of transformers, which has no mask."""

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
def test_layer_drop_is_refused_by_name_and_at_rate_zero_forgotten(rate):
    torch.manual_seed(0)
    sizes = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(
        vocab_size=30, d_model=8, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=10, **sizes
    )
    config.encoder_layerdrop, config.dropout = rate, 0.1
    model = transformers.BartModel(config).eval()
    x = {"input_ids": torch.randint(3, 30, (4, 6)), "decoder_input_ids": torch.randint(3, 30, (4, 5))}
    if rate:
        with pytest.raises(am.UncontrolledRandomness, match="encoder:rand"):
            am.predict(model, x, task="regression", n_masks=256)
    else:
        assert am.predict(model, x, task="regression", n_masks=256).n_masks == 256
