"""Models of other packages, tiny and with random weights: a row each, told apart by the package they come from."""

from importlib.util import find_spec


def let_torchvision_load() -> None:
    """torchvision's compiled operators do not load beside a CPU-only torch, and its import fails, and transformers'
    with it, at two operators that it registers shapes for. No model of the tests calls them: their schemas do."""
    if find_spec("torchvision") is None:
        return
    import torch

    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
