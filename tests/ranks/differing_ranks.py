"""What each rank of `test_agreement.py` runs: calls that differ on one rank, each ending alike on all."""

import sys
import time
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import allmasks as am
from allmasks.monitor import read
from allmasks.ranks import groups
from allmasks.ranks.agreement import weights_of_first
from leaving import leave
from ranks.plain_ranks import net, problem

ODD = 1


def weighted(weight):
    return nn.CrossEntropyLoss(weight=torch.tensor(weight))


def nudged():
    model = net()
    with torch.no_grad():
        model[3].weight[1, 2] += 1e-6
    return model


def rated(p):
    model = net()
    model[5].p = p
    return model


def sevens(output, y):
    return 7 * output.sum(dim=1)


def eights(output, y):
    return 8 * output.sum(dim=1)


def scaled(factor):
    return lambda output, y: factor * output.sum(dim=1)


def smoothed(share):
    return partial(nn.functional.cross_entropy, label_smoothing=share, reduction="none")


def loss(model=None, data=None, loss="cross_entropy", **how):
    x, y = data or am.shard(problem())
    return am.expected_loss(model or net(), x, y, loss, group="world", **{"n_masks": 256, **how})


def predicted(model=None, x=None, **how):
    x = am.shard(problem())[0] if x is None else x
    return am.predict(model or net(), x, group="world", **{"n_masks": 256, "task": "multiclass", **how})


def audited(model=None, **how):
    how = {"n_masks": 256, "instruments": False, "progress": False, **how}
    return am.audit(model or net(), am.shard(problem()), "cross_entropy", group="world", **how)


def seen(**how):
    return read(net(), problem(), "cross_entropy", **{"n_masks": 256, **how})


def doubles():
    x, y = am.shard(problem())
    return x.double(), y


class Summed(nn.Module):
    """Each of a batch's columns is dropped by itself, so that its masks have the batch's width."""

    def __init__(self):
        super().__init__()
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(1, 1)
        nn.init.ones_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x):
        return self.head(self.drop(x).sum(dim=1, keepdim=True))


def padded(widths=(4, 4), call=am.expected_loss):
    loader = torch.utils.data.DataLoader([(torch.ones(n), torch.zeros(1)) for n in widths], batch_size=1)
    how = (None, "squared_error") if call is am.expected_loss else ()
    return call(Summed(), loader, *how, group="world")


CASES = {
    "nothing": (loss, {}),
    "weights": (loss, {"model": nudged}),
    "seed": (loss, {"seed": 3}),
    "n_masks": (loss, {"n_masks": 512}),
    "atol": (loss, {"n_masks": None, "atol": 0.1}),
    "method": (loss, {"method": lambda: am.methods.MonteCarlo(sampler=am.samplers.Independent())}),
    "loss": (loss, {"loss": "squared_error"}),
    "weights of the loss": (loss, {"loss": lambda: weighted([1.0, 2.0, 1.0])}),
    "function": (loss, {"loss": lambda: eights}),
    "number in a loss": (loss, {"loss": lambda: scaled(0.5)}),
    "partial loss": (loss, {"loss": lambda: smoothed(0.2)}),
    "option of a loss": (loss, {"loss": lambda: nn.CrossEntropyLoss(label_smoothing=0.2)}),
    "dtype of the data": (loss, {"data": doubles}),
    "dtype of the model": (loss, {"model": lambda: net().double(), "data": doubles}),
    "rate": (loss, {"model": lambda: rated(0.25)}),
    "no such p": (loss, {"seed": -1}),
    "other module": (loss, {"model": lambda: nn.Sequential(net(), nn.Identity())}),
    "predict: weights": (predicted, {"model": nudged}),
    "predict: n_masks": (predicted, {"n_masks": 257}),
    "predict: samples": (predicted, {"keep_samples": True}),
    "predict: task": (predicted, {"task": "regression"}),
    "predict: no module": (predicted, {"model": lambda: "net"}),
    "audit: weights": (audited, {"model": nudged}),
    "audit: atol": (audited, {"n_masks": None, "atol": 0.5}),
    "monitor: seed": (seen, {"seed": 9}),
    "shapes of batches": (padded, {"widths": (4, 6)}),
    "predict: shapes of batches": (partial(padded, call=am.predict), {"widths": (4, 6)}),
    "another function": (None, {}),
}
USUAL = {
    "weights of the loss": {"loss": lambda: weighted([1.0, 1.0, 1.0])},
    "function": {"loss": lambda: sevens},
    "number in a loss": {"loss": lambda: scaled(0.25)},
    "partial loss": {"loss": lambda: smoothed(0.1)},
    "option of a loss": {"loss": lambda: nn.CrossEntropyLoss(label_smoothing=0.1)},
}


def run(name):
    function, odd = CASES[name]
    mine = odd if dist.get_rank() == ODD else USUAL.get(name, {})
    if function is None:
        function = audited if dist.get_rank() == ODD else loss
    made = {key: value() if callable(value) else value for key, value in mine.items()}
    return function(**made)


def main(out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    found = {}
    for name in CASES:
        began = time.monotonic()
        try:
            run(name)
            text = "no error"
        except Exception as failure:
            text = f"{type(failure).__name__}: {failure}"
        found[name] = text, time.monotonic() - began
    # Drifting buffers are no difference, and neither is a rank's own closure.
    normed = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 3))
    normed = DistributedDataParallel(normed)
    normed.module[1].running_mean += dist.get_rank()
    rank = dist.get_rank()
    x, y = am.shard(problem())
    value = am.expected_loss(
        normed, x, y, lambda o, t: o.sum(dim=1) + 0 * rank, n_masks=256, group="world"
    ).value.item()
    mended = nudged() if rank == ODD else net()
    names = weights_of_first(groups.join("world"), mended)
    everything = [None] * dist.get_world_size()
    same = all(torch.equal(a, b) for a, b in zip(mended.parameters(), net().parameters(), strict=True))
    dist.all_gather_object(everything, (found, value, names, same))
    if dist.get_rank() == 0:
        torch.save(everything, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
    leave()
