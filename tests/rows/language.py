"""Rows of transformers' models: sixty model types by a rule, with both kinds of attention, and those of special interest.

The rule: of the model types that transformers lists, in alphabetical order, the first sixty that run when their
configuration is made small (`tiny.shrunk`, at most 400 000 parameters, inputs of `tiny.inputs_of`), that draw a mask in
training mode at their default rates and nothing in eval mode, and whose outputs belong to one example each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rows.tiny import ids, inputs_of, shrunk, x

Built = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]

SIXTY = """
bart beit bert bert-generation biogpt blenderbot blenderbot-small camembert convbert cvt data2vec-text data2vec-vision
deberta deberta-v2 distilbert dpr electra ernie flaubert fnet fsmt git gpt-sw3 gpt2 gpt_bigcode gte ibert imagegpt
jina_embeddings_v3 lasr_encoder layoutlm led longformer longt5 luke m2m_100 mbart megatron-bert mpnet mra mt5 mvp nllb-moe
nystromformer openai-gpt opt parakeet_ctc pegasus pegasus_x plbart prophetnet roberta roberta-prelayernorm roc_bert
roformer splinter squeezebert t5 tapas umt5
""".split()


def of_type(
    kind: str, attention: str | None = None, inputs: Callable[[], dict[str, Any]] | None = None, **changed: Any
) -> Callable[[], Built]:
    """The base model of a model type, shrunk; `changed` are fields of its configuration."""

    def build() -> Built:
        from transformers import AutoConfig, AutoModel

        config = shrunk(AutoConfig.for_model(kind))
        for name, value in changed.items():
            setattr(config, name, value)
        how = {} if attention is None else {"attn_implementation": attention}
        model = AutoModel.from_config(config, **how)
        return model, (), inputs_of(model, config) if inputs is None else inputs()

    return build


def of_class(name: str, config: str, inputs: Callable[[], dict[str, Any]], **fields: Any) -> Callable[[], Built]:
    """A class of transformers, of a configuration with these fields."""

    def build() -> Built:
        import transformers

        return getattr(transformers, name)(getattr(transformers, config)(**fields)), (), inputs()

    return build


EAGER_ALONE = """
convbert cvt deberta deberta-v2 flaubert fnet fsmt git ibert imagegpt led longformer longt5 luke megatron-bert
mpnet mra mvp nllb-moe nystromformer openai-gpt pegasus_x prophetnet roformer splinter squeezebert tapas
""".split()
"""Those of them that have no sdpa attention."""

_WAVES = {
    "conv_dim": (8, 8), "conv_kernel": (10, 3), "conv_stride": (5, 2), "conv_bias": False, "num_feat_extract_layers": 2,
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "layerdrop": 0.1,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "vocab_size": 20, "mask_time_length": 2,
}  # fmt: skip
_SERIES = {
    "prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2], "d_model": 16, "encoder_layers": 2,
    "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24, "num_time_features": 1, "encoder_layerdrop": 0.1, "decoder_layerdrop": 0.1,
}  # fmt: skip
_SEQ = {
    "vocab_size": 60, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "encoder_layerdrop": 0.1,
    "decoder_layerdrop": 0.1, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
_PIXELS = {"image_size": 16, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def waves() -> dict[str, Tensor]:
    return {"input_values": x(4, 400)}


def pixels() -> dict[str, Tensor]:
    return {"pixel_values": x(4, 3, 16, 16)}


def pixels_32() -> dict[str, Tensor]:
    return {"pixel_values": x(4, 3, 32, 32)}


def pairs() -> dict[str, Tensor]:
    return {"input_ids": ids(), "decoder_input_ids": ids(length=5)}


def words() -> dict[str, Tensor]:
    return {"input_ids": ids(), "attention_mask": torch.ones(4, 7, dtype=torch.long)}


def series() -> dict[str, Tensor]:
    past, future = 8 + 2, 4
    return {
        "past_values": x(4, past).abs(), "past_time_features": x(4, past, 1), "past_observed_mask": torch.ones(4, past),
        "future_values": x(4, future).abs(), "future_time_features": x(4, future, 1),
    }  # fmt: skip


def spectra() -> dict[str, Tensor]:
    return {"input_features": x(4, 8, 40), "decoder_input_ids": ids(length=5)}


SPECIAL: list[tuple[str, Callable[[], Built]]] = [
    ("wav2vec2", of_class("Wav2Vec2Model", "Wav2Vec2Config", waves, **_WAVES)),
    ("wav2vec2, no SpecAugment", of_class("Wav2Vec2Model", "Wav2Vec2Config", waves, **_WAVES, apply_spec_augment=False)),
    ("wav2vec2 CTC, no SpecAugment", of_class("Wav2Vec2ForCTC", "Wav2Vec2Config", waves, **_WAVES, apply_spec_augment=False)),
    ("wav2vec2, layer norms first", of_class("Wav2Vec2Model", "Wav2Vec2Config", waves, **_WAVES, apply_spec_augment=False, do_stable_layer_norm=True, feat_extract_norm="layer")),
    ("hubert, no SpecAugment", of_class("HubertModel", "HubertConfig", waves, **_WAVES, apply_spec_augment=False)),
    ("wavlm, no SpecAugment", of_class("WavLMModel", "WavLMConfig", waves, **_WAVES, apply_spec_augment=False, num_buckets=8, max_bucket_distance=20)),
    ("sew, no SpecAugment", of_class("SEWModel", "SEWConfig", waves, **_WAVES, apply_spec_augment=False)),
    ("unispeech, no SpecAugment", of_class("UniSpeechModel", "UniSpeechConfig", waves, **_WAVES, apply_spec_augment=False)),
    ("data2vec-audio, no SpecAugment", of_class("Data2VecAudioModel", "Data2VecAudioConfig", waves, **{**_WAVES, "mask_time_prob": 0.0, "conv_pos_kernel_size": 3})),
    ("whisper with LayerDrop", of_class("WhisperModel", "WhisperConfig", spectra, **_SEQ, num_mel_bins=8, max_source_positions=20, max_target_positions=20)),
    ("bart with LayerDrop", of_class("BartModel", "BartConfig", pairs, **_SEQ, max_position_embeddings=32)),
    ("marian with LayerDrop", of_class("MarianModel", "MarianConfig", pairs, **_SEQ, max_position_embeddings=32)),
    ("mbart with LayerDrop", of_class("MBartModel", "MBartConfig", pairs, **_SEQ, max_position_embeddings=32)),
    ("m2m_100 with LayerDrop", of_class("M2M100Model", "M2M100Config", pairs, **_SEQ, max_position_embeddings=32)),
    ("opt with LayerDrop", of_type("opt", layerdrop=0.1)),
    ("flaubert with LayerDrop", of_type("flaubert", layerdrop=0.1)),
    ("BEiT, drop path", of_class("BeitModel", "BeitConfig", pixels, **_PIXELS, intermediate_size=24, drop_path_rate=0.2, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)),
    ("BEiT at its defaults", of_class("BeitModel", "BeitConfig", pixels, **_PIXELS, intermediate_size=24)),
    ("data2vec-vision, drop path", of_type("data2vec-vision", drop_path_rate=0.2)),
    ("DINOv2, drop path", of_type("dinov2", drop_path_rate=0.2, hidden_dropout_prob=0.1)),
    ("DINOv2 with registers, drop path", of_type("dinov2_with_registers", drop_path_rate=0.2)),
    ("Swin v2", of_class("Swinv2Model", "Swinv2Config", pixels, image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4, drop_path_rate=0.2, hidden_dropout_prob=0.1)),
    ("Swin at its defaults", of_class("SwinModel", "SwinConfig", pixels, image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4)),
    ("DonutSwin", of_class("DonutSwinModel", "DonutSwinConfig", pixels, image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4)),
    ("Segformer", of_class("SegformerModel", "SegformerConfig", pixels_32, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2], hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1, drop_path_rate=0.2)),
    ("Segformer, semantic", of_class("SegformerForSemanticSegmentation", "SegformerConfig", pixels_32, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 2], decoder_hidden_size=8, num_labels=3)),
    ("ConvNeXt, drop path", of_class("ConvNextModel", "ConvNextConfig", pixels_32, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], drop_path_rate=0.2)),
    ("ConvNeXt v2, drop path", of_class("ConvNextV2Model", "ConvNextV2Config", pixels_32, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], drop_path_rate=0.2)),
    ("PoolFormer", of_class("PoolFormerModel", "PoolFormerConfig", lambda: {"pixel_values": x(4, 3, 64, 64)}, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], drop_path_rate=0.2)),
    ("FocalNet", of_class("FocalNetModel", "FocalNetConfig", pixels_32, image_size=32, embed_dim=8, depths=[1, 1, 1, 1], drop_path_rate=0.2)),
    ("BERT, classes", of_class("BertForSequenceClassification", "BertConfig", words, vocab_size=60, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)),
    ("CLIP's vision", of_type("clip_vision_model", attention_dropout=0.1)),
    ("CLIP's text", of_type("clip_text_model", attention_dropout=0.1)),
    ("Mixtral, router jitter", of_type("mixtral", router_jitter_noise=0.1, attention_dropout=0.1)),
    ("Switch Transformers", of_type("switch_transformers")),
    ("time series transformer", of_class("TimeSeriesTransformerModel", "TimeSeriesTransformerConfig", series, **_SERIES)),
    ("informer, full attention", of_class("InformerModel", "InformerConfig", series, **_SERIES, attention_type="full", distil=False)),
    ("informer, ProbSparse", of_class("InformerModel", "InformerConfig", series, **_SERIES, distil=False)),
    ("reformer, local", of_class("ReformerModel", "ReformerConfig", lambda: {"input_ids": ids(length=8)}, attn_layers=["local", "local"], hidden_size=16, axial_pos_embds=False, feed_forward_size=24, num_attention_heads=2, attention_head_size=8, max_position_embeddings=32, vocab_size=60, local_attn_chunk_length=4, local_attention_probs_dropout_prob=0.1)),
    ("reformer, LSH", of_class("ReformerModel", "ReformerConfig", lambda: {"input_ids": ids(length=8)}, attn_layers=["lsh"], hidden_size=16, axial_pos_embds=False, feed_forward_size=24, num_attention_heads=2, attention_head_size=8, max_position_embeddings=32, vocab_size=60, lsh_attn_chunk_length=4, num_buckets=2)),
    ("funnel", of_class("FunnelBaseModel", "FunnelConfig", words, vocab_size=60, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=24)),
    ("xlnet", of_type("xlnet")),
    ("xlm", of_type("xlm")),
    ("visual_bert", of_type("visual_bert")),
    ("xglm", of_type("xglm")),
    ("xlm-roberta", of_type("xlm-roberta")),
    ("xlm-roberta-xl", of_type("xlm-roberta-xl")),
    ("yoso", of_type("yoso")),
    ("seed_oss", of_type("seed_oss")),
    ("ViT", of_type("vit", hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)),
    ("llama", of_type("llama", attention_dropout=0.1)),
    ("mistral", of_type("mistral", attention_dropout=0.1)),
    ("qwen2", of_type("qwen2", attention_dropout=0.1)),
    ("gemma", of_type("gemma", attention_dropout=0.1)),
    ("olmo", of_type("olmo", attention_dropout=0.1)),
    ("phi", of_type("phi", attention_dropout=0.1, resid_pdrop=0.1)),
    ("gpt_neox", of_type("gpt_neox", attention_dropout=0.1, hidden_dropout=0.1)),
    ("ViT MAE", of_type("vit_mae", hidden_dropout_prob=0.1)),
]  # fmt: skip
