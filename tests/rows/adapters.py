"""Rows of peft's adapters on tiny models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from rows.language import words
from rows.tiny import ids

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]

_BERT = {"vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
_LLAMA = {**_BERT, "max_position_embeddings": 32}


def adapter(config: str, base: str = "Bert", heads: str = "Model", **fields: Any) -> Callable[[], Built]:
    """A tiny model of transformers with an adapter of peft's."""

    def build() -> Built:
        import peft
        import transformers

        small = getattr(transformers, f"{base}Config")(**(_LLAMA if base == "Llama" else _BERT))
        model = getattr(transformers, f"{base}{heads}")(small)
        given = words() if base == "Bert" else {"input_ids": ids()}
        return peft.get_peft_model(model, getattr(peft, config)(**fields)), (), given

    return build


_LLAMA_PARTS = ["q_proj", "v_proj"]

PEFT: list[tuple[str, Callable[[], Built]]] = [
    ("LoRA on BERT", adapter("LoraConfig", target_modules=["query", "value"], r=2, lora_dropout=0.1)),
    ("LoRA on BERT, classes", adapter("LoraConfig", heads="ForSequenceClassification", target_modules=["query"], r=2, lora_dropout=0.1, task_type="SEQ_CLS")),
    ("DoRA on BERT", adapter("LoraConfig", target_modules=["query"], r=2, lora_dropout=0.1, use_dora=True)),
    ("LoRA on Llama", adapter("LoraConfig", "Llama", "ForCausalLM", target_modules=_LLAMA_PARTS, r=2, lora_dropout=0.1)),
    ("VeRA on Llama", adapter("VeraConfig", "Llama", "ForCausalLM", target_modules=["q_proj"], r=2, vera_dropout=0.1)),
    ("IA³ on BERT", adapter("IA3Config", target_modules=["query"], feedforward_modules=[])),
]  # fmt: skip
