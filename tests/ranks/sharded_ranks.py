"""What each rank of `test_sharded.py` runs: models sharded by FSDP, unevenly shared examples, results written down."""

import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

import allmasks as am
from leaving import leave

N_EXAMPLES = 23
CUTS = {2: (0, 19, 23), 3: (0, 12, 13, 23)}
"""Where the ranks' shards begin and end: they differ in batches, and so in passes."""

PREDICTED = ("mean", "mean_error", "std", "std_error", "weight_scaling")


class Wary(nn.Module):
    """A recurrent net, for which vmap has no rule, that refuses NaN, which the look at the model tries."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(3, 4, num_layers=2, dropout=0.4, batch_first=True)
        self.head = nn.Sequential(nn.Dropout(0.3), nn.Linear(4, 1))

    def forward(self, x):
        h = self.rnn(x.unflatten(1, (2, 3)))[0][:, -1]
        if torch.isnan(h).any():
            raise ValueError("NaN")
        return self.head(h)


class Touchy(nn.Module):
    """Raises in the middle of a pass, on the rank that has the largest input, once it is asked for many passes."""

    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(6, 8), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x):
        if x.max() > 50 and len(x) < 3:
            raise RuntimeError("too large for me")
        return self.last(self.drop(torch.tanh(self.first(x))))


def deep():
    block = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.2))
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), block, nn.Dropout(0.5), nn.Linear(8, 3))


MODELS = {"deep": deep, "wary": Wary, "touchy": Touchy}
PARTS = {"deep": ("3",), "wary": ("rnn", "head"), "touchy": ("last",)}


def net(name):
    torch.manual_seed(3)
    return MODELS[name]()


def problem(name):
    rng = torch.Generator().manual_seed(5)
    x = torch.randn(N_EXAMPLES, 6, generator=rng)
    y = torch.randint(3, (N_EXAMPLES,), generator=rng) if name != "wary" else torch.randn(N_EXAMPLES, generator=rng)
    return x, y, "cross_entropy" if name != "wary" else "squared_error"


def sharded(name, flavor):
    model = net(name)
    mesh, cpu = init_device_mesh("cpu", (dist.get_world_size(),)), torch.device("cpu")
    for part in PARTS[name]:
        if flavor == "wrapped":
            model.set_submodule(part, FullyShardedDataParallel(model.get_submodule(part), device_id=cpu))
        else:
            fully_shard(model.get_submodule(part), mesh=mesh)
    return FullyShardedDataParallel(model, device_id=cpu) if flavor == "wrapped" else fully_shard(model, mesh=mesh)


def measured(model, x, y, loss, **options):
    """Numbers by name, of one call each."""
    few = am.methods.MonteCarlo(n_masks=32, sampler=am.samplers.Independent())
    found = am.expected_loss(model, x, y, loss, method=few, **options)
    task = "multiclass" if loss == "cross_entropy" else "regression"
    forecast = am.predict(model, x, task=task, method=few, **options)
    numbers = {name: getattr(found, name).detach() for name in ("value", "error", "penalty", "per_example")}
    numbers |= {f"predict_{name}": getattr(forecast, name) for name in PREDICTED}
    if loss == "cross_entropy":
        steered = am.methods.MonteCarlo(n_masks=256, control="quadratic")
        numbers["steered"] = am.expected_loss(model, x, y, loss, method=steered, **options).value.detach()
        numbers["aimed"] = am.predict(model, x, task="regression", atol=0.1, **options).n_masks
        audit = am.audit(model, (x, y), loss, n_masks=256, progress=False, instruments=False, **options)
        numbers["sites"] = [(s.alone, s.alone_error, s.saved, s.saved_error) for s in audit.per_site]
        numbers["names"] = np.array([site.name for site in audit.sites])
        numbers["model"] = np.array(audit.model_name)
    return {name: np.asarray(value) for name, value in numbers.items()}


def units(audit):
    """Each unit's penalty, as the instruments found it: of the first rank's examples, if the model is sharded."""
    return np.concatenate([site.unit_penalty.penalty for site in audit.instruments])


def state(model):
    return [(name, id(parameter), type(parameter)) for name, parameter in model.named_parameters()]


def whole(out):
    rank, cuts = dist.get_rank(), CUTS[dist.get_world_size()]
    numbers = {}
    for flavor in ("wrapped", "fully"):
        for name in ("deep", "wary"):
            model, (x, y, loss) = sharded(name, flavor), problem(name)
            own = slice(cuts[rank], cuts[rank + 1])
            with torch.no_grad():
                before, output = state(model.train()), model.eval()(x[:4])
            model.train()
            found = measured(model, x[own], y[own], loss, batch_size=4, group="world")
            if flavor == "wrapped":
                assert state(model) == before
            assert model.training
            with torch.no_grad():
                assert torch.equal(model.eval()(x[:4]), output)
            # A rank that raises between passes stops the others, which are in the middle of theirs.
            bad = y[own].clone()
            bad[-1] = 99 if loss == "cross_entropy" else torch.nan
            failure = ""
            try:
                last = dist.get_world_size() - 1
                am.expected_loss(model, x[own], bad if rank == last else y[own], loss, batch_size=4, group="world")
            except Exception as problem_:
                failure = f"{type(problem_).__name__}: {problem_}"
            found["failure"] = np.array(failure)
            numbers |= {f"{flavor}_{name}_{key}": value for key, value in found.items()}
            if (flavor, name) == ("fully", "deep"):
                audit = am.audit(model, (x[own], y[own]), loss, n_masks=256, progress=False, group="world")
                numbers["units"] = units(audit)
    # The parts that were spread out before the call are so after it, the outermost too.
    model, (x, y, loss) = sharded("deep", "fully"), problem("deep")
    before = state(model)
    found = am.expected_loss(model, *am.shard((x, y)), loss, n_masks=256, group="world")
    assert state(model) == before
    told = []
    for call in (lambda: am.expected_loss(model, x, y, loss), lambda: am.predict(model, x), found.value.backward):
        try:
            call()
        except Exception as problem_:
            told.append(f"{type(problem_).__name__}: {problem_}")
    if rank == 0:
        np.savez(out, told=np.array(told), **numbers)


def touchy():
    model, (x, y, loss) = sharded("touchy", "fully"), problem("touchy")
    x, y = am.shard((x, y))
    if dist.get_rank() == 1:
        x[-1] = 99
    try:
        am.expected_loss(model, x, y, loss, batch_size=3, n_masks=256, group="world")
    except Exception as failure:
        print(f"RANK {dist.get_rank()} {failure} {failure.__notes__}", flush=True)
        sys.exit(3)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    if sys.argv[1] == "touchy":
        touchy()
    else:
        whole(sys.argv[1])
    leave()
