"""Finished work on disk: each trial is one JSON file, whole or not there, so that a killed run loses nothing."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allmasks.files import write_text

__all__ = ["Trials", "run_trials"]


@dataclass(frozen=True)
class Trials:
    """A folder of finished trials, or no folder at all: then nothing is kept.

    A trial's file is named by a hash of its key, and holds the key beside the result, so that a result is only ever
    taken for the very same question.
    """

    folder: Path | None = None

    def path(self, key: Any) -> Path | None:
        """Where the trial's result lies, or would."""
        if self.folder is None:
            return None
        return self.folder / f"{hashlib.sha256(_text(key).encode()).hexdigest()[:24]}.json"

    def get(self, key: Any) -> Any:
        """The result, or None where it is not there. A damaged file counts as not there."""
        path = self.path(key)
        if path is None or not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return found["result"] if found["key"] == json.loads(_text(key)) else None
        except (ValueError, KeyError, TypeError):
            return None

    def put(self, key: Any, result: Any) -> None:
        """Keep a result; a float comes back as the very same float, NaN included."""
        path = self.path(key)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps({"key": json.loads(_text(key)), "result": result}))


def _text(key: Any) -> str:
    return json.dumps(key, sort_keys=True, ensure_ascii=False)


def run_trials(
    work: Callable[..., Any],
    jobs: Sequence[tuple[Any, tuple[Any, ...]]],
    trials: Trials,
    *,
    n_jobs: int = 1,
    done: Callable[[Any], None] = lambda key: None,
) -> list[Any]:
    """Results of work(*arguments) for each (key, arguments), in order; those on disk are taken from there.

    Parameters
    ----------
    work : must be picklable if n_jobs is not 1, and return what JSON can hold.
    done : called with each key as its result arrives.
    """
    results: dict[int, Any] = {}
    missing = []
    for i, (key, _) in enumerate(jobs):
        found = trials.get(key)
        if found is None:
            missing.append(i)
        else:
            results[i] = found
            done(key)
    for i, result in _finished(work, [(i, jobs[i]) for i in missing], trials, n_jobs):
        results[i] = result
        done(jobs[i][0])
    return [results[i] for i in range(len(jobs))]


def _finished(
    work: Callable[..., Any], missing: list[tuple[int, tuple[Any, tuple[Any, ...]]]], trials: Trials, n_jobs: int
) -> Iterator[tuple[int, Any]]:
    if n_jobs == 1 or len(missing) <= 1:
        for i, (key, arguments) in missing:
            yield _one(work, i, key, arguments, trials)
        return
    from joblib import Parallel, delayed

    with _one_thread_each():
        yield from Parallel(n_jobs=n_jobs, return_as="generator_unordered")(
            delayed(_one)(work, i, key, arguments, trials) for i, (key, arguments) in missing
        )


def _one(work: Callable[..., Any], i: int, key: Any, arguments: tuple[Any, ...], trials: Trials) -> tuple[int, Any]:
    # Kept by the worker itself: what is finished is on disk even if the parent dies first.
    result = work(*arguments)
    trials.put(key, result)
    # What is used is what a resumed run would read.
    return i, json.loads(json.dumps(result))


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Workers are processes: threads of their own would only fight for the same cores."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
