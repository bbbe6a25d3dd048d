"""How the rank scripts of the tests end."""

import gc

import torch.distributed as dist


def leave() -> None:
    """End this process's part of the group. Called when nothing of the work is left in any local variable.

    A model of DistributedDataParallel keeps the group's threads, in cycles that are collected late: a thread that lets
    go of its last tensor while the interpreter is ending aborts the process.
    """
    gc.collect()
    dist.destroy_process_group()
