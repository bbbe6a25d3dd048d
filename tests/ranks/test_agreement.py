"""Ranks that differ in one thing say so, all of them, and mix nothing."""

import functools
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from allmasks.ranks.agreement import _of_loss, digest
from ranks.test_groups import torchrun

SAID = {
    "nothing": "no error",
    "weights": r"ValueError: parameter 3\.weight holds other numbers on rank 1 than on rank 0: the ranks would mix two",
    "seed": "ValueError: seed is 0 on rank 0 and 3 on rank 1: all ranks must make the same call",
    "n_masks": "ValueError: n_masks is 256 on rank 0 and 512 on rank 1",
    "atol": "ValueError: n_masks is 256 on rank 0 and None on rank 1",
    "method": r"ValueError: method is None on rank 0 and 'MonteCarlo\(.*Independent\(\)\)' on rank 1",
    "loss": "ValueError: the loss is 'cross_entropy' on rank 0 and 'squared_error' on rank 1",
    "weights of the loss": r"ValueError: weight of the loss is \d+ on rank 0 and \d+ on rank 1",
    "function": r"ValueError: the loss is '\S+sevens \(code \w+\)' on rank 0 and '\S+eights \(code \w+\)' on rank 1",
    "number in a loss": r"ValueError: the loss is '\S+ \(code \w+\) with factor=0\.25' on rank 0 and .*=0\.5'",
    "partial loss": "ValueError: the loss is .partial.*label_smoothing=0.1, .* on rank 0 and .*label_smoothing=0.2, ",
    "option of a loss": "ValueError: the loss is .CrossEntropyLoss.*ng=0.1, .* on rank 0 and .*label_smoothing=0.2, ",
    "dtype of the data": r"ValueError: the dtypes of the inputs is 'torch\.float32' on rank 0 and 'torch\.float64' ",
    "dtype of the model": r"ValueError: the shape of parameter 0\.weight is '\(8, 6\) torch\.float32' on rank 0",
    "rate": r"ValueError: the site 5 is 'p=0\.5, shape \(8,\)' on rank 0 and 'p=0\.25, shape \(8,\)' on rank 1",
    "no such p": "ValueError: seed is 0 on rank 0 and -1 on rank 1",
    "other module": r"ValueError: the shape of parameter 0\.weight is '\(8, 6\) torch\.float32' on rank 0 and 'noth",
    "predict: weights": r"ValueError: parameter 3\.weight holds other numbers on rank 1",
    "predict: n_masks": "ValueError: n_masks is 256 on rank 0 and 257 on rank 1",
    "predict: samples": "ValueError: keep_samples is False on rank 0 and True on rank 1",
    "predict: task": "ValueError: task is 'multiclass' on rank 0 and 'regression' on rank 1",
    "predict: no module": "ValueError: the model is 'Sequential' on rank 0 and 'nothing of that name' on rank 1",
    "audit: weights": r"ValueError: parameter 3\.weight holds other numbers on rank 1",
    "audit: atol": "ValueError: n_masks is 256 on rank 0 and None on rank 1",
    "monitor: seed": "ValueError: seed is 0 on rank 0 and 9 on rank 1",
    "shapes of batches": r"ValueError: the method that its batches' shapes allow \(pass method=\) is 'Enumeration",
    "predict: shapes of batches": "ValueError: the method that its batches' shapes allow .* is 'Enumeration",
    "another function": "ValueError: the function is 'expected_loss' on rank 0 and 'audit' on rank 1",
}


@pytest.mark.slow
def test_whatever_differs_on_one_of_three_ends_alike_on_all(tmp_path):
    run = torchrun(3, tmp_path / "found.pt", script="differing_ranks.py")
    assert run.returncode == 0, run.stdout + run.stderr
    ranks = torch.load(tmp_path / "found.pt")
    for name, wanted in SAID.items():
        texts = {found[name][0] for found, *_ in ranks}
        assert len(texts) == 1, (name, texts)
        assert re.match(wanted, texts.pop()), (name, ranks[0][0][name])
    assert set(ranks[0][0]) == set(SAID)
    values, names, same = zip(*(rest for _, *rest in ranks), strict=True)
    assert len(set(values)) == 1
    assert set(map(tuple, names)) == {("3.weight",)}
    assert all(same)


def made(value):
    return lambda output, y: value * output.sum(dim=1)


class Weighted:
    def __init__(self, weight):
        self.weight = weight

    def __call__(self, output, y):
        return self.weight * output.sum(dim=1)

    def method(self, output, y):
        return self.weight * output.sum(dim=1)


def test_losses_that_differ_are_told_and_a_rank_s_own_device_is_not():
    partial, entropy = functools.partial, torch.nn.functional.cross_entropy
    apart = {
        "constant": (lambda output, y: 2 * output, lambda output, y: 3 * output),
        "name": (lambda output, y: output.min(), lambda output, y: output.max()),
        "closure": (made(0.1), made(0.2)),
        "tensor": (made(torch.ones(3)), made(torch.zeros(3))),
        "array": (made(np.ones(3)), made(np.zeros(3))),
        "inner function": (made(made(0.1)), made(made(0.2))),
        "partial": (partial(entropy, ignore_index=1), partial(entropy, ignore_index=2)),
        "partial of a module": [partial(nn.CrossEntropyLoss(torch.full((3,), w))) for w in (1.0, 2.0)],
        "object": (Weighted(0.1), Weighted(0.2)),
        "method": (Weighted(0.1).method, Weighted(0.2).method),
        "option": (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(label_smoothing=0.2)),
    }
    for name, (one, other) in apart.items():
        assert _of_loss(one) != _of_loss(other), name
    for one, other in [(0, 1), (torch.device("cpu"), torch.device("meta")), (Weighted(0.1), Weighted(0.1))]:
        assert _of_loss(made(one)) == _of_loss(made(other))


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool, torch.uint8, torch.complex64]
)
def test_a_digest_sees_every_bit_and_every_place(dtype):
    tensor = torch.arange(60).reshape(3, 20).to(dtype)
    whole = digest(tensor)
    assert digest(tensor.T.contiguous().T) == whole
    raw = tensor.view(torch.uint8).flatten() if dtype is not torch.bool else tensor.flatten()
    for place in range(0, raw.numel(), 7):
        other = raw.clone()
        other[place] = not other[place] if dtype is torch.bool else other[place] ^ 1
        assert digest(other.view(dtype).reshape(3, 20)) != whole
    if dtype is not torch.bool:
        assert digest(tensor.flip(1)) != whole
        assert digest(tensor[[1, 0, 2]]) != whole
    assert digest(tensor[:0]) == 0
    assert digest(torch.tensor(-0.0)) != digest(torch.tensor(0.0))
    assert digest(torch.tensor(float("nan"))) == digest(torch.tensor(float("nan")))


def test_a_loss_that_asks_for_words_is_one_loss_in_every_process():
    """String hashes, and with them the order of a set's words, differ between processes."""
    program = (
        "from allmasks.ranks.agreement import _of_loss\n"
        "def loss(output, y):\n    return output if y in {'a', 'b', 'c', 'd'} else y\n"
        "print(_of_loss(loss))"
    )
    said = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    }
    assert len(said) == 1
