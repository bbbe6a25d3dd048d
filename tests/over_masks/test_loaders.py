"""A loader decides which examples there are, and how often; it is opened and read once for each pass that needs it."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import allmasks as am
from allmasks.methods import MonteCarlo
from allmasks.over_masks import loaders
from allmasks.ranks.groups import Group

N = 23
G = torch.Generator().manual_seed(1)
X, Y = torch.randn(N, 5, generator=G, dtype=torch.float64), torch.randint(0, 3, (N,), generator=G)


@pytest.fixture(scope="module")
def net():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        # 32 bits: more than can be listed.
        layers = nn.Linear(5, 16), nn.Tanh(), nn.Dropout(0.4), nn.Linear(16, 16), nn.Dropout(0.3), nn.Linear(16, 3)
        return nn.Sequential(*layers).double()


class Counting(Dataset):
    """Counts how often each example is read, and may move the global generators while it is."""

    def __init__(self, draws=False):
        self.reads, self.draws = np.zeros(N, int), draws

    def __len__(self):
        return N

    def __getitem__(self, i):
        self.reads[i] += 1
        noise = 0.0
        if self.draws:
            noise = torch.rand(()).item() + random.random() + np.random.rand()  # noqa: NPY002
        return X[i] + noise, Y[i]


class Opened(DataLoader):
    """Counts how often it is opened; a loader with an __iter__ of its own is taken as it is."""

    opened = 0

    def __iter__(self):
        self.opened += 1
        return super().__iter__()


class Bits(Sampler):
    """Some places in an order of its own."""

    def __init__(self, places):
        self.places = places

    def __iter__(self):
        return iter(self.places)

    def __len__(self):
        return len(self.places)


def losses(net, rows, **how):
    """What the tensors give, examples keyed by their places."""
    rows = torch.as_tensor(rows)
    with torch.no_grad():
        return am.expected_loss(net, X[rows], Y[rows], "cross_entropy", example_index=rows, n_masks=256, **how)


def of(net, loader, **how):
    with torch.no_grad():
        return am.expected_loss(net, loader, "cross_entropy", n_masks=256, **how)


BUCKETS = [[3, 1], [0], [7, 8, 9, 3], [22]]
SOME = [5, 3, 20, 11, 8]
SAMPLERS = {
    "in order": ({"batch_size": 5}, range(N)),
    "shuffled": ({"batch_size": 5, "shuffle": True}, range(N)),
    "shuffled with a generator": ({"batch_size": 5, "shuffle": True, "generator": torch.Generator()}, range(N)),
    "drop_last": ({"batch_size": 5, "drop_last": True}, range(20)),
    "subset": ({"batch_size": 2, "sampler": SubsetRandomSampler(SOME)}, sorted(SOME)),
    "one's own": ({"batch_size": 2, "sampler": Bits(SOME)}, SOME),
    "repeated": ({"batch_size": 3, "sampler": Bits([4, 4, 4, 1])}, [4, 4, 4, 1]),
    "distributed": ({"batch_size": 4, "sampler": DistributedSampler(Y, 2, 1, shuffle=False)}, [*range(1, N, 2), 0]),
    "batches": ({"batch_sampler": BUCKETS}, [i for batch in BUCKETS for i in batch]),
    "batches in order": ({"batch_sampler": BatchSampler(SequentialSampler(Y), 4, True)}, range(20)),
    "a list as sampler": ({"batch_size": 2, "sampler": SOME}, SOME),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_loader_decides_which_examples_and_how_often(net, name):
    options, rows = SAMPLERS[name]
    rows = sorted(rows) if name == "distributed" else rows
    found, wanted = of(net, DataLoader(TensorDataset(X, Y), **options)), losses(net, rows)
    torch.testing.assert_close(found.per_example, wanted.per_example, rtol=1e-12, atol=1e-13)
    assert found.value.item() == pytest.approx(wanted.value.item(), rel=1e-12)
    with torch.no_grad():
        predicted = am.predict(net, DataLoader(TensorDataset(X, Y), **options), n_masks=256)
    assert len(predicted.mean) == len(rows)


@pytest.mark.parametrize("sampler", ["weighted", "random with replacement", "shuffled and cut"])
def test_random_choices_are_those_of_one_draw(net, sampler):
    """The same generator, the same draw; the numbers are those of a choice that the loader can make."""
    samplers = {
        "weighted": lambda: {"sampler": WeightedRandomSampler(torch.arange(N).double(), 9)},
        "random with replacement": lambda: {"sampler": RandomSampler(Y, replacement=True, num_samples=9)},
        "shuffled and cut": lambda: {"shuffle": True, "drop_last": True},
    }
    dataset = Counting()
    with torch.random.fork_rng():
        torch.manual_seed(7)
        loader = DataLoader(dataset, batch_size=2, **samplers[sampler]())
        first, again = of(net, loader), of(net, loader)
        torch.manual_seed(8)
        other = of(net, loader)
    assert torch.equal(first.per_example, again.per_example)
    assert not torch.equal(first.per_example, other.per_example)
    alone = losses(net, range(N)).per_example
    assert all(bool(((alone - loss).abs() < 1e-12).any()) for loss in first.per_example)
    assert "Which ones is drawn anew at every reading; the numbers are those of one draw." in first.notes


@settings(max_examples=12, deadline=None)
@given(st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=5), min_size=1, max_size=6), st.booleans())
def test_any_batches_mean_their_rows(net, batches, plain):
    rows = [i for batch in batches for i in batch]
    options = {"sampler": Bits(rows), "batch_size": 3} if plain else {"batch_sampler": batches}
    found, wanted = of(net, DataLoader(TensorDataset(X, Y), **options)), losses(net, rows)
    torch.testing.assert_close(found.per_example, wanted.per_example, rtol=1e-12, atol=1e-13)


def test_a_mean_over_repeated_examples_is_weighted_by_their_number(net):
    found = of(net, DataLoader(TensorDataset(X, Y), batch_size=3, sampler=Bits([4, 4, 4, 1])))
    wanted = losses(net, [4, 1], sample_weight=[3.0, 1.0])
    assert found.value.item() == pytest.approx(wanted.value.item(), rel=1e-12)
    # The same masks each time: three copies are no three draws, and the error does not pretend so.
    assert found.error.item() == pytest.approx(wanted.error.item(), rel=1e-12)


CALLS = {
    "expected_loss": (lambda net, data: of(net, data), 2),
    "backward": (lambda net, data: am.expected_loss(net, data, "cross_entropy", n_masks=256).value.backward(), 3),
    "plan_expected_loss": (lambda net, data: am.plan_expected_loss(net, data, "cross_entropy"), 1),
    # In eval mode, over all masks, each of two sites alone, independent masks.
    "audit": (
        lambda net, data: am.audit(net, data, "cross_entropy", n_masks=256, progress=False, instruments=False),
        5,
    ),
    "predict": (lambda net, data: am.predict(net, data, n_masks=256), 1),
    "tolerance": (lambda net, data: am.expected_loss(net, data, "cross_entropy", atol=0.05).value, 3),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("kind", [DataLoader, Opened])
def test_opened_and_read_once_for_each_pass(net, monkeypatch, name, kept, kind):
    """Once in all where the batches can be kept; else once for each pass over the data."""
    call, passes = CALLS[name]
    if not kept:
        monkeypatch.setattr(loaders, "KEPT_BYTES", 100)
    dataset, opened = Counting(), []
    plain = DataLoader.__iter__
    monkeypatch.setattr(DataLoader, "__iter__", lambda self: opened.append(self) or plain(self))
    loader = kind(dataset, batch_size=5)
    call(net, loader)
    # A loader of which only reading tells how many examples it gives is read for that first.
    counted = kind is Opened and not kept
    assert len(opened) == (1 if kept else passes + counted)
    full = name != "plan_expected_loss" or kept
    assert set(dataset.reads) == {1 if kept else passes + counted} or not full


def test_random_augmentation_is_one_draw_for_all_passes(net, monkeypatch):
    """A data set that draws from the global generators gives the same in every pass, and they stay as they were."""
    monkeypatch.setattr(loaders, "KEPT_BYTES", 100)
    loader = DataLoader(Counting(draws=True), batch_size=5)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    result = am.expected_loss(net, loader, "cross_entropy", n_masks=256)
    result.value.backward()
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    for parameter in net.parameters():
        parameter.grad = None
    generator = np.random.default_rng(0)

    class Anew(Counting):
        def __getitem__(self, i):
            return X[i] + generator.normal(), Y[i]

    with pytest.raises(ValueError, match="the loader gave another batch 0 than when it was first read"):
        of(net, DataLoader(Anew(), batch_size=5))
    monkeypatch.undo()
    assert of(net, DataLoader(Anew(), batch_size=5)).guarantee == "statistical"  # kept: one draw


def test_a_loaders_generator_is_left_alone(net):
    generator = torch.Generator().manual_seed(11)
    before = generator.get_state()
    of(net, DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True, generator=generator))
    of(net, DataLoader(TensorDataset(X, Y), sampler=RandomSampler(Y, generator=generator)))
    assert torch.equal(generator.get_state(), before)


class Stream(IterableDataset):
    def __init__(self, whole_batches=False):
        self.whole = whole_batches

    def __iter__(self):
        if self.whole:
            return iter([(X[:7], Y[:7]), (X[7:], Y[7:])])
        return iter(zip(X, Y, strict=True))


@pytest.mark.parametrize("kept", [True, False])
def test_streams_and_whole_batches(net, monkeypatch, kept):
    if not kept:
        monkeypatch.setattr(loaders, "KEPT_BYTES", 100)
    wanted = losses(net, range(N))
    forms = {
        "examples": DataLoader(Stream(), batch_size=4),
        "batches": DataLoader(Stream(True), batch_size=None),
        "map of batches": DataLoader([(X[:7], Y[:7]), (X[7:], Y[7:])], batch_size=None),
        "map of batches shuffled": DataLoader([(X, Y)], batch_size=None, shuffle=True),
        "any iterable": Opened(TensorDataset(X, Y), batch_size=6),
    }
    for name, loader in forms.items():
        found = of(net, loader)
        torch.testing.assert_close(found.per_example, wanted.per_example, rtol=1e-12, atol=1e-13, msg=name)


def test_collate_may_make_other_examples(net):
    """As cropping does: each row is an example, known by its place among them."""

    def twice(rows):
        x, y = (torch.stack(part) for part in zip(*rows, strict=True))
        return torch.cat([x, -x]), torch.cat([y, y])

    found = of(net, DataLoader(TensorDataset(X, Y), batch_size=N, collate_fn=twice))
    with torch.no_grad():
        wanted = am.expected_loss(net, torch.cat([X, -X]), torch.cat([Y, Y]), "cross_entropy", n_masks=256)
    torch.testing.assert_close(found.per_example, wanted.per_example, rtol=1e-12, atol=1e-13)


class Endless(Sampler):
    def __iter__(self):
        while True:
            yield 0


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        (lambda: iter(DataLoader(TensorDataset(X, Y))), TypeError, "is an iterator, which can be read once"),
        (lambda: ((X, Y) for _ in range(2)), TypeError, "generator is an iterator, which can be read once"),
        (
            lambda: DataLoader(TensorDataset(X, Y), batch_size=None),
            ValueError,
            "a single targets; with batch_size=None",
        ),
        (lambda: DataLoader(TensorDataset(X[:0], Y[:0])), ValueError, "the data loader has no examples"),
        (lambda: DataLoader(TensorDataset(X, Y), sampler=[]), ValueError, "the data loader has no examples"),
        (
            lambda: DataLoader(TensorDataset(X, Y), sampler=Endless()),
            ValueError,
            "went on after 100,000 steps and has no length",
        ),
        (
            lambda: DataLoader(TensorDataset(X)),
            ValueError,
            r"must yield \(inputs, targets\) pairs or mappings, got list",
        ),
    ],
)
def test_what_cannot_be_read_is_said(net, loader, error, message):
    with pytest.raises(error, match=message):
        of(net, loader())


@pytest.mark.slow
def test_workers_read_the_same(net):
    loader = DataLoader(Counting(draws=True), batch_size=5, num_workers=2, shuffle=True)
    assert torch.equal(of(net, loader).per_example, of(net, loader).per_example)


def test_masks_go_with_the_example_and_not_with_its_batch(net):
    """The same example has the same masks in whichever batch or order it comes: Monte Carlo to the last digit."""
    method = MonteCarlo(n_masks=64, sampler=am.samplers.Independent())
    with torch.no_grad():
        one = am.expected_loss(
            net, DataLoader(TensorDataset(X, Y), sampler=Bits([7, 2])), "cross_entropy", method=method
        )
        other = am.expected_loss(
            net, DataLoader(TensorDataset(X, Y), batch_sampler=[[1, 2, 3], [7]]), "cross_entropy", method=method
        )
    torch.testing.assert_close(one.per_example, other.per_example[[3, 1]], rtol=1e-13, atol=1e-14)


class Reader(nn.Module):
    """Tokens with dropout on each, whose mask has the batch's length, averaged over those that are there."""

    def __init__(self, head_p=0.5):
        super().__init__()
        self.embed, self.drop, self.head = nn.Embedding(9, 4), nn.Dropout(0.3), nn.Linear(4, 2)
        self.last = nn.Dropout(head_p)

    def forward(self, tokens):
        there = (tokens > 0)[..., None]
        h = (self.drop(torch.tanh(self.embed(tokens))) * there).sum(dim=1) / there.sum(dim=1)
        return self.head(self.last(h))


LENGTHS = [3, 7, 2, 5, 5, 6, 1, 7, 4, 3, 3]
TEXTS = [torch.randint(1, 9, (n,), generator=G) for n in LENGTHS]
LABELS = torch.randint(0, 2, (len(TEXTS),), generator=G)


def padded(rows):
    texts, labels = zip(*rows, strict=True)
    return nn.utils.rnn.pad_sequence(list(texts), batch_first=True), torch.stack(labels)


@pytest.fixture(scope="module")
def reader():
    with torch.random.fork_rng():
        torch.manual_seed(6)
        return Reader().double()


@pytest.mark.parametrize("how", ["padded to the longest of each batch", "buckets"])
def test_batches_of_several_lengths_are_read_batch_by_batch(reader, how):
    """As each batch by itself gives it, under the same masks; buckets and padding are kept."""
    rows = list(zip(TEXTS, LABELS, strict=True))
    buckets = [[6, 2], [0, 9, 10], [8], [3, 4, 5], [1, 7]]
    batches = buckets if how == "buckets" else [list(range(lo, min(lo + 4, 11))) for lo in range(0, 11, 4)]
    options = {"batch_sampler": buckets} if how == "buckets" else {"batch_size": 4}
    loader = DataLoader(rows, collate_fn=padded, **options)
    found = am.expected_loss(reader, loader, "cross_entropy", n_masks=96)
    start, total = 0, 0.0
    for batch in batches:
        x, y = padded([rows[i] for i in batch])
        alone = am.expected_loss(reader, x, y, "cross_entropy", n_masks=96, example_index=batch, method=found.method)
        part = slice(start, start + len(batch))
        torch.testing.assert_close(found.per_example[part], alone.per_example, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(found.per_example_error[part], alone.per_example_error, rtol=1e-9, atol=1e-12)
        start, total = part.stop, total + alone.value * len(batch) / 11
    assert found.value.item() == pytest.approx(total.item(), rel=1e-11)
    for a, b in zip(
        torch.autograd.grad(found.value, list(reader.parameters())),
        torch.autograd.grad(total, list(reader.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_what_needs_one_shape_says_so(reader):
    loader = DataLoader(list(zip(TEXTS, LABELS, strict=True)), collate_fn=padded, batch_size=4)
    with pytest.raises(am.MethodNotApplicable, match="batches are of several shapes, and each has masks of its own"):
        am.expected_loss(reader, loader, "cross_entropy", method=am.methods.Enumeration())
    with pytest.raises(
        ValueError, match="the units of drop cannot be removed one by one: it has other units in batches"
    ):
        am.diagnose.unit_penalty(reader, loader, "cross_entropy", sites=["drop"])
    (found,) = am.diagnose.unit_penalty(reader, loader, "cross_entropy")
    assert found.site.name == "last"
    audit = am.audit(reader, loader, "cross_entropy", n_masks=64, progress=False)
    assert len(audit.per_site) == 2


def test_predictions_of_several_lengths(reader):
    loader = DataLoader(list(zip(TEXTS, LABELS, strict=True)), collate_fn=padded, batch_size=4)
    found = am.predict(reader, loader, task="regression", method=MonteCarlo(n_masks=96))
    for lo in (0, 4, 8):
        rows = list(range(lo, min(lo + 4, 11)))
        x, _ = padded([(TEXTS[i], LABELS[i]) for i in rows])
        alone = am.predict(reader, x, task="regression", method=MonteCarlo(n_masks=96), example_index=rows)
        torch.testing.assert_close(found.mean[rows], alone.mean, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(found.std[rows], alone.std, rtol=1e-9, atol=1e-12)


def test_masks_of_several_lengths_are_not_listed():
    """The plan has met every batch, so that predictions are sampled where a list for the first would not do."""
    rows = [(torch.randn(n, generator=G), torch.tensor(0)) for n in (4, 4, 6, 3)]

    class Summed(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop, self.head = nn.Dropout(0.5), nn.Linear(1, 1)

        def forward(self, x):
            return self.head(self.drop(x).sum(dim=1, keepdim=True))

    loader = DataLoader(rows, collate_fn=padded, batch_size=2)
    plan = am.plan_prediction(Summed(), loader, task="regression")
    assert "Enumeration: batches are of several shapes, and each has masks of its own" in repr(plan)
    result = am.predict(Summed(), loader, task="regression")
    assert (result.method, result.guarantee, result.n_masks) == (plan.method, "statistical", plan.n_masks)
    with pytest.raises(am.MethodNotApplicable, match="batches are of several shapes, and each has masks of its own"):
        am.predict(Summed(), loader, task="regression", method=am.methods.Enumeration())


class OneOfTwo(Group):
    size = 2

    def __init__(self, rank):
        self.rank = rank


@pytest.mark.parametrize("name", [*SAMPLERS, "weighted"])
def test_ranks_share_out_what_the_loader_gives(name):
    """Together every example once; what is drawn is drawn by the first rank. A DistributedSampler only shares out."""
    drawn = {"batch_size": 3, "sampler": WeightedRandomSampler(torch.ones(N), 9, generator=torch.Generator())}
    options, rows = SAMPLERS.get(name, (drawn, None))
    if "generator" in options:
        options = {**options, "generator": torch.Generator()}
    loader = DataLoader(list(range(N)), **options)
    before = torch.get_rng_state()
    shares = []
    for rank in (0, 1):
        if name == "weighted":
            loader.sampler.generator.manual_seed(3)  # as the first rank's draw, which all ranks are told
        shares.append(am.shard(loader, OneOfTwo(rank)))
    assert torch.equal(torch.get_rng_state(), before)
    shares = [torch.cat(list(share)).tolist() for share in shares]
    assert abs(len(shares[0]) - len(shares[1])) <= (4 if name.startswith("batches") else 1)
    if rows is not None:
        assert sorted(shares[0] + shares[1]) == sorted(range(N) if name == "distributed" else rows)
    else:
        assert len(shares[0] + shares[1]) == 9
    with pytest.raises(ValueError, match=r"a loader without a sampler cannot be shared by ranks"):
        am.shard(DataLoader(Stream(), batch_size=4), OneOfTwo(0))
