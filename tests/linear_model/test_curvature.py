"""The kept curvature: CSR rows give what dense ones do, and its diagonal is right where one unit decides a row."""

import numpy as np
import pytest
from scipy import sparse

from allmasks.linear_model.curvature import kept_curvature
from allmasks.linear_model.feature_rows import Rows


@pytest.mark.parametrize("scale", [0.0, 0.3, 30.0])
def test_csr_and_dense_rows_agree(scale):
    rng = np.random.default_rng(0)
    X = rng.integers(0, 3, (40, 15)) * (rng.random((40, 15)) < 0.5) * 1.0
    weights, p, r = scale * rng.standard_normal(15), rng.uniform(0, 0.9, 15), rng.uniform(0, 2, 40)
    dense, csr = Rows(X), Rows(sparse.csr_matrix(X))
    mu, variance = dense.dot(weights), dense.squares_dot(p / (1 - p) * weights**2)
    hat, extra = kept_curvature(dense, weights, p, mu, variance, r)
    other, more = kept_curvature(csr, weights, p, mu, variance, r)
    np.testing.assert_allclose(other.toarray(), hat, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(more, extra, rtol=1e-10, atol=1e-14)
    assert (more >= 0).all()
