"""The plain formats that benchmarks take."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import sparse
from sklearn.datasets import dump_svmlight_file

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from plain import load, stem

X, Y = np.array([[0.0, 1.5], [2.0, 0.0], [0.0, -3.0]]), np.array([0, 1, 1])


def test_columns_in_three_files(tmp_path):
    np.savez(tmp_path / "a.npz", X=X, y=Y)
    csr = sparse.csr_matrix(X)
    np.savez(tmp_path / "b.npz", data=csr.data, indices=csr.indices, indptr=csr.indptr, shape=csr.shape, y=Y)
    dump_svmlight_file(X, Y, str(tmp_path / "c.svmlight"), zero_based=True)
    for name in ("a.npz", "b.npz", "c.svmlight"):
        found, y = load(tmp_path / name)
        np.testing.assert_array_equal(found.toarray() if sparse.issparse(found) else found, X)
        np.testing.assert_array_equal(y, Y)
        assert stem(tmp_path / name) == name[0]


@pytest.mark.parametrize("name", ["d.tsv", "d.txt", "d.txt.gz"])
def test_sentences(tmp_path, name):
    text = "pos\tso good\u2028 so\tlong\r\n\nneg\t\n".encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    found, y = load(tmp_path / name)
    assert found.tolist() == ["so good\u2028 so\tlong", ""]
    assert y.tolist() == ["pos", "neg"]


def test_what_it_cannot_read(tmp_path):
    (tmp_path / "e.tsv").write_text("a\tb\nno tab here\n")
    with pytest.raises(ValueError, match=r"e.tsv must hold 'class<TAB>sentence' a line, got 'no tab here'"):
        load(tmp_path / "e.tsv")
    with pytest.raises(ValueError, match=r"f.csv is none of .npz, .svmlight, .libsvm, .tsv, .txt"):
        load(tmp_path / "f.csv")
