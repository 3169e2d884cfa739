"""Compares denoisers whose tokens are spread over the ranks of a launch with the same ones on one process.

``sequence_script.py FILE``, on four ranks: differences by case, as JSON.
"""

import json
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindone import runtime
from mindone.parallel.collectives import InBuckets, Mean
from mindone.parallel.dsp import DynamicSequence
from mindone.parallel.mesh import make_mesh
from mindone.parallel.ulysses import Ulysses
from mindone.testing.golden import loss_and_gradients
from mindone.train.optim import AdamW
from mindone.train.step import TrainStep
from opensora.models.mmdit import MMDiTConfig
from opensora.models.stdit import STDiTConfig
from opensora.models.stdit2 import STDiT2Config
from opensora.models.stdit3 import STDiT3Config
from opensora.networks import denoiser_class

SMALL = {"hidden_size": 24, "depth": 1, "num_heads": 3, "mlp_ratio": 1, "caption_channels": 8, "model_max_length": 4}
JOINT = {"in_channels": 5, "vec_in_dim": 3, "context_in_dim": 6, "hidden_size": 30, "num_heads": 3, "mlp_ratio": 1}
JOINT |= {"depth": 1, "depth_single_blocks": 1, "axes_dim": (2, 4, 4), "patch_size": 1}
CONDITIONS = {STDiTConfig: 0, STDiT2Config: 5, STDiT3Config: 3}


class Square(nn.Cell):
    """The mean over samples of a loss that weighs every value of the output by itself."""

    def __init__(self, denoiser):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser

    def construct(self, *inputs):
        out = self.denoiser(*inputs)
        weights = ops.arange(out.size // out.shape[0]).astype(ms.float32) % 7 + 1
        loss = (ops.square(out).reshape(out.shape[0], -1) * weights).mean()
        return loss, (out,)


def video(config, batch, grid, rng):
    """Inputs of an STDiT; some frames are given, so that modulations differ between frames."""
    frames = grid[0]
    x = rng.standard_normal((batch, 4, *grid))
    arrays = [x, rng.uniform(1, 900, batch), rng.standard_normal((batch, 1, 4, 8)), np.tile([1, 1, 1, 0], (batch, 1))]
    count = CONDITIONS[type(config)]
    if count:
        arrays.append(rng.random((batch, frames)) < 0.6)
    return arrays + [np.full(batch, 32.0)] * count


def tokens(config, batch, length, rng):
    words, frames = length
    shapes = [(batch, frames, 5), (1, frames, 3), (batch, words, 6), (1, words, 3), (batch,), (batch, 3)]
    arrays = [rng.standard_normal(shape) for shape in shapes]
    arrays[1], arrays[3] = rng.integers(0, 9, shapes[1]), np.zeros(shapes[3])
    return [*arrays, rng.standard_normal((batch, frames, 6))]


def network(config, parallel=None):
    denoiser, rng = denoiser_class(config)(config, parallel), np.random.default_rng(0)
    for parameter in denoiser.get_parameters():
        parameter.set_data(Tensor(rng.normal(0.1, 0.2, parameter.shape).astype(np.float32)))
    return denoiser


def tensors(arrays):
    return [Tensor(a if a.dtype == bool else a.astype(np.float32)) for a in arrays]


def rows(arrays, mesh):
    """The samples of this rank's row of the mesh."""
    batch = len(arrays[0])
    share = batch // mesh.data
    first = mesh.data_index * share
    return [a[first : first + share] if len(a) == batch else a for a in arrays]


def differences(config, arrays, strategy, mesh):
    """Of loss, output and gradients, in shares of the largest value; the first rank alone computes them as one."""
    many = measured(config, rows(arrays, mesh), strategy(mesh), mesh)
    if not mesh.is_main:
        return {}
    one = measured(config, arrays)
    one[1] = rows([one[1]], mesh)[0]
    largest = max(np.abs(gradient).max() for gradient in one[2:])
    return {
        "loss": abs(many[0] - one[0]) / one[0],
        "output": np.abs(many[1] - one[1]).max() / np.abs(one[1]).max(),
        "gradients": max(np.abs(a - b).max() for a, b in zip(one[2:], many[2:])) / largest,
    }


def measured(config, arrays, parallel=None, mesh=None):
    """Loss, output and gradients."""
    denoiser = network(config, parallel)
    parameters = list(denoiser.trainable_params())
    (loss, (out,)), gradients, _ = loss_and_gradients(Square(denoiser), parameters, tensors(arrays))
    if parallel is not None:
        gradients = InBuckets(Mean(mesh), parameters)(tuple(gradients))
        loss = Mean(mesh)(loss)
    return [loss.asnumpy(), out.asnumpy(), *[gradient.asnumpy() for gradient in gradients]]


def trained(config, strategy, mesh, steps):
    """Differences of losses and gradients' norms of a training, as shares of them."""
    batch, found = max(2, mesh.data), []
    batches = [video(config, batch, (5, 6, 6), np.random.default_rng(step)) for step in range(steps)]
    for parallel in (strategy(mesh), None) if mesh.is_main else (strategy(mesh),):
        denoiser = network(config, parallel)
        mean = None if parallel is None else Mean(mesh)
        step = TrainStep(Scalar(denoiser), AdamW(denoiser.trainable_params()), None, 1.0, mean=mean)
        results = [step([tensors(each if parallel is None else rows(each, mesh))], 1e-3) for each in batches]
        found.append([[float(value.asnumpy()) for value in (each.loss, each.grad_norm)] for each in results])
    return {"training": np.abs(np.divide(*found) - 1).max()} if mesh.is_main else {}


class Scalar(Square):
    def construct(self, *inputs):
        out = self.denoiser(*inputs)
        weights = ops.arange(out.size // out.shape[0]).astype(ms.float32) % 7 + 1
        return (ops.square(out).reshape(out.shape[0], -1) * weights).mean()


def main(file):
    found = {}
    runtime.setup("CPU", graph=False, use_parallel=True)
    rng, four = np.random.default_rng(1), make_mesh(4)
    # Of 9 places, 3 heads and 5 frames no rank of 4 has as much as every other one; of 1 frame three have none.
    for kind, strategy, grid in (
        (STDiT3Config, Ulysses, (5, 6, 6)),
        (STDiT2Config, DynamicSequence, (5, 6, 6)),
        (STDiTConfig, DynamicSequence, (1, 6, 4)),
    ):
        config = kind(**SMALL)
        name = f"{kind.__name__} {strategy.__name__}"
        found[name] = differences(config, video(config, 2, grid, rng), strategy, four)
    config = MMDiTConfig(**JOINT)
    found["MMDiT Ulysses"] = differences(config, tokens(config, 2, (3, 7), rng), Ulysses, four)
    runtime.setup("CPU", graph=True, use_parallel=True)
    found["2 x 2"] = trained(STDiT3Config(**SMALL), Ulysses, make_mesh(2), 3)
    if four.is_main:
        Path(file).write_text(
            json.dumps({name: {k: float(v) for k, v in each.items()} for name, each in found.items()})
        )


if __name__ == "__main__":
    main(sys.argv[1])
