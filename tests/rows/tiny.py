"""Tiny models of transformers' types: any configuration made small by what its fields are called, and inputs for it."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from torch import Tensor, nn

MOST_PARAMETERS = 400_000

_SIZES: tuple[tuple[str, Any], ...] = (
    (r".*vocab_size.*", 60),
    (r"num_key_value_heads|num_kv_heads|n_head_kv|num_query_groups|encoder_kv_heads", 2),
    (r".*(attention_heads|num_heads|n_heads?|_heads)$", 2),
    (r"head_dim|d_kv|kv_channels|attention_head_dim|qk_head_dim|v_head_dim|attention_key_size|kv_channels", 8),
    (r".*(num_hidden_layers|num_layers|n_layers?|encoder_layers|decoder_layers|num_blocks|num_encoder_blocks)$", 2),
    (
        r".*(intermediate_size|ffn_dim|d_ff|d_inner|n_inner|ff_dim|hidden_dim|mlp_dim|dim_feedforward|feedforward_dim)$",
        24,
    ),
    (r"hidden_size|d_model|dim|n_embd|embed_dim|d_embed|embedding_size|emb_dim|word_embed_proj_dim|projection_dim", 16),
    (r".*(proj_dim|projection_dim|embedding_dim|hidden_size|_dim_size)$", 16),
    (r"num_(local_)?experts|n_routed_experts|num_experts|moe_num_experts", 4),
    (r"num_experts_per_tok(en)?|top_k|moe_topk|num_selects", 2),
    (r"max_position_embeddings|n_positions|max_source_positions|max_target_positions|n_ctx", 64),
    (r"image_size|img_size", 16),
    (r"patch_size", 4),
)


def shrunk(config: Any) -> Any:
    """The same configuration with small sizes; rates of dropout stay as they are."""
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            shrunk(value)
            continue
        if isinstance(value, bool) or not isinstance(value, int | list | tuple) or name.startswith("_"):
            continue
        for pattern, size in _SIZES:
            if re.fullmatch(pattern, name):
                if isinstance(value, int):
                    setattr(config, name, size)
                elif value and all(isinstance(v, int) and not isinstance(v, bool) for v in value):
                    setattr(config, name, type(value)(size if v > 1 else v for v in value))
                break
    return config


def ids(n: int = 4, length: int = 7, vocabulary: int = 50) -> Tensor:
    return torch.randint(5, vocabulary, (n, length), generator=torch.Generator().manual_seed(2))


def x(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def inputs_of(model: nn.Module, config: Any) -> dict[str, Any]:
    """What the model is called with, by the names of its forward's parameters."""
    taken = inspect.signature(model.forward).parameters
    main = getattr(model, "main_input_name", "input_ids")
    found: dict[str, Any] = {}
    if "pixel_values" in taken and (main == "pixel_values" or getattr(config, "vision_config", None) is not None):
        vision = getattr(config, "vision_config", config)
        size = getattr(vision, "image_size", 16) or 16
        size = size if isinstance(size, int) else size[0]
        found["pixel_values"] = x(4, getattr(vision, "num_channels", 3), size, size)
    if main == "input_values":
        found["input_values"] = x(4, 1200)
    if main == "input_features":
        text = getattr(config, "num_mel_bins", None)
        found["input_features"] = x(4, text, 128) if text else x(4, 128, 80)
    if main == "input_ids" or ("input_ids" in taken and "pixel_values" in found):
        found["input_ids"] = ids()
        if "attention_mask" in taken:
            found["attention_mask"] = torch.ones(4, 7, dtype=torch.long)
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in taken:
        found["decoder_input_ids"] = ids(length=5)
    return found
