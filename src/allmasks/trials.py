"""Finished work on disk: each trial is one JSON file, whole or not there, so that a killed run loses nothing."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from numbers import Integral
from pathlib import Path
from typing import Any

from allmasks.files import naming, write_text
from allmasks.fingerprint import NotReadable, fingerprint

__all__ = ["Stopped", "Trials", "identity", "run_trials", "where_raised"]


class Stopped(KeyboardInterrupt):
    """Ctrl-C while trials ran: so many of them are kept on disk, and the same call goes on from there."""

    def __init__(self, kept: int, total: int) -> None:
        super().__init__(f"{kept} of {total} trials are kept")
        self.kept, self.total = kept, total


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
        """The result, or None where it is not there.

        Raises
        ------
        ValueError : a file that is not what `put` wrote: a trial is never half-written here, so something else changed
            it, and what it once said is not to be guessed.
        """
        path = self.path(key)
        if path is None or not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            result, whole = found["result"], found["digest"] == _digest(found["result"])
            same = _text(found["key"]) == _text(key)
        except (ValueError, KeyError, TypeError) as problem:
            raise _damaged(path, f"it is no finished trial ({type(problem).__name__}: {problem})") from None
        if not (whole and same):
            raise _damaged(path, "its result was changed afterwards" if same else "it holds another trial's key")
        return result

    def put(self, key: Any, result: Any) -> None:
        """Keep a result; a float comes back as the very same float, NaN included."""
        path = self.path(key)
        if path is not None:
            with naming(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            plain = json.loads(json.dumps(result))
            write_text(path, json.dumps({"key": json.loads(_text(key)), "result": plain, "digest": _digest(plain)}))


def _digest(result: Any) -> str:
    return hashlib.sha256(_text(result).encode()).hexdigest()[:24]


def _damaged(path: Path, why: str) -> ValueError:
    return ValueError(f"the trial file {path} cannot be used: {why}; delete it, and that trial is run again")


def _text(key: Any) -> str:
    return json.dumps(key, sort_keys=True, ensure_ascii=False)


def identity(function: Callable[..., Any], name: str | None, *, needed: bool) -> str:
    """What a cache calls a function: the name given, or a fingerprint of its code and all the values that it uses.

    Parameters
    ----------
    needed : whether there is a cache at all; without one nothing is read.

    Raises
    ------
    ValueError : no name, and the function uses something that cannot be read.
    """
    if name is not None:
        return f"named {name}"
    if not needed:
        return ""
    try:
        return fingerprint(function)
    except NotReadable as problem:
        raise ValueError(
            f"the cache cannot tell this fit from others: {problem}. Pass name=, a word of your own for this version "
            "of it, and change the word when fit changes"
        ) from None


@contextmanager
def where_raised(call: str) -> Iterator[None]:
    """Whatever is raised inside carries a note of the call that raised it."""
    try:
        yield
    except Exception as problem:
        problem.add_note(f"raised by {call}")
        raise


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

    Raises
    ------
    ValueError : a damaged trial file, by its path; n_jobs of 0. What `work` raises comes through, with a note that says
        how many trials are kept and where.
    """
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral) or n_jobs == 0:
        raise ValueError(f"n_jobs must be the number of processes, or -1 for all cores, got {n_jobs!r}")
    results: dict[int, Any] = {}
    missing = []
    for i, (key, _) in enumerate(jobs):
        found = trials.get(key)
        if found is None:
            missing.append(i)
            continue
        results[i] = found
        done(key)
    try:
        for i, result in _finished(work, [(i, jobs[i]) for i in missing], trials, n_jobs):
            results[i] = result
            done(jobs[i][0])
    except Exception as problem:
        if trials.folder is not None:
            kept = sum(trials.path(key).is_file() for key, _ in jobs)
            problem.add_note(
                f"{kept} of these {len(jobs)} trials are kept in {trials.folder}; the same call goes on there"
            )
        raise
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
            delayed(_one)(work, i, key, arguments, trials, os.getpid()) for i, (key, arguments) in missing
        )


def _one(
    work: Callable[..., Any], i: int, key: Any, arguments: tuple[Any, ...], trials: Trials, parent: int | None = None
) -> tuple[int, Any]:
    if parent is not None and parent != os.getpid():
        _end_with(parent)
    # Kept by the worker itself: what is finished is on disk even if the parent dies first.
    result = work(*arguments)
    trials.put(key, result)
    # What is used is what a resumed run would read.
    return i, json.loads(json.dumps(result))


@lru_cache(maxsize=1)
def _end_with(parent: int) -> None:
    """End this worker soon after its parent: one that is killed tells nobody, and its workers would go on."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    # On Windows the number of a parent stays after it has ended; there nothing is watched.
    if os.name != "posix":
        return
    if os.getppid() == 1 != parent and not _alive(parent):  # it ended while this worker was starting
        os._exit(1)
    if os.getppid() == parent:
        threading.Thread(target=watch, daemon=True, name="allmasks-parent").start()


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


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
