"""Cases of tasks: prompts, and the frames of real clips of the toy world that a video is given, as files.

Where these stand in the video, and how many they are, is what the version's way of giving frames says.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from mindone.data.video import read_video
from mindone.data.write import write_png, write_video
from mindone.errors import UserError
from opensora import networks
from opensora.conditions.given import Asked, Length
from opensora.config.generate import Conditions, GenerateConfig
from opensora.config.toy import LOOP_TASK
from opensora.config.world import TOY, WorldConfig
from opensora.families import Family, settle
from opensora.generate.plan import autoencoder_changes, whole_chunks
from opensora.generate.requests import length_of
from opensora.generate.shapes import size_of
from opensora.sizes import VideoSize
from opensora.toy.world import clip

logger = logging.getLogger(__name__)

# Real clips have another seed than any training set.
CLIPS_SEED = 1_000_001
# Clips of a long video.
LOOPS = 3
# Of clips that are given: nearly as they were drawn.
REFERENCE_CRF = 4
HALVES = ("extend", "extend_before")
# Tasks whose given frames may leave no room in a single chunk of an autoencoder.
ROOMY = (*HALVES, "connect", "interpolate", LOOP_TASK)
# Tasks that keep nothing of what they are given.
CHANGING = ("v2v", "edit", "t2v")

Config = TypeVar("Config", bound=GenerateConfig)


@dataclass(frozen=True)
class Setup:
    """The videos of a task.

    ``places`` are, per reference, the frames in which it stands. ``joins`` are frames that another clip begins with, or
    that follow the last frame of a given clip.
    """

    size: VideoSize
    places: tuple[range, ...] = ()
    joins: tuple[int, ...] = ()


@dataclass(frozen=True)
class Case:
    """A prompt, and per reference its file and its frames (T, H, W, 3) uint8."""

    caption: str
    files: tuple[Path, ...] = ()
    given: tuple[np.ndarray, ...] = ()


def for_task(config: Config, frames: int | None = None) -> tuple[Config, Setup]:
    """The settings for the videos of ``conditions.task``, with their length, their loops and how much is given.

    `extend` and `extend_before` are given half a video, where the version leaves that open.

    Args:
        frames: of a video, or of one clip of a long one; None: ``num_frames``, or where that leaves no room two chunks
            of the autoencoder, or half as many again as are given.
    Raises:
        UserError: the version does not know the task, the task keeps nothing, or the length leaves no room for it.
    """
    task, wanted = config.conditions.task, config.conditions
    if task in CHANGING:
        raise UserError(f"task={task} keeps no frames, so there is nothing to compare; score another task")
    loops = LOOPS if task == LOOP_TASK and wanted.loop == 1 else wanted.loop
    config = replace(config, conditions=replace(wanted, task=None if task == LOOP_TASK else task, loop=loops))
    family, settled = _settled(config)
    autoencoder = networks.autoencoder_skeleton(
        family.autoencoder_preset, settled.autoencoder.vae_checkpoint, **autoencoder_changes(settled)
    )
    fps = settled.sampler.fps / settled.sampler.frame_interval
    chunk = whole_chunks(settled, autoencoder)[1]
    if frames is None:
        frames = size_of(family, config.shape, fps, autoencoder)[0]
        if chunk is not None and frames <= chunk and task in ROOMY:
            frames = _roomy(task, frames, 2 * chunk)
        taken = family.conditioning.frames_taken(task, length_of(settled, (frames, 1, 1), autoencoder, chunk))
        if frames <= taken:
            frames = _roomy(task, frames, taken + taken // 2)
    config = replace(config, shape=replace(config.shape, num_frames=frames))
    if task in HALVES and wanted.condition_frame_length is None and settled.conditions.condition_frame_length:
        config.conditions.condition_frame_length = max(1, frames // 2)
    settled = whole_chunks(_settled(config)[1], autoencoder)[0]
    size = size_of(family, settled.shape, fps, autoencoder)
    if size[1] != size[2]:
        raise UserError(f"clips of the toy world are squares, not {size[1]}x{size[2]} pixels; use --image_size 64 64")
    if task == LOOP_TASK:
        return config, Setup(size, joins=_joins_of_loops(size[0], settled.conditions))
    places = _places(family, task, length_of(settled, size, autoencoder, chunk))
    return config, Setup(size, places, _joins_of(places, size[0]))


def _roomy(task: str, frames: int, enough: int) -> int:
    logger.info("%s is scored on %d frames: %d leave no room for it", task, enough, frames)
    return enough


def _settled(config: Config) -> tuple[Family, Config]:
    denoiser = config.denoiser
    return settle(config, denoiser.model_version, denoiser.model_name, config.autoencoder.vae_type)


def _places(family: Family, task: str, length: Length) -> tuple[range, ...]:
    way = family.conditioning
    asked = Asked(("",) * way.references_of(task), None, task)
    return tuple(way.places(way.understand(asked, length), length))


def _joins_of(places: tuple[range, ...], frames: int) -> tuple[int, ...]:
    """Both ends of given clips, within the video; a single picture has no motion that could go on."""
    ends = {end for place in places if len(place) > 1 for end in (place.start, place.stop)}
    return tuple(sorted(ends - {0, frames}))


def _joins_of_loops(frames: int, conditions: Conditions) -> tuple[int, ...]:
    new = frames - conditions.condition_frame_length
    return tuple(frames + new * number for number in range(conditions.loop - 1))


def make_cases(setup: Setup, count: int, folder: Path, fps: float, world: WorldConfig = TOY) -> list[Case]:
    """Cases from real clips of combinations that training knows, their references in ``folder``; always the same.

    Args:
        fps: of the references.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cases = []
    for index in range(count):
        frames, caption, _ = clip(CLIPS_SEED, index, "train", *setup.size[:2], world)
        parts = [frames[place.start : place.stop] for place in setup.places]
        files = [_write(folder / f"{index:03d}-{number}", part, fps) for number, part in enumerate(parts)]
        cases.append(Case(caption, tuple(files), tuple(map(read_video, files))))
    return cases


def _write(path: Path, frames: np.ndarray, fps: float) -> Path:
    if len(frames) == 1:
        return write_png(path.with_suffix(".png"), frames)
    return write_video(path.with_suffix(".mp4"), frames, fps, REFERENCE_CRF)
