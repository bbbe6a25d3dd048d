"""A bar for what takes long."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["progress_bar"]


@contextmanager
def progress_bar(show: bool, title: str = "masks × examples") -> Iterator[tuple[Any, Any]]:
    """A rich progress bar over evaluations: (start(total), tick(done)); does nothing unless shown."""
    if not show:
        yield (lambda total: None), (lambda done: None)
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield (lambda total: bar.update(task, total=total)), (lambda done: bar.advance(task, done))
