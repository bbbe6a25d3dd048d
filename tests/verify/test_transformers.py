"""`expect` on three architectures of transformers with small random weights: written, read back, and a flip caught."""

import warnings

import pytest
import torch

from allmasks.sites import find_dropout
from allmasks.verification.meant import against_meant, read_meant, written

transformers = pytest.importorskip("transformers")


def bert(attention, **more):
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, **more
    )
    return transformers.BertForSequenceClassification, config, "hidden_dropout_prob", attention


def gpt2(attention, **more):
    config = transformers.GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=16, **more)
    return transformers.GPT2LMHeadModel, config, "attn_pdrop", attention


def vit(attention, **more):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=8, patch_size=4,
        **({"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1} | more),
    )  # fmt: skip
    return transformers.ViTForImageClassification, config, "attention_probs_dropout_prob", attention


def built(made):
    kind, config, _, attention = made
    torch.manual_seed(0)
    config._attn_implementation = attention
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = kind(config)
    given = {"pixel_values": torch.randn(2, 3, 8, 8)} if kind is transformers.ViTForImageClassification else {
        "input_ids": torch.randint(0, 50, (2, 6))
    }  # fmt: skip
    return model, find_dropout(model, **given)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", [bert, gpt2, vit])
def test_written_read_back_and_a_flipped_configuration_is_caught(architecture, attention, tmp_path):
    model, sites = built(architecture(attention))
    assert len(sites) >= 5
    path = tmp_path / "dropout.toml"
    path.write_text(written(sites), encoding="utf-8")
    meant = read_meant(path)
    assert list(meant) == [site.name for site in sites]
    assert [trial.p_value for trial in against_meant(model, sites, meant) if trial.fault] == []
    flip = architecture(attention)[2]
    other, theirs = built(architecture(attention, **{flip: 0.2}))
    failed = [trial for trial in against_meant(other, theirs, meant) if trial.fault and trial.p_value == 0]
    assert {trial.fault for trial in failed} == {"rate"}
    assert all("drops 0.2 of its units where 0.1 is meant" in str(trial.sentence) for trial in failed)
    none, lost = built(architecture(attention, **{flip: 0.0}))
    gone = {trial.fault for trial in against_meant(none, lost, meant) if trial.fault and trial.p_value == 0}
    assert gone, "a rate of 0 is caught"
    assert gone <= {"off", "missing_site", "never_ran"}
