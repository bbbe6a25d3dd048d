"""Architectures whose dropout sites are counted: builders of (model, args, kwargs), random weights, tiny sizes.

A row of `ARCHITECTURES` is one of our own; other packages' lie in `tests/rows`, one line each. `TABLE` is all.

    python tests/architectures.py                    every row: sites, draws, verdict
    python tests/architectures.py --only swin        rows whose name holds this
    python tests/architectures.py --write docs/architectures.md
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rows import let_torchvision_load


@dataclass(frozen=True)
class Architecture:
    """`build()` gives the model, its positional and its keyword inputs; `sites` is how many there are, where known."""

    name: str
    build: Callable[[], tuple[nn.Module, tuple[Any, ...], dict[str, Any]]]
    batch_dim: int | str | None = None
    kinds: frozenset[str] = field(default_factory=frozenset)
    needs: str | None = None

    def __call__(self) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        if self.needs in ("torchvision", "timm", "transformers", "peft"):
            let_torchvision_load()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return self.build()


def x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.1), nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 3))


class Functional(nn.Module):
    """As torch_geometric's layers and examples write it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.p = nn.Linear(6, 8), nn.Linear(8, 3), 0.3

    def forward(self, h: Tensor) -> Tensor:
        h = F.dropout(h, p=self.p, training=self.training)
        h = F.relu(self.a(h))
        h = F.dropout(h, self.p, self.training)
        return F.log_softmax(self.b(h), dim=1)


class Graph(nn.Module):
    """A torch_geometric-style attention layer: functional dropout on features and on edge weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.out = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, nodes: Tensor, adjacency: Tensor) -> Tensor:
        h = F.dropout(self.lift(nodes), p=0.2, training=self.training)
        weights = torch.softmax(adjacency + h @ h.transpose(1, 2), dim=-1)
        weights = F.dropout(weights, p=0.3, training=self.training)
        return self.out(torch.relu(weights @ h)).mean(dim=1)


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop, self.a, self.b = nn.Dropout(0.3), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, h: Tensor) -> Tensor:
        return self.b(self.drop(torch.tanh(self.a(self.drop(torch.tanh(self.a(self.drop(h))))))))


class Recurrent(nn.Module):
    def __init__(self, kind: str, **kwargs: Any) -> None:
        super().__init__()
        self.rnn = getattr(nn, kind)(5, 6, num_layers=3, dropout=0.3, batch_first=True, **kwargs)
        self.head = nn.LazyLinear(2)

    def forward(self, h: Tensor) -> Tensor:
        return self.head(self.rnn(h)[0][:, -1])


class Packed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(5, 6, num_layers=2, dropout=0.3, batch_first=True, bidirectional=True)
        self.drop, self.head = nn.Dropout(0.2), nn.Linear(6, 2)

    def forward(self, h: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(h, lengths, batch_first=True, enforce_sorted=False)
        return self.head(self.drop(self.rnn(packed)[1][-1]))


class Attention(nn.Module):
    def __init__(self, need_weights: bool, batch_first: bool = True) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(8, 2, dropout=0.2, batch_first=batch_first)
        self.need_weights, self.time = need_weights, 1 if batch_first else 0

    def forward(self, h: Tensor) -> Tensor:
        return self.mha(h, h, h, need_weights=self.need_weights)[0].mean(dim=self.time)


class Sdpa(nn.Module):
    """As people write it, the rate lost in eval mode."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 2)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = self.qkv(h).reshape(*h.shape[:2], 3, 2, 4).permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v, dropout_p=0.25 if self.training else 0.0)
        return self.out(a.transpose(1, 2).flatten(2)).mean(dim=1)


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Transformer(8, 2, 2, 1, 16, dropout=0.2, batch_first=True)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.net(source, target)


class StochasticDepth(nn.Module):
    """As torchvision.ops.StochasticDepth computes it."""

    def __init__(self, p: float, mode: str) -> None:
        super().__init__()
        self.p, self.mode = p, mode

    def forward(self, h: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return h
        survival = 1.0 - self.p
        size = [h.shape[0]] + [1] * (h.ndim - 1) if self.mode == "row" else [1] * h.ndim
        noise = torch.empty(size, dtype=h.dtype, device=h.device)
        noise = noise.bernoulli_(survival)
        if survival > 0.0:
            noise.div_(survival)
        return h * noise


class DropPath(nn.Module):
    """As timm and transformers compute it."""

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, h: Tensor) -> Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return h
        keep = 1 - self.drop_prob
        mask = torch.rand((h.shape[0],) + (1,) * (h.ndim - 1), dtype=h.dtype, device=h.device)
        return h.div(keep) * torch.floor(mask + keep)


class DropBlock(nn.Module):
    """As torchvision.ops.DropBlock2d computes it; drawn from uniform numbers, as timm has it."""

    def __init__(self, p: float, uniform: bool = False) -> None:
        super().__init__()
        self.p, self.uniform, self.block = p, uniform, 3

    def forward(self, h: Tensor) -> Tensor:
        if not self.training or self.p == 0.0:
            return h
        n, c, height, width = h.shape
        inner = (height - self.block + 1, width - self.block + 1)
        gamma = self.p * height * width / (self.block**2 * inner[0] * inner[1])
        if self.uniform:
            seeds = (torch.rand_like(h) < gamma).to(h.dtype)
        else:
            seeds = F.pad(torch.empty(n, c, *inner, dtype=h.dtype).bernoulli_(gamma), [self.block // 2] * 4)
        kept = 1 - F.max_pool2d(seeds, kernel_size=self.block, stride=1, padding=self.block // 2)
        return h * kept * (kept.numel() / (1e-6 + kept.sum()))


class PathTwice(nn.Module):
    """One drop-path module for both branches of a block, as BEiT, Swin v2 and DINOv2 have it."""

    def __init__(self, p: float, scale: float = 1.0) -> None:
        super().__init__()
        self.path, self.a, self.b, self.scale = DropPath(p), nn.Linear(6, 6), nn.Linear(6, 6), scale

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.scale * self.path(torch.tanh(self.a(h)))
        return h + self.scale * self.path(torch.tanh(self.b(h)))


class Residual(nn.Module):
    def __init__(self, drop: nn.Module, width: int = 6) -> None:
        super().__init__()
        self.drop, self.linear = drop, nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.drop(torch.tanh(self.linear(h)))


class ByHand(nn.Module):
    """Switches on its own flag; the layer inside keeps BatchNorm's statistics out of it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.4)

    def forward(self, h: Tensor) -> Tensor:
        h = torch.relu(self.norm(self.linear(h)))
        if self.training:
            h = h * torch.bernoulli(torch.full_like(h, 0.75)) / 0.75
            h = self.drop(h)
        return h


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(4, 4, 3), nn.InstanceNorm2d(4),
        nn.Flatten(), nn.Dropout(0.5), nn.Linear(4 * 16, 3),
    )  # fmt: skip


def alpha() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), nn.SELU(), nn.AlphaDropout(0.2), nn.Linear(8, 8), nn.SELU(), nn.FeatureAlphaDropout(0.2),
        nn.Linear(8, 3),
    )  # fmt: skip


def volumes() -> nn.Module:
    return nn.Sequential(
        nn.Conv3d(1, 2, 2), nn.ReLU(), nn.Dropout3d(0.4), nn.Flatten(2), nn.Dropout1d(0.4), nn.Flatten(),
        nn.Linear(2 * 27, 2),
    )  # fmt: skip


def compiled() -> nn.Module:
    net = mlp()
    net[3] = torch.compile(nn.Sequential(nn.Dropout(0.4), nn.Linear(8, 8)), backend="eager")
    return net


def tokens(model: nn.Module, vocabulary: int = 50, **more: Any) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    ids = torch.randint(5, vocabulary, (4, 7), generator=torch.Generator().manual_seed(2))
    return model, (), {"input_ids": ids, "attention_mask": torch.ones_like(ids), **more}


SMALL = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def hf(kind: str, config: str, attention: str | None = None, **kwargs: Any) -> Callable[[], Any]:
    def build() -> Any:
        import transformers

        extra = {} if attention is None else {"attn_implementation": attention}
        return tokens(getattr(transformers, kind)(getattr(transformers, config)(**kwargs, **extra)))

    return build


def hf_pairs(kind: str, config: str, **kwargs: Any) -> Callable[[], Any]:
    def build() -> Any:
        model, _, inputs = hf(kind, config, **kwargs)()
        return model, (), {**inputs, "decoder_input_ids": inputs["input_ids"][:, :5]}

    return build


def hf_pixels(kind: str, config: str, **kwargs: Any) -> Callable[[], Any]:
    def build() -> Any:
        import transformers

        return getattr(transformers, kind)(getattr(transformers, config)(**kwargs)), (), {"pixel_values": x(4, 3, 8, 8)}

    return build


def _encoder(norm_first: bool) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.2, batch_first=True, norm_first=norm_first)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 16, 0.2)

    def forward(self, target: Tensor, memory: Tensor) -> Tensor:
        return self.layer(target, memory)


def _recurrent(kind: str, **kwargs: Any) -> Callable[[], Any]:
    def build() -> Any:
        model = Recurrent(kind, **kwargs)
        model(x(4, 7, 5))
        return model, (x(4, 7, 5),), {}

    return build


_BART = {
    "vocab_size": 50, "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "attention_dropout": 0.1,
    "activation_dropout": 0.1, "max_position_embeddings": 32, "pad_token_id": 0, "decoder_start_token_id": 1,
}  # fmt: skip

LATER = frozenset({"later"})
"""Not in the record that tests/test_golden.py holds the present against."""

ARCHITECTURES = [
    Architecture("mlp", lambda: (mlp(), (x(5, 6),), {})),
    Architecture("functional", lambda: (Functional(), (x(5, 6),), {})),
    Architecture("graph", lambda: (Graph(), (x(5, 3, 4), x(5, 3, 3)), {})),
    Architecture("reused", lambda: (Reused(), (x(5, 6),), {})),
    Architecture("convolution", lambda: (conv(), (x(5, 2, 8, 8),), {})),
    Architecture("alpha dropout", lambda: (alpha(), (x(5, 6),), {})),
    Architecture("volumes", lambda: (volumes(), (x(5, 1, 4, 4, 4),), {})),
    Architecture("LSTM", _recurrent("LSTM")),
    Architecture("LSTM, both ways, projected", _recurrent("LSTM", bidirectional=True, proj_size=4)),
    Architecture("GRU", _recurrent("GRU")),
    Architecture("RNN", _recurrent("RNN")),
    Architecture("packed GRU", lambda: (Packed(), (x(4, 7, 5), torch.tensor([3, 7, 5, 7])), {})),
    Architecture("attention with weights", lambda: (Attention(True), (x(5, 4, 8),), {})),
    Architecture("attention without weights", lambda: (Attention(False), (x(5, 4, 8),), {})),
    Architecture("attention, time first", lambda: (Attention(False, False), (x(4, 5, 8),), {}), batch_dim=1),
    Architecture("sdpa", lambda: (Sdpa(), (x(5, 4, 8),), {})),
    Architecture("encoder", lambda: (_encoder(False), (x(5, 4, 8),), {})),
    Architecture("encoder, norm first", lambda: (_encoder(True), (x(5, 4, 8),), {})),
    Architecture("decoder layer", lambda: (Decoder(), (x(4, 5, 8), x(3, 5, 8)), {}), batch_dim=1),
    Architecture("transformer", lambda: (Transformer(), (x(5, 4, 8), x(5, 3, 8)), {})),
    Architecture(
        "stochastic depth",
        lambda: (
            nn.Sequential(Residual(StochasticDepth(0.3, "row")), Residual(StochasticDepth(0.2, "batch"))),
            (x(5, 6),),
            {},
        ),
    ),
    Architecture(
        "drop path", lambda: (nn.Sequential(Residual(DropPath(0.3)), Residual(DropPath(0.1))), (x(5, 6),), {})
    ),
    Architecture(
        "drop path called twice",
        lambda: (nn.Sequential(PathTwice(0.3), PathTwice(0.1)), (x(5, 6),), {}),
        kinds=LATER,
    ),
    Architecture(
        "drop path behind a layer scale",
        lambda: (nn.Sequential(PathTwice(0.3, 1e-5)), (x(5, 6),), {}),
        kinds=LATER,
    ),
    Architecture(
        "DropBlock",
        lambda: (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), DropBlock(0.4)), (x(4, 2, 7, 7),), {}),
        kinds=LATER,
    ),
    Architecture(
        "DropBlock, uniform numbers",
        lambda: (nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), DropBlock(0.4, uniform=True)), (x(4, 2, 7, 7),), {}),
        kinds=LATER,
    ),
    Architecture("by hand", lambda: (nn.Sequential(ByHand(), nn.Linear(6, 2)), (x(5, 6),), {})),
    Architecture("compiled part", lambda: (compiled(), (x(5, 6),), {})),
    Architecture("Bert", hf("BertModel", "BertConfig", **SMALL), needs="transformers"),
    Architecture("Bert, eager", hf("BertModel", "BertConfig", "eager", **SMALL), needs="transformers"),
    Architecture("Bert, classes", hf("BertForSequenceClassification", "BertConfig", **SMALL), needs="transformers"),
    Architecture("Roberta", hf("RobertaModel", "RobertaConfig", "eager", **SMALL), needs="transformers"),
    Architecture(
        "DistilBert",
        hf("DistilBertModel", "DistilBertConfig", vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=24),
        needs="transformers",
    ),
    Architecture("Electra", hf("ElectraModel", "ElectraConfig", embedding_size=8, **SMALL), needs="transformers"),
    Architecture(
        "Albert",
        hf(
            "AlbertModel",
            "AlbertConfig",
            embedding_size=8,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            **SMALL,
        ),
        needs="transformers",
    ),
    Architecture(
        "GPT2", hf("GPT2Model", "GPT2Config", vocab_size=50, n_embd=16, n_layer=2, n_head=2), needs="transformers"
    ),
    Architecture(
        "GPT2, eager",
        hf("GPT2LMHeadModel", "GPT2Config", "eager", vocab_size=50, n_embd=16, n_layer=1, n_head=2),
        needs="transformers",
    ),
    Architecture(
        "OPT",
        hf(
            "OPTForCausalLM",
            "OPTConfig",
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            ffn_dim=24,
            num_attention_heads=2,
            word_embed_proj_dim=16,
            attention_dropout=0.1,
        ),
        needs="transformers",
    ),
    Architecture("Llama", hf("LlamaForCausalLM", "LlamaConfig", attention_dropout=0.2, **SMALL), needs="transformers"),
    Architecture(
        "Mistral, grouped heads",
        hf("MistralModel", "MistralConfig", "eager", attention_dropout=0.2, num_key_value_heads=1, head_dim=8, **SMALL),
        needs="transformers",
    ),
    Architecture(
        "T5",
        hf_pairs(
            "T5ForConditionalGeneration",
            "T5Config",
            vocab_size=50,
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=1,
            num_heads=2,
            decoder_start_token_id=0,
        ),
        needs="transformers",
    ),
    Architecture("Bart", hf_pairs("BartModel", "BartConfig", **_BART), needs="transformers"),
    Architecture(
        "Marian, eager", hf_pairs("MarianMTModel", "MarianConfig", attention="eager", **_BART), needs="transformers"
    ),
    Architecture(
        "ViT",
        hf_pixels(
            "ViTForImageClassification",
            "ViTConfig",
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            image_size=8,
            patch_size=4,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
        ),
        needs="transformers",
    ),
    Architecture(
        "Swin, windows and drop path",
        hf_pixels(
            "SwinModel",
            "SwinConfig",
            image_size=8,
            patch_size=1,
            embed_dim=8,
            depths=[2],
            num_heads=[2],
            window_size=4,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            drop_path_rate=0.2,
        ),
        needs="transformers",
    ),
]
"""One row an architecture; every test of tests/sites/test_architectures.py meets each."""


def _rows() -> list[Architecture]:
    """Other packages' models, one line each."""
    from rows import adapters, language, vision

    sixty = [
        (f"{kind}, {attention}", language.of_type(kind, attention))
        for kind in language.SIXTY
        for attention in ("eager", "sdpa")
        if attention == "eager" or kind not in language.EAGER_ALONE
    ]
    packages = {
        "torchvision": vision.TORCHVISION,
        "timm": vision.TIMM,
        "transformers": [*language.SPECIAL, *sixty],
        "peft": adapters.PEFT,
    }
    return [
        Architecture(f"{package}: {name}", build, needs=package)
        for package, rows in packages.items()
        for name, build in rows
    ]


TABLE = [*ARCHITECTURES, *_rows()]

REFUSED = {
    "timm: ViT, PatchDropout": "a fixed number of patches is dropped",
    "transformers: wav2vec2": "SpecAugment masks spans",
    "transformers: Mixtral, router jitter": "noise that is no mask",
    "transformers: Switch Transformers": "experts that see a varying number of tokens",
    "transformers: informer, ProbSparse": "keys are sampled, in eval mode too",
    "transformers: reformer, LSH": "hashes are drawn, in eval mode too",
    "transformers: ViT MAE": "patches are left out at random, in eval mode too",
}
"""Rows that are refused with nothing left off by hand, and why: named in advance."""


if __name__ == "__main__":
    from rows.run import main

    main(TABLE, REFUSED)
