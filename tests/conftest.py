"""The suite runs one process a core: threads beyond the cores get in each other's way, and spin while they wait.

Here and in every process that a test starts, a process has one thread, and those that a test asks for (numba's too)
sleep while they wait. Without this, small parallel regions take ten times the processor time of their work. Set before
anything loads torch, numba or a BLAS.
"""

import os
from importlib.util import find_spec

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _torchvision_beside_torch():
    """torchvision's compiled operators do not load beside a CPU-only torch, and its import, and transformers' with it,
    then fails at two operators that it registers shapes for. No model of the tests uses them: their schemas do."""
    if find_spec("torchvision") is None:
        return
    import torch

    for schema in (
        "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    ):
        if not hasattr(torch.ops.torchvision, schema.partition("(")[0]):
            torch.library.define(f"torchvision::{schema.partition('(')[0]}", "(" + schema.partition("(")[2])


_torchvision_beside_torch()


def pytest_configure(config):
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist would begin with the files of the most tests
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Files with long tests come first: begun last, they would be waited for by cores that have nothing to do."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)
