"""A command under torchrun: its processes share the work, the first one speaks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from allmasks.ranks.groups import Group

__all__ = ["processes"]

_GRACE = 2.0
"""Seconds in which the process that failed says why, before others end: torchrun ends all with the first."""


@contextmanager
def processes(check: Callable[[], None]) -> Iterator[Group]:
    """The processes that torchrun started, joined over gloo; or this one alone.

    check : looks at what was asked for, before anything heavy is loaded; where it raises in several, one tells.
    Where another process failed, this one ends without a word: the error is told once, by the one that has it.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) < 2 or not {"RANK", "MASTER_ADDR"} <= os.environ.keys()
    if alone:
        check()
    from allmasks.ranks.groups import ALONE, join

    if alone:
        yield ALONE
        return
    import torch.distributed as dist

    dist.init_process_group("gloo")
    ranks = join("world")
    try:
        ranks.run(check)
        yield ranks
    except Exception:
        if ranks.failed in (None, ranks.rank):
            raise
        time.sleep(_GRACE)
        raise typer.Exit(2) from None
    finally:
        dist.destroy_process_group()
