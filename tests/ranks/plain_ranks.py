"""What each rank of `test_groups.py` runs: its shard, through DDP, and the results written down."""

import sys

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import allmasks as am
from leaving import leave

PREDICTED = (
    *("mean", "mean_error", "std", "std_error", "weight_scaling", "gap", "entropy", "mutual_information"),
    *("mutual_information_error", "log_likelihood", "log_likelihood_error", "samples"),
)


def net():
    torch.manual_seed(3)
    layers = [torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(8, 8)]
    layers += [torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 3)]
    return torch.nn.Sequential(*layers)


def problem():
    rng = torch.Generator().manual_seed(5)
    return torch.randn(23, 6, generator=rng), torch.randint(3, (23,), generator=rng)


def main(out, bad_rank):
    dist.init_process_group("gloo")
    model, data = DistributedDataParallel(net()), am.shard(problem())
    if dist.get_rank() == int(bad_rank):
        data[0][0, 0] = float("nan")
    try:
        found = am.expected_loss(model, *data, "cross_entropy", n_masks=256, group="world")
    except Exception as failure:
        print(f"RANK {dist.get_rank()} {type(failure).__name__}: {failure}", flush=True)
        sys.exit(3)
    found.value.backward()
    grad = torch.cat([p.grad.flatten() for p in model.parameters()])
    dist.all_reduce(grad)
    audit = am.audit(model, data, "cross_entropy", n_masks=256, instruments=False, progress=False, group="world")
    forecast = am.predict(model, data[0], task="multiclass", n_masks=256, keep_samples=True, y=data[1], group="world")
    aimed = am.predict(model, data[0], task="regression", atol=0.03, group="world")
    if dist.get_rank() == 0:
        sites = [(one.alone, one.alone_error, one.saved, one.saved_error) for one in audit.per_site]
        np.savez(
            out,
            value=found.value.item(),
            error=found.error.item(),
            penalty=found.penalty.item(),
            per_example=found.per_example.detach().numpy(),
            per_example_error=found.per_example_error.numpy(),
            grad=grad.numpy(),
            sites=np.array(sites),
            n=audit.n_examples,
            aimed=aimed.n_masks,
            **{f"predict_{name}": getattr(forecast, name).numpy() for name in PREDICTED},
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
    leave()
