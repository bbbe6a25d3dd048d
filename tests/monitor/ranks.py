"""What each rank of `test_ranks.py` runs: one way of training, with the monitor and without, over two processes."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import allmasks as am
from leaving import leave
from monitor.nets import data, net, same, train

EPOCHS, HOW = 2, {"n_masks": 256}


def loop(folder, monitored):
    model = DistributedDataParallel(net())
    x, y = data()
    own = slice(12 * dist.get_rank(), 12 * dist.get_rank() + 12)
    if not monitored:
        return train(model, EPOCHS, loader=[(x[own], y[own])]), model.module, None
    monitor = am.Monitor(model, (x, y), "cross_entropy", csv=folder / "log.csv", tensorboard=folder / "board", **HOW)
    with monitor:
        left = train(model, EPOCHS, monitor.step, loader=[(x[own], y[own])])
    return left, model.module, monitor


def lightning(folder, monitored):
    from allmasks.monitor.lightning import LightningMonitor
    from monitor import test_lightning as single

    monitor = LightningMonitor("cross_entropy", **HOW)
    callbacks = [monitor] if monitored else []
    folder = folder if monitored else folder / "plain"
    _, module = single.fit(folder, *callbacks, epochs=EPOCHS, devices=2, strategy="ddp")
    return single.left(module), module.net, monitor


def trainer(folder, monitored):
    from allmasks.monitor.huggingface import TrainerMonitor
    from monitor import test_huggingface as single

    run = single.trainer(folder, epochs=EPOCHS, ddp_backend="gloo")
    monitor = TrainerMonitor(run, **HOW)
    if monitored:
        run.add_callback(monitor)
    return single.left(run), run.model.net, monitor


def main(way, folder):
    torch.set_num_threads(1)
    folder = Path(folder)
    if way == "loop":
        dist.init_process_group("gloo")
    run = {"loop": loop, "lightning": lightning, "trainer": trainer}[way]
    left, model, monitor = run(folder, True)
    plain, _, _ = run(folder, False)
    unchanged = [None] * dist.get_world_size()
    dist.all_gather_object(unchanged, same(left, plain))
    last = [None] * dist.get_world_size()
    dist.all_gather_object(last, [(epoch, reading.scalars()) for epoch, reading in monitor.history])
    if dist.get_rank() == 0:
        torch.save({"state": model.state_dict(), "unchanged": unchanged, "histories": last}, folder / "found.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
    leave()
