"""What each rank of `test_ranks.py` runs: a step with masks of its own, or those of all ranks."""

import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

import allmasks as am
from leaving import leave


def main(how):
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 24), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(24, 3))
    model = DistributedDataParallel(net) if how == "wrapped" else net
    x, y = torch.randn(16, 6), torch.randint(0, 3, (16,))
    x = x + rank
    torch.manual_seed(0 if how in ("alike", "tensor_parallel") else rank)
    same = ("2",) if how in ("tensor_parallel", "apart") else ()
    step = lambda: F.cross_entropy(model(x), y)  # noqa: E731
    found = am.verify(model, x, y, "cross_entropy", step=step, passes=48, group="world", same_masks=same)
    print(f"RANK {rank} ok={found.ok} {[f.fault for f in found.findings]} {[str(f.sentence) for f in found.findings]}")


if __name__ == "__main__":
    main(sys.argv[1])
    leave()
