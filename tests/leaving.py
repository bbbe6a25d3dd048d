"""How the rank scripts of the tests end."""

import gc
import os
import sys

import torch.distributed as dist


def leave() -> None:
    """End this process's part of the group, and the process, which has done its work.

    A model of DistributedDataParallel keeps the group's threads, in cycles that are collected late or never: a thread
    that lets go of its last tensor while the interpreter is ending aborts the process (torch 2.13, gloo). So the
    interpreter does not come to its end.
    """
    gc.collect()
    dist.destroy_process_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
