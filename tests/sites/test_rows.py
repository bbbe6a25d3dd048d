"""Other packages' models against draws counted independently: a sample in the quick suite, all rows in the slow one."""

import random
import warnings
from importlib.util import find_spec

import pytest
import torch

import allmasks as am
from architectures import ARCHITECTURES, REFUSED, TABLE
from rows.judge import judged
from rows.moments import LIMIT, Main, passes, scores
from rows.state import changes, held, snapshot

pytestmark = pytest.mark.filterwarnings("ignore")

OTHERS = TABLE[len(ARCHITECTURES) :]
QUICK = frozenset(
    (
        "torchvision: Swin t",
        "timm: BEiT",
        "timm: CaiT",
        "timm: ViT, PatchDropout",
        "timm: ResNet with DropBlock",
        "transformers: whisper with LayerDrop",
        "transformers: Swin v2",
        "transformers: Segformer",
        "transformers: bart, sdpa",
        "peft: LoRA on BERT",
    )
)


def rows(names=None):
    chosen = [case for case in OTHERS if names is None or case.name in names]
    return [pytest.param(case, id=case.name, marks=[] if case.name in QUICK else [pytest.mark.slow]) for case in chosen]


def built(case):
    if find_spec(case.needs) is None:
        pytest.skip(f"{case.needs} is not installed: pip install 'allmasks[test,architectures]'")
    return case()


@pytest.mark.parametrize("case", rows())
def test_sites_are_the_draws_of_training_mode_or_refused_with_a_way_on(case):
    verdict = judged(case.name, built(case), case.batch_dim)
    expected = "refused, with a way on" if case.name in REFUSED else "right"
    assert verdict.verdict == expected, verdict


def test_the_table_is_large_and_few_rows_are_refused():
    assert len(TABLE) >= 150
    assert len({case.name for case in TABLE}) == len(TABLE)
    assert set(REFUSED) <= {case.name for case in OTHERS}
    assert len(REFUSED) <= 0.03 * len(TABLE)


@pytest.mark.parametrize("case", rows(("timm: BEiT", "transformers: Swin v2", "peft: LoRA on BERT")))
def test_the_state_is_as_before_after_success_and_wherever_it_stops(case):
    model, args, kwargs = built(case)
    seed = random.randrange(10**6)
    assert held(model, args, kwargs, random.Random(seed)) == [], f"seed {seed}"


WRITTEN = {"transformers: Swin at its defaults": "shift_size", "transformers: reformer, local": "attention_seed"}


@pytest.mark.parametrize("case", [case for case in OTHERS if case.name in WRITTEN], ids=lambda case: case.name)
def test_attributes_that_forward_writes_are_as_before(case):
    model, args, kwargs = built(case)
    assert held(model, args, kwargs, random.Random(0), modules=2) == []
    before = snapshot(model.train())
    with torch.no_grad():
        model(*args, **kwargs)
    assert any(name.endswith(WRITTEN[case.name]) for name in changes(before, snapshot(model)))


@pytest.mark.slow
@pytest.mark.parametrize("case", rows(("transformers: bert, sdpa", "torchvision: Swin t")))
def test_the_state_is_as_before_wherever_a_deep_one_stops(case):
    model, args, kwargs = built(case)
    assert held(model, args, kwargs, random.Random(0), modules=None) == []


@pytest.mark.slow
@pytest.mark.parametrize("case", rows(("timm: BEiT", "transformers: BEiT, drop path", "torchvision: DenseNet")))
def test_moments_are_those_of_training_mode_and_a_site_left_off_is_seen(case):
    inner, args, kwargs = built(case)
    model = Main(inner)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        runs = passes(model, args, kwargs, seed=1)
        assert scores(model, args, kwargs, runs).worst < LIMIT
        sites = [site.name for site in am.find_dropout(model, *args, **kwargs) if site.p > 0]
        assert max(scores(model, args, kwargs, runs, left).worst for left in (sites[0], sites[-1])) > LIMIT
