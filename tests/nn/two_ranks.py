"""What each rank of `test_modes.py` runs: masks of layers under DDP, compared over the ranks."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import allmasks as am
from leaving import leave


def compared(value):
    every = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(every, value.contiguous())
    return "agree" if all(torch.equal(every[0], one) for one in every) else "differ"


def main():
    dist.init_process_group("gloo")
    ones = torch.ones(1000)
    am.seed(1)
    default = compared(am.nn.Dropout(0.5)(ones))
    am.seed(1, same_on_ranks=True)
    same = compared(am.nn.Dropout(0.5)(ones))
    seeded = compared(am.nn.Dropout(0.5, seed=4)(ones))
    am.seed(1)
    net = DistributedDataParallel(torch.nn.Sequential(torch.nn.Linear(8, 64), am.nn.Dropout(0.5)))
    net(torch.ones(16, 8)).pow(2).sum().backward()
    gradients = compared(net.module[0].weight.grad)
    if dist.get_rank() == 0:
        print(f"default: {default}, same_on_ranks: {same}, seeded: {seeded}, gradients: {gradients}", flush=True)


if __name__ == "__main__":
    main()
    leave()
