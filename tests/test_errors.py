"""What is refused says how to go on."""

import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

import allmasks as am
from allmasks.errors import WAY_ON, with_way_on

ROOT = Path(__file__).parents[1]


def test_the_page_that_refusals_name_is_there_in_both_languages():
    assert (ROOT / WAY_ON).exists()
    assert (ROOT / WAY_ON.replace(".md", ".ko.md")).exists()


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn_like(x)


@pytest.mark.parametrize("call", [am.expected_loss, am.plan_expected_loss])
def test_a_refused_model_is_shown_the_way_on_once(call):
    with pytest.raises(am.UncontrolledRandomness, match="how-to/my-model-was-refused") as refused:
        call(nn.Sequential(nn.Dropout(0.5), Noisy()), torch.ones(3, 2), torch.ones(3, 2), "squared_error")
    assert str(refused.value).count("my-model-was-refused") == 1


def test_a_refusal_keeps_its_words_where_it_is_raised_again_and_pickled():
    first = am.UncontrolledRandomness("it draws")
    assert str(first) == f"it draws (how to go on: {WAY_ON})" == with_way_on(with_way_on("it draws"))
    assert str(pickle.loads(pickle.dumps(first))) == str(first)
    assert str(am.UncontrolledRandomness(str(first))) == str(first)
