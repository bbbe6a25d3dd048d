"""Means over replicates and their errors, against formulas written out, NumPy and tensors alike."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t

from allmasks.replicates import (
    RunningMean,
    block_means,
    grouped_sizes,
    half_width,
    jackknife,
    mean_and_error,
    standard_error,
    student,
)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_a_stream_gives_what_all_masks_at_once_give(n, block, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(1e3, 1.0, (n, 2))
    sizes = np.array([len(part) for part in np.split(values, range(block, n, block))])
    means = block_means(values, block)
    np.testing.assert_allclose(means, [part.mean(axis=0) for part in np.split(values, range(block, n, block))])
    mean, error = mean_and_error(means, sizes)
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-12)
    for kind in (np.asarray, torch.from_numpy):
        running, seen, got = RunningMean(n, block), 0, []
        while seen < n:
            step = int(rng.integers(1, n + 1))
            given_back = running.add(kind(values[seen : seen + step]))
            got += [] if given_back is None else [np.asarray(given_back)]
            seen += step
        np.testing.assert_allclose(np.concatenate(got), means, rtol=1e-12)
        own = [np.asarray(part) for part in running.mean_and_error()]
        np.testing.assert_allclose(own[0], mean, rtol=1e-12)
        np.testing.assert_allclose(own[1], error, rtol=1e-6, equal_nan=True)
        np.testing.assert_allclose(np.asarray(mean_and_error(kind(means), sizes)[1]), error, equal_nan=True)


@given(st.lists(st.integers(1, 8), min_size=2, max_size=12), st.integers(0, 2**32 - 1))
def test_the_error_is_the_jackknifes(sizes, seed):
    x = np.random.default_rng(seed).normal(size=len(sizes))
    m = np.array(sizes, float)
    n = m.sum()
    theta = (m * x).sum() / n
    h = n / m
    # Busing, Meijer & van der Leeden 1999, written out with each group really left out.
    left = np.array([np.delete(m * x, j).sum() / (n - m[j]) for j in range(len(m))])
    whole = len(m) * theta - ((1 - m / n) * left).sum()
    pseudo = h * theta - (h - 1) * left
    variance = ((pseudo - whole) ** 2 / (h - 1)).mean()
    mean, error = mean_and_error(x, sizes)
    assert mean == pytest.approx(theta)
    assert error == pytest.approx(math.sqrt(variance))
    value, error, plug_in, deviation = jackknife({"a": x[:, None]}, sizes, lambda f: f["a"])
    assert value[0] == pytest.approx(theta)
    assert plug_in[0] == pytest.approx(theta)
    assert error[0] == pytest.approx(math.sqrt(variance))
    assert deviation.shape == (len(m), 1)


def test_the_jackknife_takes_away_bias():
    rng = np.random.default_rng(1)
    draws = rng.normal(1.0, 1.0, (20_000, 10, 1))
    sizes = [3, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    draws[:, 0] = 1 + (draws[:, 0] - 1) / math.sqrt(3)
    found = [jackknife({"a": d}, sizes, lambda f: f["a"] ** 2)[0][0] for d in draws[:4000]]
    assert abs(np.mean(found) - 1.0) < 4.5 * np.std(found) / math.sqrt(4000)
    plain = np.average(draws[..., 0], axis=1, weights=sizes) ** 2
    assert plain.mean() - 1.0 > 4.5 * plain.std() / math.sqrt(20_000)


def test_one_replicate_has_no_error():
    assert math.isnan(standard_error(np.array([3.0])))
    assert math.isnan(mean_and_error(torch.tensor([3.0]), [5])[1])
    value, error, _, _ = jackknife({"a": torch.tensor([[2.0]])}, [4], lambda f: f["a"] ** 2)
    assert float(value) == 4.0
    assert math.isnan(float(error))
    assert math.isnan(half_width(math.nan, 0.95, 1))
    assert math.isnan(half_width(1.0, 0.95, 1))


def test_students_quantiles():
    for level in (0.5, 0.9, 0.95, 0.999):
        for n in (2, 3, 10, 1000):
            assert student(level, n) == pytest.approx(t.ppf(0.5 + level / 2, n - 1), rel=1e-12)
    for level in (0.0, 1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="level must lie between 0 and 1"):
            student(level, 5)


def test_groups_share_blocks_evenly():
    sizes = grouped_sizes([8] * 1000 + [3])
    assert len(sizes) == 64
    assert sizes.sum() == 8003
    assert sizes.max() - sizes.min() <= 13
    assert grouped_sizes([1]).tolist() == [1]
