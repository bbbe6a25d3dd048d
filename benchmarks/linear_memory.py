"""Peak memory of a logistic fit on wide CSR rows, above its input, in a process of its own.

python benchmarks/linear_memory.py [--rows 25000] [--columns 500000] [--nonzeros 200]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
from multiprocessing.connection import Connection

import numpy as np
from measure import once
from scipy import sparse

from allmasks.linear_model import DropoutLogisticRegression


def peak() -> float:
    """Largest resident memory of this process so far, GiB (Linux: kilobytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def rows(n: int, d: int, nonzeros: int) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Columns by a power law, as words have it; classes by the weights of the commonest."""
    rng = np.random.default_rng(0)
    columns = np.minimum((d ** rng.random(n * nonzeros)).astype(np.int32), d - 1)
    X = sparse.csr_matrix((np.ones(n * nonzeros), columns, np.arange(0, n * nonzeros + 1, nonzeros, np.int32)), (n, d))
    X.sum_duplicates()
    X.data[:] = 1.0
    score = X @ (rng.normal(size=d) * (np.arange(d) < 2000))
    return X, (score > np.median(score)).astype(int)


def measure(n: int, d: int, nonzeros: int, pipe: Connection) -> None:
    # Compiled first, so that the compiler's memory is not the fit's.
    DropoutLogisticRegression().fit(sparse.csr_matrix(np.eye(4)), [0, 1, 0, 1])
    X, y = rows(n, d, nonzeros)
    before = peak()
    seconds, model = once(lambda: DropoutLogisticRegression(p=0.5, alpha=1.0).fit(X, y))
    size = (X.data.nbytes + X.indices.nbytes + X.indptr.nbytes) / 2**30
    pipe.send((size, before, peak(), seconds, int(model.n_iter_[0]), model.gradient_norm_))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=25_000)
    parser.add_argument("--columns", type=int, default=500_000)
    parser.add_argument("--nonzeros", type=int, default=200)
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=measure, args=(args.rows, args.columns, args.nonzeros, theirs))
    process.start()
    size, before, after, seconds, steps, norm = ours.recv()
    process.join()
    print(
        f"input {size:.2f} GiB; peak before the fit {before:.2f}, after it {after:.2f} GiB: +{after - before:.2f} GiB"
    )
    print(f"{seconds:.1f} s, {steps} steps, gradient {norm:.1e}")


if __name__ == "__main__":
    main()
