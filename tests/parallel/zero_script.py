"""On three ranks: what training in slices differs by from one process, as JSON; and a checkpoint of each stage.

Also how rows of tables in slices differ from those of whole ones.

``zero_script.py FOLDER``
"""

import json
import sys
from pathlib import Path

import numpy as np
from mindspore import Tensor, nn, ops

from mindone import runtime
from mindone.checkpoint.run import RunCheckpoints
from mindone.nn.layers import Embedding, LayerNorm, Linear
from mindone.parallel.collectives import Mean
from mindone.parallel.mesh import Mesh, make_mesh
from mindone.parallel.zero import Slices, spread, spread_tables
from mindone.train.checkpoints import TrainingCheckpoints, TrainState
from mindone.train.ema import Ema
from mindone.train.optim import AdamW
from mindone.train.step import TrainStep

UPDATES, RATE = 3, 0.05
STAGES = {1: (3,), 2: (1, 2)}
"""Accumulation, and the stages that are trained with it."""
DATA = np.random.default_rng(0)
INPUTS = DATA.normal(size=(UPDATES, 2, 6, 5)).astype(np.float32)
TARGETS = DATA.normal(size=(UPDATES, 2, 6)).astype(np.float32)


class Network(nn.Cell):
    """No size is a multiple of three."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = Linear(5, 7), LayerNorm(7), Linear(7, 1)
        rng = np.random.default_rng(1)
        for parameter in self.get_parameters():
            parameter.set_data(Tensor(rng.normal(size=parameter.shape).astype(np.float32)))

    def construct(self, x, y):
        error = self.second(self.norm(ops.tanh(self.first(x))))[:, 0] - y
        return ops.square(error).mean()


def build(mesh, stage, accumulation):
    network = Network()
    if stage == 3:
        spread(network, mesh, smallest=8)
    parameters = network.trainable_params()
    slices = Slices(parameters, mesh) if stage else None
    moved = slices.parameters if stage else parameters
    mean = Mean(mesh) if mesh.world_size > 1 else None
    step = TrainStep(
        network,
        AdamW(moved, weight_decay=0.1),
        Ema(moved, 0.5, changed=slices.refresh if slices else None),
        0.5,
        accumulation,
        mean=mean,
        slices=slices,
        slice_gradients=stage > 1,
    )
    return network, step


def train(step, mesh, accumulation, updates):
    """Losses and norms; each rank has a part of every micro batch."""
    found = []
    for update in updates:
        own = slice(mesh.rank, None, mesh.world_size)
        batches = [(Tensor(INPUTS[update, i, own]), Tensor(TARGETS[update, i, own])) for i in range(accumulation)]
        result = step(batches, RATE, update)
        found.append([float(result.loss.asnumpy()), float(result.grad_norm.asnumpy())])
    return found


def checkpoints(folder, network, step, mesh):
    return TrainingCheckpoints(folder, step, network, {"hidden": 7}, mesh)


def weights(network):
    return {name: parameter.asnumpy().tolist() for name, parameter in network.parameters_and_names()}


def resumed(folder, mesh, stage, accumulation):
    """All updates; the last one is made a second time from a checkpoint before it, and counts."""
    network, step = build(mesh, stage, accumulation)
    found = train(step, mesh, accumulation, range(UPDATES - 1))
    saver = checkpoints(folder, network, step, mesh)
    saver.save(TrainState(step=UPDATES - 1))
    train(step, mesh, accumulation, range(UPDATES - 1, UPDATES))
    saver.restore(RunCheckpoints(folder / "ckpt").latest())
    found += train(step, mesh, accumulation, range(UPDATES - 1, UPDATES))
    saver.export()
    check_averages(step)
    return found


def check_averages(step):
    """While averages are applied the network has them, whole, and its own weights afterwards."""
    slices, raw = step.slices, [parameter.asnumpy() for parameter in step.slices.cut]
    with step.ema.applied():
        check_whole(slices, [average.asnumpy() for average in step.ema.averages[slices.spread :]])
    check_whole(slices, raw)


def check_whole(slices, expected):
    for parameter, own, values in zip(slices.whole, slices.cut, expected):
        flat = parameter.asnumpy().ravel()[own.cut.begin :][: own.cut.count]
        assert np.array_equal(flat, values[: own.cut.count]), parameter.name


def rows_of_tables(mesh):
    """The largest difference of each mode, whether ranks ask for the same rows, and for fewer than there are."""
    found, values = {}, np.random.default_rng(2).normal(size=(7, 5)).astype(np.float32)
    for graph in (False, True):
        runtime.setup("CPU", graph=graph, use_parallel=True)
        for together in (True, False):
            for shape in ((2, 3), (3, 5)):
                ids = np.random.default_rng(3 if together else mesh.rank).integers(0, 7, shape)
                table = Embedding(7, 5)
                table.weight.set_data(Tensor(values))
                assert [own.shape for own in spread_tables(table, mesh, together, smallest=8)] == [(15,)]
                rows = table(Tensor(ids.astype(np.int32))).asnumpy()
                name = f"{'graph' if graph else 'pynative'} {together} {shape}"
                found[name] = float(np.abs(rows - values[ids]).max())
    return found


def main():
    folder = Path(sys.argv[1])
    runtime.setup("CPU", use_parallel=True)
    mesh = make_mesh()
    (folder / f"tables-{mesh.rank}.json").write_text(json.dumps(rows_of_tables(mesh)))
    found = {}
    for accumulation, stages in STAGES.items():
        many = {stage: resumed(folder / f"stage-{stage}", mesh, stage, accumulation) for stage in stages}
        if mesh.is_main:
            network, step = build(Mesh(), 0, accumulation)
            one = np.array(train(step, Mesh(), accumulation, range(UPDATES)))
            checkpoints(folder / f"one-{accumulation}", network, step, Mesh()).export()
            found |= {str(stage): np.abs(np.array(each) / one - 1).max() for stage, each in many.items()}
    if mesh.is_main:
        (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
