"""Nets trained side by side: each as if it were alone, and the same as the torch module made of it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from allmasks.evidence.datasets import find_datasets, load, split
from allmasks.evidence.nets import Arm, as_module, train, unpack


def rows(seed=0, n=48, d=5):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(2, n, d, generator=generator)
    return x, (x[..., 0] + 0.3 * torch.randn(2, n, generator=generator) > 0).long()


def trained(arm, x, y, epochs=12, **options):
    return train(arm, x, y, [(x, y), (x, y)], classes=2, width=6, epochs=epochs, seeds=(3, 4), batch=16, **options)


def test_one_seed_does_not_touch_the_other():
    x, y = rows()
    other = x.clone()
    other[1] += 1
    for arm in (Arm("none"), Arm("drop", p=0.5), Arm("l1", l1=0.1)):
        a, b = trained(arm, x, y), trained(arm, other, y)
        for one, two in zip(unpack(a["final"], a["sizes"], 2, 0), unpack(b["final"], b["sizes"], 2, 0), strict=True):
            assert torch.equal(one, two)
        assert a["train"][1] != b["train"][1]


def test_the_module_loses_what_training_recorded():
    x, y = rows()
    found = trained(Arm("drop", p=0.5), x, y)
    for i in range(2):
        net = as_module(unpack(found["final"], found["sizes"], 2, i), 0.5)
        assert F.cross_entropy(net(x[i].double()), y[i]).item() == pytest.approx(found["train"][i][-1], rel=1e-5)


def test_training_is_what_torch_does_without_a_treatment():
    """One net, one batch a step, by torch's own Adam from the same start."""
    x, y = rows(n=16)
    found = trained(Arm("none"), x, y, epochs=10)
    start = trained(Arm("none"), x, y, epochs=2)["early"]  # after the first epoch, of one step
    net = as_module(unpack(start, found["sizes"], 2, 0), 0.0).float()
    assert found["train"][0][-1] < found["train"][0][0]
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for _ in range(9):
        optimizer.zero_grad()
        F.cross_entropy(net(x[0]), y[0]).backward()
        optimizer.step()
    # Adam's moments of the first step are not carried over: near, not equal.
    assert F.cross_entropy(net(x[0]), y[0]).item() == pytest.approx(found["train"][0][-1], abs=0.02)


def test_each_treatment_does_what_it_is_for():
    x, y = rows()
    plain = trained(Arm("none"), x, y, epochs=40)
    weights = {
        name: torch.cat(
            [w.flatten() for w in unpack(trained(arm, x, y, epochs=40)["final"], plain["sizes"], 2, 0)[::2]]
        )
        for name, arm in {"none": Arm("none"), "l2": Arm("a", l2=0.05), "l1": Arm("b", l1=2.0)}.items()
    }
    assert weights["l2"].norm() < 0.8 * weights["none"].norm()
    assert (weights["l1"] == 0).float().mean() > 0.1
    assert (weights["none"] == 0).sum() == 0
    dropped = trained(Arm("drop", p=0.5), x, y, epochs=40)
    assert np.mean(dropped["expected"]) > np.mean(dropped["train"])
    assert plain["expected"] == plain["train"]
    # More masks a step: less of the step's loss is luck.
    assert np.mean(trained(Arm("c", p=0.5, n_masks=8), x, y)["last_steps_std"]) < np.mean(
        trained(Arm("d", p=0.5), x, y)["last_steps_std"]
    )


def test_arms_are_paired_unless_they_get_seeds_of_their_own():
    x, y = rows()
    a, b = trained(Arm("one"), x, y), trained(Arm("two"), x, y)
    assert a["final"] == b["final"]
    assert trained(Arm("one"), x, y, own_seed=True)["final"] != trained(Arm("two"), x, y, own_seed=True)["final"]


@pytest.mark.parametrize("name", ["digits", "breast_cancer", "wine", "iris", "diabetes"])
def test_splits_share_no_row_and_are_standardized(name):
    data = load(name)
    one = split(data, 0)
    sizes = [len(part[0]) for part in (one.train, one.validation, one.test)]
    assert min(sizes) >= 20
    assert sum(sizes) <= len(data.X)
    np.testing.assert_allclose(one.train[0].mean(0), 0, atol=0.2)
    again, other = split(data, 0), split(data, 1)
    np.testing.assert_array_equal(one.test[0], again.test[0])
    assert not np.array_equal(one.train[1], other.train[1])


def test_data_of_your_own(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "mine.npz", X=rng.normal(size=(60, 4)), y=np.array(["a", "b", "c"])[rng.integers(3, size=60)] == "a"
    )
    files = find_datasets(tmp_path)
    assert load("mine", files["mine"]).classes == 2
    with pytest.raises(FileNotFoundError, match=r"no .npz file there; each data set is one, with arrays X and y"):
        find_datasets(tmp_path / "none")
    np.savez(tmp_path / "bad.npz", X=rng.normal(size=(60, 4)))
    with pytest.raises(ValueError, match="needs arrays X and y, has X"):
        load("bad", str(tmp_path / "bad.npz"))
