"""A recipe made small: its version, flow, optimizer and precision, on networks and videos that take seconds.

What is replaced: the network's width and number of blocks (an adapter becomes a training of all of it), the text
encoders and the autoencoder (of the same kind and compression, with random weights), the videos (random latents of five
frames or more, which two, three and four ranks share unevenly), the learning rate (without a warm-up, so that weights
move), and where things are written.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from mindspore import Tensor

from mindone.checkpoint import save_model
from mindone.errors import UserError
from opensora.conditions.visual import given_ends
from opensora.config.prove import Proof, ProveConfig, Spread
from opensora.config.train import Data, Loop, Lora, Parallel, Samples, TrainConfig, TrainShape, Validation
from opensora.data.cache import LatentEntry, cache_path, write_latent
from opensora.families import Family
from opensora.models.autoencoder import Autoencoder
from opensora.models.mmdit import MMDiTConfig
from opensora.networks import autoencoder_config, build_autoencoder, build_denoiser, denoiser_config
from opensora.toy.tiny_clip import TEXT_CONFIG, write_tiny_clip
from opensora.toy.tiny_t5 import CONFIG, write_tiny_t5

if TYPE_CHECKING:
    from opensora.models.types import DenoiserConfig

WIDTH, HEADS = 48, 4
TEXT_TOKENS = 16
BATCH = 2
UPDATES_PER_EPOCH = 4
RATE = 1e-3
# Latents of the videos: frames, height and width; odd frames, and a grid of patches that no two ranks halve.
LATENT_FRAMES, LATENT_SIDES = 5, (6, 4)

IMAGE = {"block_out_channels": (4, 4, 4, 4), "layers_per_block": 1, "norm_num_groups": 2}
STAGES = {
    "width_list": (8, 8, 8, 8, 32, 32),
    "depth_list": (1,) * 6,
}
SMALL_AUTOENCODERS: Mapping[str, Mapping[str, Any]] = {
    "2d": IMAGE,
    "pipeline": {
        "autoencoder_kl": IMAGE,
        "vae_temporal": {"filters": 4, "num_res_blocks": 1, "num_groups": 2},
    },
    "hunyuan": IMAGE,
    "flux": {"ch": 32, "ch_mult": (1, 1, 1, 1), "num_res_blocks": 1},
    "dc-ae": {"encoder": STAGES, "decoder": STAGES},
}
"""Entries that make an autoencoder of each kind small and leave its compression as it is."""


@dataclass(frozen=True)
class World:
    """A folder with what a small training reads: networks, texts and latents."""

    folder: Path
    size: tuple[int, int, int]
    """of the videos: frames, height and width in pixels"""
    samples: int

    def path(self, name: str) -> str:
        return str(self.folder / name)


def make_world(config: ProveConfig, family: Family, folder: Path) -> World:
    """Writes ``t5``, ``clip``, ``vae``, ``start`` (the denoiser), ``latents`` and ``videos.csv``.

    Raises:
        UserError: the family's autoencoder has no small form.
    """
    write_tiny_t5(folder / "t5")
    write_tiny_clip(folder / "clip")
    autoencoder = small_autoencoder(family.autoencoder_preset)
    save_model(folder / "vae", autoencoder, asdict(autoencoder.config))
    _save_denoiser(denoiser_config(family.denoiser_preset, None, small_network(config, family)), folder / "start")
    size = video_size(autoencoder)
    samples = samples_of_update(config.proof) * UPDATES_PER_EPOCH
    ends = [end.name for end in given_ends(config.flow.condition_config or (), causal=True)]
    with open(folder / "videos.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["video", "caption"])
        for index in range(samples):
            rows.writerow([f"{index}.mp4", f"a red circle moves left {'on ' * (index % 3)}".strip()])
            write_latent(cache_path(folder / "latents", f"{index}.mp4"), _latents(autoencoder, size, ends, index))
    return World(folder, size, samples)


def samples_of_update(proof: Proof) -> int:
    """Samples of an update on all ranks: as many in every plan, so that one run of one process is compared with all."""
    return BATCH * math.lcm(*(spread.batches for spread in proof.spreads))


def small_autoencoder(preset: str) -> Autoencoder:
    """An autoencoder of a preset's kind with random weights and few channels."""
    kind = autoencoder_config(preset).kind
    if kind not in SMALL_AUTOENCODERS:
        raise UserError(f"{preset} has no small form; use another vae_type")
    return build_autoencoder(autoencoder_config(preset, entries=SMALL_AUTOENCODERS[kind]))


def video_size(autoencoder: Autoencoder) -> tuple[int, int, int]:
    """Frames, height and width of the shortest video with at least `LATENT_FRAMES` latent frames."""
    height, width = (side * autoencoder.spatial_compression for side in LATENT_SIDES)
    frames = next(
        count for count in range(1, 200) if autoencoder.latent_size((count, height, width))[0] >= LATENT_FRAMES
    )
    return frames, height, width


def _latents(autoencoder: Autoencoder, size: tuple[int, int, int], ends: list[str], index: int) -> LatentEntry:
    """Random latents of a video, and of the ends that conditions give."""
    rng = np.random.default_rng(index)
    frames, height, width = autoencoder.latent_size(size)
    shape = (frames, autoencoder.latent_channels, height, width)
    mean = rng.standard_normal(shape).astype(np.float32)
    given = {name: _end(mean, int(name.rsplit("_", 1)[1])) for name in ends}
    return LatentEntry(mean, np.full_like(mean, 0.1), 8.0, size[1:], size[0], size[1:], given)


def _end(mean: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    part = mean[np.arange(count) % len(mean)]
    return part, np.full_like(part, 0.1)


def small_training(config: ProveConfig, family: Family, world: World, spread: Spread, output: Path) -> TrainConfig:
    """The settings of one run: those of the recipe on the small world, spread as told.

    Every spread has the same samples in each update.
    """
    updates = Loop(
        batch_size=samples_of_update(config.proof) // spread.batches,
        train_steps=config.proof.proof_steps,
        ckpt_save_steps=config.proof.proof_steps,
        log_interval=1,
        output_path=str(output),
        add_datetime=False,
    )
    data = Data(csv_path=world.path("videos.csv"), vae_latent_folder=world.path("latents"), num_parallel_workers=0)
    frames, height, width = world.size
    small = {
        "data": data,
        "shape": TrainShape(image_size=[height, width], num_frames=frames),
        "model": replace(
            config.model,
            model_name=None,
            denoiser={},
            pretrained_model_path=world.path("start"),
            pre_patchify=False,
            max_image_size=None,
            num_recompute_blocks=None,
        ),
        "autoencoder": replace(config.autoencoder, vae_checkpoint=world.path("vae")),
        "text": replace(
            config.text,
            t5_model_name_or_path=world.path("t5"),
            clip_model_name_or_path=world.path("clip"),
            model_max_length=TEXT_TOKENS,
        ),
        "lora": Lora(),
        "optimizer": replace(
            config.optimizer,
            gradient_accumulation_steps=spread.accumulate,
            scheduler="constant",
            start_learning_rate=RATE,
            warmup_steps=0,
        ),
        "train": updates,
        "samples": Samples(),
        "parallel": parallel_settings(config.parallel, spread),
        "validation": Validation(),
        "runtime": replace(config.runtime, use_parallel=spread.ranks > 1),
    }
    own = {field.name for field in fields(TrainConfig)}
    return TrainConfig(**{name: small.get(name, getattr(config, name)) for name in own})


def parallel_settings(given: Parallel, spread: Spread) -> Parallel:
    """A spread by the published names."""
    return replace(
        given,
        zero_stage=spread.zero,
        enable_sequence_parallelism=spread.sp > 1 or spread.ring > 1,
        sequence_parallel_shards=spread.row if spread.row > 1 else None,
        sequence_parallel_method="ring" if spread.ring > 1 else "auto",
        dsp=spread.dsp > 1,
    )


def _save_denoiser(config: DenoiserConfig, folder: Path) -> None:
    """Random weights, also where training begins with zeros, so that every block has a say from the first update on."""
    denoiser = build_denoiser(config)
    denoiser.initialize_weights(0)
    rng = np.random.default_rng(0)
    for parameter in denoiser.get_parameters():
        if not parameter.asnumpy().any():
            parameter.set_data(Tensor(0.02 * rng.standard_normal(parameter.shape), parameter.dtype))
    save_model(folder, denoiser, asdict(config))


def small_network(config: ProveConfig, family: Family) -> dict[str, Any]:
    """Entries of the denoiser: those of the recipe, with few blocks, and narrow if that is wanted."""
    proof: Proof = config.proof
    preset = denoiser_config(config.model.model_name or family.denoiser_preset, None, config.model.denoiser)
    if isinstance(preset, MMDiTConfig):
        patch = preset.patch_size
        channels = autoencoder_config(family.autoencoder_preset).latent_channels
        sizes = {
            "in_channels": channels * patch * patch,
            "depth": proof.proof_layers,
            "depth_single_blocks": proof.proof_layers,
            "vec_in_dim": TEXT_CONFIG["hidden_size"],
            "context_in_dim": CONFIG["d_model"],
        }
        narrow = {"hidden_size": WIDTH, "num_heads": HEADS, "axes_dim": (4, 4, 4)}
    else:
        sizes = {
            "depth": proof.proof_layers,
            "caption_channels": CONFIG["d_model"],
            "model_max_length": TEXT_TOKENS,
        }
        narrow = {"hidden_size": WIDTH, "num_heads": HEADS}
    return {**config.model.denoiser, **sizes, **({} if proof.full_width else narrow)}
