"""A whole training run of a toy network, as a script for tests that need processes of their own.

``toy_script.py OUTPUT [--steps N] [--batch_size B] [--resume] [--use_parallel] [--slow] [--hang_in_save STEP]
                      [--hang_in_data STEP]``
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindone import runtime
from mindone.data.loader import Loader
from mindone.data.plan import FixedPlan
from mindone.parallel.collectives import Mean, broadcast_parameters
from mindone.parallel.mesh import make_mesh
from mindone.signals import exit_code
from mindone.train import checkpoints as checkpoints_module
from mindone.train import run_folder
from mindone.train.checkpoints import TrainingCheckpoints, TrainState
from mindone.train.ema import Ema
from mindone.train.loop import Every, Training, fit
from mindone.train.optim import AdamW
from mindone.train.schedule import make_schedule
from mindone.train.skipped import SkippedUpdates
from mindone.train.step import TrainStep
from mindone.train.tracker import Trackers, make_trackers


class Points:
    """Sixteen points to learn, each disturbed by a draw of its own."""

    def __len__(self):
        return 16

    def get(self, index, rng, size=None):
        x = np.random.default_rng(index).normal(size=4)
        return {"x": (x + 0.1 * rng.normal(size=4)).astype(np.float32), "y": np.float32(np.sin(x).sum())}


class Network(nn.Cell):
    """Two layers; the weights differ between ranks until rank 0 sends its own."""

    def __init__(self, seed):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.first = Parameter(Tensor(rng.normal(size=(8, 4)).astype(np.float32)), name="first")
        self.second = Parameter(Tensor(rng.normal(size=(1, 8)).astype(np.float32)), name="second")

    def construct(self, x):
        return ops.dense(ops.tanh(ops.dense(x, self.first)), self.second)[:, 0]


class NoisyLoss(nn.Cell):
    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x, y, noise):
        error = self.network(x + noise) - y
        return ops.square(error).mean(), (ops.abs(error).mean(),)


def inputs(batch, place):
    return Tensor(batch.arrays["x"]), Tensor(batch.arrays["y"]), Tensor(0.1 * place.normal("noise", (4,)))


def train(output, steps=8, batch_size=2, resume=False, accumulation=1, pause=0.0, save_steps=2, rate=0.05, most=0):
    """Trains and returns the signal that ended it, the run's folder and the network."""
    mesh = make_mesh()
    found = run_folder.find_run(output, resume)
    folder = run_folder.open_folder(output, True, found, mesh)
    network = Network(seed=mesh.rank)
    broadcast_parameters(network.trainable_params(), mesh)
    weights = network.trainable_params()
    mean = Mean(mesh) if mesh.world_size > 1 else None
    step = TrainStep(
        NoisyLoss(network), AdamW(weights, weight_decay=0.01), Ema(weights, 0.9), 1.0, accumulation, mean=mean
    )
    checkpoints = TrainingCheckpoints(folder, step, network, {"hidden": 8}, mesh, keep_last=2)
    state = checkpoints.restore(found.checkpoint) if found else TrainState(seed=3)
    points = Points()
    run = Training(
        step,
        Loader(points, FixedPlan(len(points), batch_size, mesh.data, seed=3), mesh=mesh),
        inputs,
        make_schedule("cosine_decay", rate, 0.0, warmup_steps=2, total_steps=8),
        steps,
        checkpoints,
        state,
        SkippedUpdates(folder / "skipped_updates.csv", 3, most),
        accumulation,
        make_trackers(folder, steps, 1, state.step) if mesh.is_main else Trackers(),
        save_steps,
        ("l1",),
        [Every(1, lambda _: time.sleep(pause))],
    )
    return fit(run), folder, network


def hang_in_save(step):
    """Makes the save of one step stop half-way."""
    save = checkpoints_module.save_safetensors

    def hanging(path, tensors):
        if f"{step:08d}" in str(path):
            path.write_bytes(b"half of a file")
            print("hanging", flush=True)
            time.sleep(600)
        save(path, tensors)

    checkpoints_module.save_safetensors = hanging


def hang_in_data(step):
    """Makes the loading of one update's data, of 2 samples, stop half-way."""
    get, count = Points.get, itertools.count()

    def hanging(*args):
        if next(count) == 2 * step - 1:
            print("hanging", flush=True)
            time.sleep(600)
        return get(*args)

    Points.get = hanging


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=2)
    parser.add_argument("--resume", nargs="?", const=True, default=False)
    for flag in ("use_parallel", "slow"):
        parser.add_argument(f"--{flag}", action="store_true")
    for flag in ("hang_in_save", "hang_in_data"):
        parser.add_argument(f"--{flag}", type=int)
    options = parser.parse_args()
    runtime.setup("CPU", use_parallel=options.use_parallel)
    if options.hang_in_save:
        hang_in_save(options.hang_in_save)
    if options.hang_in_data:
        hang_in_data(options.hang_in_data)
    pause = 0.3 if options.slow else 0.0
    ended, _, _ = train(options.output, options.steps, options.batch_size, options.resume, pause=pause)
    sys.exit(exit_code(ended) if ended else 0)
