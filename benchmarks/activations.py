"""How much of a training's memory a video takes on each of the ranks that share it, against one process.

Updates of two small videos are made first, then one of a large video. What the peak of a process grows by at last is
what the denoiser keeps and computes of tokens, and what MindSpore needs to compile another graph; weights, gradients
and moments were there before. Compiling is what it grows by from the first to the second video, and is taken off.

Of N ranks each may have 1/N of one process and a tenth more. A CPU exchanges parts by sums of the whole, which an NPU
does not; that is in the numbers.

python benchmarks/activations.py                      # two and four ranks, every way to share a video
python benchmarks/activations.py --ranks 2 --ways ring
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mindone import runtime

if TYPE_CHECKING:
    from mindspore import Tensor, nn

LIMIT = 1.1
MEGABYTE = 1e6
WIDTH, HEADS, TEXT_TOKENS, TEXT_WIDTH = 288, 4, 16, 64
MMDIT_AXES = (8, 32, 32)
DEPTH = 4
FIRST, SECOND, LARGE = (4, 8, 8), (5, 8, 8), (16, 16, 16)
"""Videos: frames, rows and columns of tokens."""
WAYS = {"ulysses": "v1.2", "dsp": "v1.2", "joint-ulysses": "v2.0", "ring": "v2.0"}
"""How a video is shared → the version whose denoiser is measured; in 2.0 text and video are in one attention."""


def stdit3(parallel: nn.Cell | None) -> nn.Cell:
    """The denoiser of 1.2, narrow, of eight blocks."""
    from opensora.models.stdit3 import STDiT3, STDiT3Config

    sizes = {"hidden_size": WIDTH, "num_heads": HEADS, "caption_channels": TEXT_WIDTH, "model_max_length": TEXT_TOKENS}
    return STDiT3(STDiT3Config(**sizes, depth=DEPTH, input_sq_size=512), parallel)


def stdit3_inputs(grid: tuple[int, int, int], rng: np.random.Generator) -> list[np.ndarray]:
    """Latents, timestep, text, its mask, frames mask (all are to be generated), height, width and frames per second."""
    frames, height, width = grid
    latents = rng.standard_normal((1, 4, frames, 2 * height, 2 * width))
    text = [rng.standard_normal((1, 1, TEXT_TOKENS, TEXT_WIDTH)), np.ones((1, TEXT_TOKENS))]
    return [latents, np.full(1, 500.0), *text, np.ones((1, frames), bool), *[np.full(1, 256.0)] * 3]


def mmdit(parallel: nn.Cell | None) -> nn.Cell:
    """The denoiser of 2.0, narrow, of four blocks of either kind."""
    from opensora.models.mmdit import MMDiT, MMDiTConfig

    sizes = {"hidden_size": WIDTH, "num_heads": HEADS, "axes_dim": MMDIT_AXES, "context_in_dim": TEXT_WIDTH}
    return MMDiT(MMDiTConfig(**sizes, vec_in_dim=TEXT_WIDTH, depth=DEPTH, depth_single_blocks=DEPTH), parallel)


def mmdit_inputs(grid: tuple[int, int, int], rng: np.random.Generator) -> list[np.ndarray]:
    """Patches and their places, text and its places, timestep, the text's vector, and the condition."""
    tokens = int(np.prod(grid))
    places = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(1, tokens, 3)
    text = [rng.standard_normal((1, TEXT_TOKENS, TEXT_WIDTH)), np.zeros((1, TEXT_TOKENS, 3))]
    vectors = [np.full(1, 0.5), rng.standard_normal((1, TEXT_WIDTH))]
    return [rng.standard_normal((1, tokens, 64)), places, *text, *vectors, rng.standard_normal((1, tokens, 68))]


NETWORKS = {"v1.2": (stdit3, stdit3_inputs), "v2.0": (mmdit, mmdit_inputs)}


def tensors(arrays: list[np.ndarray]) -> list[Tensor]:
    """Inputs of a denoiser; numbers are float32."""
    from mindspore import Tensor

    return [Tensor(each if each.dtype == bool else each.astype(np.float32)) for each in arrays]


def grown(way: str) -> int:
    """Bytes by which the peak of this process grows with the large video."""
    from mindone.parallel.collectives import Mean
    from mindone.parallel.mesh import make_mesh
    from mindone.parallel.sequence import make_strategy
    from mindone.train.optim import AdamW
    from mindone.train.step import TrainStep

    mesh = make_mesh(runtime.current().world_size)
    build, inputs = NETWORKS[WAYS[way]]
    denoiser = build(make_strategy(mesh, way.removeprefix("joint-")))
    mean = Mean(mesh) if mesh.world_size > 1 else None
    step = TrainStep(loss_of(denoiser), AdamW(denoiser.trainable_params()), max_grad_norm=1.0, mean=mean)

    def update(grid: tuple[int, int, int]) -> int:
        batch = tensors(inputs(grid, np.random.default_rng(0)))
        assert np.isfinite(step([batch], 1e-4).loss.asnumpy())
        return runtime.peak_memory()

    first, second, large = update(FIRST), update(SECOND), update(LARGE)
    return (large - second) - (second - first)


def loss_of(denoiser: nn.Cell) -> nn.Cell:
    """The mean square of what a denoiser gives."""
    from mindspore import nn, ops

    class MeanSquare(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.denoiser = denoiser

        def construct(self, *inputs: Tensor) -> Tensor:
            return ops.square(self.denoiser(*inputs)).mean()

    return MeanSquare()


def measured(way: str, ranks: int) -> int:
    """The largest growth of so many processes."""
    with tempfile.TemporaryDirectory() as folder:
        words = [__file__, "--part", way, folder]
        if ranks > 1:
            words = ["-m", "mindone.parallel.launch", "--nproc", str(ranks), "--log_dir", f"{folder}/logs", *words]
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        found = [int(path.read_text()) for path in Path(folder).glob("grown.*")]
    assert len(found) == ranks
    return max(found)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="how many ranks share a video")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS), help="how they share it")
    parser.add_argument("--part", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part:
        way, folder = args.part
        rank = runtime.setup("CPU", use_parallel=runtime.launched_ranks() > 1).rank
        Path(folder, f"grown.{rank}").write_text(str(grown(way)))
        return 0
    print("| way | ranks | largest of a rank, MB | of one process | limit |\n|---|---|---|---|---|", flush=True)
    alone: dict[str, int] = {}
    worst = 0.0
    for way in args.ways:
        version = WAYS[way]
        if version not in alone:
            alone[version] = measured(way, 1)
            print(f"| {version} | 1 | {alone[version] / MEGABYTE:,.0f} | 1 | |", flush=True)
        for ranks in args.ranks:
            found = measured(way, ranks)
            share = found / alone[version]
            worst = max(worst, share * ranks)
            limit = LIMIT / ranks
            print(f"| {way} | {ranks} | {found / MEGABYTE:,.0f} | **{share:.3f}** | {limit:.3f} |", flush=True)
    return 0 if worst <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
