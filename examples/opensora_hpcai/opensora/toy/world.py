"""The toy world: short clips of one coloured shape that moves in one direction, with the caption that says so.

Nothing but numpy draws it, so the exact truth of every clip is known and `opensora.data.toy_score` can judge what a
model makes of a prompt. Start, size, speed, shade and background are random, so no two clips are equal. The twelve
`UNSEEN` combinations are left out of the training part: a model that gets them right has learnt to combine.
"""

from __future__ import annotations

import colorsys
import csv
import io
import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindone import runtime
from mindone.checkpoint.atomic import atomic_write
from mindone.data.write import write_video
from mindone.errors import UserError
from opensora.config.toy import ToyDataConfig

COLOURS = {"red": 0, "yellow": 54, "green": 120, "cyan": 180, "blue": 228, "purple": 285}
"""Hue of each colour in degrees."""
NEW_COLOURS = {"azure": 207}
"""Colours that the bundled models have never seen and whose names their tokenizer spells, for adapters to learn.

The bundled autoencoder shows this one; it takes most hues between those of `COLOURS` for the nearest of them.
"""
ALL_COLOURS = {**COLOURS, **NEW_COLOURS}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1), "still": (0, 0)}
"""Unit vector (x, y) of each direction; y grows downwards."""
SPLITS = ("train", "unseen", "all", *NEW_COLOURS)


class Scene(NamedTuple):
    """What a caption says: the three labels that are judged."""

    colour: str
    shape: str
    direction: str


UNSEEN = (
    Scene("red", "circle", "up"),
    Scene("red", "triangle", "left"),
    Scene("yellow", "square", "left"),
    Scene("yellow", "triangle", "down"),
    Scene("green", "triangle", "right"),
    Scene("green", "square", "still"),
    Scene("cyan", "circle", "right"),
    Scene("cyan", "triangle", "down"),
    Scene("blue", "square", "up"),
    Scene("blue", "circle", "left"),
    Scene("purple", "square", "right"),
    Scene("purple", "circle", "still"),
)

_MOVING = (
    "{a} {colour} {shape} moves {way}",
    "{a} {colour} {shape} is moving {way}",
    "{a} {colour} {shape} goes {way}",
)
_STILL = (
    "{a} {colour} {shape} stands still",
    "{a} {colour} {shape} is standing still",
    "{a} {colour} {shape} does not move",
)
_WAYS = {
    "left": ("left", "to the left"),
    "right": ("right", "to the right"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
    "still": ("",),
}

RADIUS = (0.15, 0.21)
"""Radius of the circle as a share of the frame; square and triangle are scaled to look as large."""
PATH = (0.25, 0.42)
"""Length of the way of a moving shape, as a share of the frame."""
BACKGROUND = (20.0, 60.0)
"""Brightness of the background, 0..255: dark, so that most of what there is to learn is the shape."""
NOISE = 3.0
"""Standard deviation of the noise, in steps of 0..255."""


def scenes(split: str) -> list[Scene]:
    """The combinations of a split: ``train`` (78), ``unseen`` (12), ``all`` (90), or those of a new colour (15)."""
    if split not in SPLITS:
        raise UserError(f"split={split} is not known; use one of {', '.join(SPLITS)}")
    colours = [split] if split in NEW_COLOURS else COLOURS
    every = [Scene(*labels) for labels in itertools.product(colours, SHAPES, DIRECTIONS)]
    if split in NEW_COLOURS:
        return every
    return [scene for scene in every if split == "all" or (scene in UNSEEN) == (split == "unseen")]


def captions(scene: Scene) -> list[str]:
    """Every way of saying a scene."""
    templates = _STILL if scene.direction == "still" else _MOVING
    return [
        template.format(
            a="an" if article == "a" and scene.colour[0] in "aeiou" else article,
            colour=scene.colour,
            shape=scene.shape,
            way=way,
        )
        for article, template, way in itertools.product(("a", "the"), templates, _WAYS[scene.direction])
    ]


def label(scene: Scene) -> int | str:
    """The number of a combination among all 90, for networks that are told a class; empty for one of a new colour."""
    every = scenes("all")
    return every.index(scene) if scene in every else ""


class Clip(NamedTuple):
    """Frames (T, H, W, 3) uint8, the caption, and what it says."""

    frames: np.ndarray
    caption: str
    scene: Scene


def clip(seed: int, index: int, split: str = "train", num_frames: int = 17, image_size: int = 64) -> Clip:
    """Clip ``index`` of the endless series that ``seed`` and ``split`` name.

    Consecutive blocks of clips hold every scene of the split once, in random order, so small sets are balanced too.

    Raises:
        UserError: unknown split, fewer than 2 frames, or a frame too small for a shape to be told.
    """
    if num_frames < 2 or image_size < 32:
        raise UserError(
            f"num_frames={num_frames}, image_size={image_size}: a toy clip needs at least 2 frames of 32 x 32"
        )
    choices = scenes(split)
    block, position = divmod(index, len(choices))
    scene = choices[runtime.stream(seed, "toy", split, "order", block).permutation(len(choices))[position]]
    rng = runtime.stream(seed, "toy", split, "clip", index)
    texts = captions(scene)
    return Clip(render(scene, rng, num_frames, image_size), texts[rng.integers(len(texts))], scene)


def render(scene: Scene, rng: np.random.Generator, num_frames: int = 17, image_size: int = 64) -> np.ndarray:
    """Draws a scene: frames (T, H, W, 3) uint8. The shape stays in the frame from the first to the last."""
    radius = rng.uniform(*RADIUS) * image_size
    reach = _reach(scene.shape, radius)
    centres = _path(scene.direction, reach, rng, num_frames, image_size)
    alpha = np.clip(0.5 - _distance(scene.shape, radius, centres, image_size), 0, 1)[..., None]
    dark = rng.uniform(*BACKGROUND) + rng.uniform(-6, 6, 3)
    frames = dark + alpha * (_shade(scene.colour, rng) - dark)
    frames += rng.normal(0, NOISE, frames.shape)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


def _shade(colour: str, rng: np.random.Generator) -> np.ndarray:
    """A shade of a colour, (3,) in 0..255, whose hue is closer to its name than to any other."""
    hue = ALL_COLOURS[colour] + rng.uniform(-7, 7)
    return 255 * np.array(colorsys.hsv_to_rgb(hue / 360 % 1, rng.uniform(0.8, 1), rng.uniform(0.8, 1)))


def _reach(shape: str, radius: float) -> np.ndarray:
    """How far a shape extends from its centroid: left, right, up, down."""
    if shape == "circle":
        return np.full(4, radius)
    if shape == "square":
        return np.full(4, 0.89 * radius)
    return np.array([1.17, 1.17, 1.35, 0.675]) * radius


def _path(direction: str, reach: np.ndarray, rng: np.random.Generator, num_frames: int, image_size: int) -> np.ndarray:
    """Centroids (T, 2) as (x, y) of a steady move that begins and ends inside the frame, one pixel off its edge."""
    low = reach[[0, 2]] + 1
    high = image_size - 1 - reach[[1, 3]] - 1
    way = np.array(DIRECTIONS[direction]) * rng.uniform(*PATH) * image_size
    start = rng.uniform(low + np.maximum(-way, 0), high - np.maximum(way, 0))
    return start + np.linspace(0, 1, num_frames)[:, None] * way


def _distance(shape: str, radius: float, centres: np.ndarray, image_size: int) -> np.ndarray:
    """Signed distance (T, H, W) of every pixel from the shape's outline, in pixels, negative inside."""
    grid = np.arange(image_size, dtype=np.float64)
    x = grid[None, None, :] - centres[:, 0, None, None]
    y = grid[None, :, None] - centres[:, 1, None, None]
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(abs(x), abs(y)) - 0.89 * radius
    inner = 0.675 * radius
    slope = np.sqrt(0.75) * abs(x) - 0.5 * y
    return np.maximum(y, slope) - inner


def write_dataset(
    folder: str | Path,
    num_clips: int,
    split: str = "train",
    seed: int = 0,
    num_frames: int = 17,
    image_size: int = 64,
    fps: float = 8,
    crf: int = 12,
) -> Path:
    """Writes clips as ``videos/00000.mp4, ...`` and the table ``video_caption.csv`` (columns video, caption, label).

    Args:
        crf: h264 quality; 12 keeps the noise.
    Returns:
        the path of the table, in which videos stand relative to ``folder``.
    """
    folder = Path(folder)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(num_clips):
        item = clip(seed, index, split, num_frames, image_size)
        name = f"videos/{index:05d}.mp4"
        write_video(folder / name, item.frames, fps, crf)
        rows.append((name, item.caption, label(item.scene)))
    table = folder / "video_caption.csv"
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("video", "caption", "label"), *rows])
    with atomic_write(table) as file:
        file.write(text.getvalue().encode())
    return table


def make_dataset(config: ToyDataConfig) -> None:
    """`write_dataset` as the settings say; says where the table is.

    Raises:
        UserError: the folder has files already.
    """
    folder = Path(config.output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not config.overwrite:
        raise UserError(f"output={folder} is not empty; give another folder, or --overwrite True")
    table = write_dataset(
        folder, config.num_clips, config.split, config.seed, config.num_frames, config.image_size, config.fps
    )
    print(f"{config.num_clips} clips, listed in {table}")
