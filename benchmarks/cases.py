"""The benchmark cases: each builds both sides with the same weights and inputs, and checks that they agree."""

from __future__ import annotations

import contextlib
import math
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import av
import mindspore as ms
import numpy as np
import torch
import torch_mmdit
import torch_reference as reference
import torch_stdit
from bench import Case
from cases_autoencoders import AUTOENCODERS
from mindspore import Tensor, nn, ops
from pairs import TORCH, Maker, agree, same_weights, updates

from mindone.checkpoint import convert
from mindone.checkpoint.atomic import atomic_write
from mindone.data.loader import Loader
from mindone.data.plan import FixedPlan
from mindone.data.table import read_video_table
from mindone.data.transforms import normalise
from mindone.models.clip import CLIPTextConfig, CLIPTextEncoder
from mindone.models.presets import load_preset
from mindone.models.t5 import T5Encoder
from opensora.data.dataset import VideoTextDataset
from opensora.families.stdit import GuidedPrediction
from opensora.models.mmdit import MMDiT, MMDiTConfig
from opensora.models.stdit import STDiTConfig
from opensora.models.stdit2 import STDiT2Config
from opensora.models.stdit3 import STDiT3Config
from opensora.models.stdit_base import STDiTBase, STDiTBaseConfig
from opensora.networks import build_denoiser
from opensora.toy.world import write_dataset

GUIDANCE = 4.0

# --- denoisers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Denoiser:
    """A denoiser on both sides, and its arguments after the caption's mask; ``x_mask`` is None on our side."""

    network: type[torch.nn.Module]
    settings: type
    conditions: tuple[str, ...]


DENOISERS: dict[type[STDiTBaseConfig], Denoiser] = {
    STDiTConfig: Denoiser(torch_stdit.STDiT, torch_stdit.STDiTSettings, ()),
    STDiT2Config: Denoiser(
        torch_stdit.STDiT2, torch_stdit.STDiT2Settings, ("x_mask", "num_frames", "height", "width", "ar", "fps")
    ),
    STDiT3Config: Denoiser(reference.STDiT3, reference.STDiT3Settings, ("x_mask", "fps", "height", "width")),
}


class StepInputs:
    """Latents, text and conditions of one batch, for both sides."""

    def __init__(self, config: STDiTBaseConfig, batch: int, latent: tuple[int, int, int], tokens: int):
        rng = np.random.default_rng(0)
        shape = (batch, config.in_channels, *latent)
        mask = np.arange(tokens)[None] < rng.integers(tokens // 2, tokens + 1, (batch, 1))
        side = 8 * latent[1]
        values = {"num_frames": latent[0], "height": side, "width": side, "ar": 1, "fps": 8, "x_mask": None}
        conditions = {name: values[name] for name in DENOISERS[type(config)].conditions}
        self.arrays = {
            "x": rng.standard_normal(shape, np.float32),
            "timestep": rng.uniform(1, 999, batch).astype(np.float32),
            "y": rng.standard_normal((batch, 1, tokens, config.caption_channels), np.float32),
            "mask": mask.astype(np.int32),
            **{name: None if n is None else np.full(batch, n, np.float32) for name, n in conditions.items()},
        }
        self.target = rng.standard_normal(shape, np.float32)

    def mindspore(self) -> list[Tensor | None]:
        return [None if value is None else Tensor(value) for value in self.arrays.values()]

    def torch(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(value) for name, value in self.arrays.items() if value is not None}


def denoiser_pair(config: STDiTBaseConfig) -> tuple[STDiTBase, torch.nn.Module]:
    side = DENOISERS[type(config)]
    fields = side.settings.__dataclass_fields__
    theirs = side.network(side.settings(**{name: value for name, value in asdict(config).items() if name in fields}))
    ours = build_denoiser(config)
    same_weights(ours, theirs)
    return ours, theirs


class PredictionLoss(nn.Cell):
    """Mean squared error of the first half of the channels."""

    def __init__(self, denoiser: STDiTBase):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser

    def construct(self, target, *arguments):
        output = self.denoiser(*arguments)
        return ops.square(output[:, : target.shape[1]] - target).mean()


@contextlib.contextmanager
def denoiser_train(config: STDiTBaseConfig, batch: int, latent: tuple[int, int, int], tokens: int) -> Iterator[Case]:
    """A whole update: loss, gradients, clipping, AdamW, EMA."""
    ours, theirs = denoiser_pair(config)
    inputs = StepInputs(config, batch, latent, tokens)
    batches = [[Tensor(inputs.target), *inputs.mindspore()]]
    arguments, target = inputs.torch(), torch.from_numpy(inputs.target)

    def torch_loss() -> torch.Tensor:
        return (theirs(**arguments)[:, : target.shape[1]] - target).square().mean()

    our_step, torch_step = updates(PredictionLoss(ours), batches, theirs, torch_loss)
    yield Case(_denoiser_shapes(config, batch, latent), TORCH, lambda: our_step().asnumpy(), torch_step)


@contextlib.contextmanager
def denoiser_forward(config: STDiTBaseConfig, batch: int, latent: tuple[int, int, int], tokens: int) -> Iterator[Case]:
    """One prediction."""
    ours, theirs = denoiser_pair(config)
    ours.set_train(False)
    inputs = StepInputs(config, batch, latent, tokens)
    given, arguments = inputs.mindspore(), inputs.torch()

    @torch.no_grad()
    def torch_step() -> torch.Tensor:
        return theirs(**arguments)

    def our_step() -> np.ndarray:
        return ours(*given).asnumpy()

    agree(our_step(), torch_step())
    yield Case(_denoiser_shapes(config, batch, latent), TORCH, our_step, torch_step)


@contextlib.contextmanager
def stdit3_sample(config: STDiT3Config, batch: int, latent: tuple[int, int, int], tokens: int) -> Iterator[Case]:
    """One guided step: conditional and unconditional velocity in one batch."""
    ours, theirs = denoiser_pair(config)
    ours.set_train(False)
    inputs = StepInputs(config, batch, latent, tokens)
    velocity = GuidedPrediction(ours, True)
    scale = Tensor(GUIDANCE, ms.float32)
    z, t, y, mask, frames_mask, *conditions = inputs.mindspore()
    arguments = inputs.torch()
    twice = {name: torch.cat([value, value]) for name, value in arguments.items()}
    null = theirs.y_embedder.y_embedding[None, None, :tokens].expand(batch, -1, -1, -1)
    twice["y"] = torch.cat([arguments["y"], null])

    @torch.no_grad()
    def torch_step() -> torch.Tensor:
        conditional, unconditional = theirs(**twice)[:, : z.shape[1]].chunk(2)
        return unconditional + GUIDANCE * (conditional - unconditional)

    def our_step() -> np.ndarray:
        return velocity(z, t, y, mask, None, None, frames_mask, scale, *conditions).asnumpy()

    agree(our_step(), torch_step())
    yield Case(_denoiser_shapes(config, 2 * batch, latent), TORCH, our_step, torch_step)


def _denoiser_shapes(config: STDiTBaseConfig, batch: int, latent: tuple[int, int, int]) -> str:
    tokens = latent[0] * latent[1] * latent[2] // 4
    blocks = config.depth * (2 if isinstance(config, STDiT3Config) else 1)
    return f"width {config.hidden_size}, {blocks} blocks, {batch} x {tokens} tokens"


SIZES_TINY = {"hidden_size": 128, "num_heads": 4, "caption_channels": 64, "model_max_length": 16}
SIZES_384 = {"hidden_size": 384, "num_heads": 6, "caption_channels": 512, "model_max_length": 120}
TINY = STDiT3Config(**SIZES_TINY, depth=3, input_sq_size=64)
WIDTH_384 = STDiT3Config(**SIZES_384, depth=1)
WIDTH_1152 = STDiT3Config(depth=1, model_max_length=120, caption_channels=1024)
STDIT_TINY = STDiTConfig(**SIZES_TINY, depth=3)
STDIT_384 = STDiTConfig(**SIZES_384, depth=2)
# The width has to be divisible by 3.
STDIT2_TINY = STDiT2Config(**{**SIZES_TINY, "hidden_size": 120}, depth=3, input_sq_size=64)
STDIT2_384 = STDiT2Config(**SIZES_384, depth=2)
LONG = (16, 32, 32)


# --- MMDiT -----------------------------------------------------------------------------------------------------------


class MMDiTLoss(nn.Cell):
    """Mean squared error of the velocity."""

    def __init__(self, denoiser: MMDiT):
        super().__init__(auto_prefix=False)
        self.denoiser = denoiser

    def construct(self, target, *inputs):
        return ops.square(self.denoiser(*inputs) - target).mean()


@contextlib.contextmanager
def mmdit(config: MMDiTConfig, batch: int, grid: tuple[int, int, int], text_tokens: int, train: bool) -> Iterator[Case]:
    """A velocity, or a whole update: loss, gradients, clipping, AdamW, EMA."""
    fields = torch_mmdit.MMDiTSettings.__dataclass_fields__
    settings = {name: value for name, value in asdict(config).items() if name in fields}
    theirs, ours = torch_mmdit.MMDiT(torch_mmdit.MMDiTSettings(**settings)), MMDiT(config)
    same_weights(ours, theirs)
    ours.set_train(train)
    rng, tokens = np.random.default_rng(0), math.prod(grid)
    img, target, cond = (
        rng.standard_normal((batch, tokens, size), np.float32)
        for size in (config.in_channels, config.in_channels, config.cond_channels)
    )
    img_ids = np.stack(np.meshgrid(*map(np.arange, grid), indexing="ij"), -1).reshape(1, tokens, 3).astype(np.float32)
    txt = rng.standard_normal((batch, text_tokens, config.context_in_dim), np.float32)
    vectors = (rng.random(batch, np.float32), rng.standard_normal((batch, config.vec_in_dim), np.float32))
    arrays = (img, img_ids, txt, np.zeros((1, text_tokens, 3), np.float32), *vectors, cond)
    given, arguments = [Tensor(array) for array in arrays], [torch.from_numpy(array) for array in arrays]

    @torch.no_grad()
    def torch_step() -> torch.Tensor:
        return theirs(*arguments)

    def our_step() -> Tensor:
        return ours(*given)

    if train:
        goal, batches = torch.from_numpy(target), [[Tensor(target), *given]]
        our_step, torch_step = updates(
            MMDiTLoss(ours), batches, theirs, lambda: (theirs(*arguments) - goal).square().mean()
        )
    else:
        agree(our_step(), torch_step())
    blocks = f"{config.depth} + {config.depth_single_blocks} blocks"
    shapes = f"width {config.hidden_size}, {blocks}, {batch} x {text_tokens + tokens} tokens"
    yield Case(shapes, TORCH, lambda: our_step().asnumpy(), torch_step)


MMDIT_TINY = MMDiTConfig(16, 64, 64, hidden_size=128, num_heads=4, depth=1, depth_single_blocks=2, axes_dim=(8, 12, 12))
MMDIT_384 = MMDiTConfig(
    64, 768, 512, hidden_size=384, num_heads=6, depth=2, depth_single_blocks=4, axes_dim=(16, 24, 24)
)


# --- text ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def t5_encode() -> Iterator[Case]:
    """T5 v1.1 small on four prompts of 300 tokens."""
    config = load_preset("t5-v1_1-small")
    sizes = {name: value for name, value in asdict(config).items() if name != "feed_forward_proj"}
    theirs, ours = reference.T5Encoder(reference.T5Settings(**sizes)), T5Encoder(config)
    same_weights(ours, theirs)
    ours.set_train(False)
    rng = np.random.default_rng(0)
    ids, mask = rng.integers(2, 32000, (4, 300)), (np.arange(300) < rng.integers(20, 301, (4, 1))).astype(np.int32)
    our_ids, our_mask = Tensor(ids, ms.int32), Tensor(mask)
    their_ids, their_mask = torch.from_numpy(ids), torch.from_numpy(mask)

    @torch.no_grad()
    def torch_step() -> torch.Tensor:
        return theirs(their_ids, their_mask)

    def our_step() -> np.ndarray:
        return ours(our_ids, our_mask).asnumpy()

    agree(our_step(), torch_step())
    yield Case("v1.1 small, 4 x 300 tokens", TORCH, our_step, torch_step)


@contextlib.contextmanager
def clip_encode() -> Iterator[Case]:
    """The text half of CLIP ViT-L/14 on four prompts of 77 tokens."""
    theirs, ours = torch_mmdit.CLIPText(torch_mmdit.CLIPSettings()), CLIPTextEncoder(CLIPTextConfig())
    same_weights(ours, theirs)
    ours.set_train(False)
    ids = np.random.default_rng(0).integers(2, 49000, (4, 77))
    our_ids, their_ids = Tensor(ids, ms.int32), torch.from_numpy(ids)

    @torch.no_grad()
    def torch_step() -> tuple[torch.Tensor, torch.Tensor]:
        return theirs(their_ids)

    def our_step() -> list[np.ndarray]:
        return [value.asnumpy() for value in ours(our_ids)]

    for mine, other in zip(our_step(), torch_step()):
        agree(mine, other)
    yield Case("ViT-L/14, 4 x 77 tokens", TORCH, our_step, torch_step)


# --- files -----------------------------------------------------------------------------------------------------------


def decoded(path: Path) -> list[np.ndarray]:
    """All frames of a film as RGB, by PyAV."""
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        stream.thread_type = "AUTO"
        return [frame.to_ndarray(format="rgb24") for frame in film.decode(stream)]


@contextlib.contextmanager
def video_loader() -> Iterator[Case]:
    """Clips through the data set and the loader, in this process, against bare decoding of the same files."""
    with tempfile.TemporaryDirectory() as folder:
        rows = read_video_table(write_dataset(folder, 16, image_size=256))
        loader = Loader(VideoTextDataset(rows, num_frames=17, size=(256, 256)), FixedPlan(len(rows), batch_size=4))

        def ours() -> int:
            return sum(len(normalise(batch.arrays["frames"])) for batch in loader.epoch(0))

        def theirs() -> int:
            return sum(len(decoded(row.file)) for row in rows)

        yield Case("16 mp4 of 17 x 256 x 256", "decoding alone by PyAV", ours, theirs)


@contextlib.contextmanager
def conversion() -> Iterator[Case]:
    """A PyTorch file to safetensors, against copying the file.

    Both write a new file, flush it to the disk and let it take the place of the one of the turn before.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, target, copied = (Path(folder) / name for name in ("in.pth", "out.safetensors", "copy.pth"))
        torch.save({f"blocks.{i}.weight": torch.randn(1024, 1024) for i in range(64)}, source)

        def copy() -> None:
            with atomic_write(copied) as file:
                shutil.copyfile(source, file.name)

        yield Case(".pth of 268 MB", "copy of the file", lambda: convert(source, target), copy)


CASES: dict[str, Maker] = {
    "stdit3_train_tiny": partial(denoiser_train, TINY, 32, (5, 8, 8), 16),
    "stdit3_train_384": partial(denoiser_train, WIDTH_384, 1, LONG, 120),
    "stdit3_train_1152": partial(denoiser_train, WIDTH_1152, 1, LONG, 120),
    "stdit3_sample_tiny": partial(stdit3_sample, TINY, 16, (5, 8, 8), 16),
    "stdit3_sample_384": partial(stdit3_sample, WIDTH_384, 1, LONG, 120),
    "stdit3_sample_1152": partial(stdit3_sample, WIDTH_1152, 1, LONG, 120),
    "stdit_train_tiny": partial(denoiser_train, STDIT_TINY, 32, (5, 8, 8), 16),
    "stdit_train_384": partial(denoiser_train, STDIT_384, 1, LONG, 120),
    "stdit_forward_tiny": partial(denoiser_forward, STDIT_TINY, 32, (5, 8, 8), 16),
    "stdit_forward_384": partial(denoiser_forward, STDIT_384, 2, LONG, 120),
    "stdit2_train_tiny": partial(denoiser_train, STDIT2_TINY, 32, (5, 8, 8), 16),
    "stdit2_train_384": partial(denoiser_train, STDIT2_384, 1, LONG, 120),
    "stdit2_forward_tiny": partial(denoiser_forward, STDIT2_TINY, 32, (5, 8, 8), 16),
    "stdit2_forward_384": partial(denoiser_forward, STDIT2_384, 2, LONG, 120),
    "mmdit_train_tiny": partial(mmdit, MMDIT_TINY, 8, (4, 4, 4), 16, True),
    "mmdit_train_384": partial(mmdit, MMDIT_384, 1, (7, 8, 8), 64, True),
    "mmdit_forward_tiny": partial(mmdit, MMDIT_TINY, 8, (4, 4, 4), 16, False),
    "mmdit_forward_384": partial(mmdit, MMDIT_384, 1, (7, 8, 8), 64, False),
    **AUTOENCODERS,
    "t5_encode": t5_encode,
    "clip_encode": clip_encode,
    "video_loader": video_loader,
    "conversion": conversion,
}
