"""The toy world: short clips of one or two coloured shapes that move, with the caption that says so.

Nothing but numpy draws it, so the exact truth of every clip is known and `opensora.toy.judge` can judge what a model
makes of a prompt. Start, size, speed, shade and background are random, so no two clips are equal. Some combinations are
left out of the training part: a model that gets them right has learnt to combine.

What a world has is said by a `WorldConfig`; the built-in one, `TOY`, is what all functions take if none is given.
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
from mindone.data.write import write_png, write_video
from mindone.errors import UserError
from opensora.config.toy import ToyDataConfig
from opensora.config.world import BRIGHTNESS, TOY, Colour, WorldConfig, grey_of, hue_of, read_world
from opensora.toy.combinations import Scene, scenes
from opensora.toy.motions import MOTIONS
from opensora.toy.outlines import outline_of

NOISE = 3.0
"""Standard deviation of the noise, in steps of 0..255."""
STRIPES = 22.0
"""How much brighter and darker than their mean the stripes of a textured background are."""
GAP = 2.0
"""Pixels that two shapes keep between the boxes around them."""
MOST_TRIES = 2000


class Shown(NamedTuple):
    """What a clip shows: its shapes, in the order of the caption, and the background."""

    objects: tuple[Scene, ...]
    background: str = "dark"


class Clip(NamedTuple):
    """Frames (T, H, W, 3) uint8, the caption, and what it says."""

    frames: np.ndarray
    caption: str
    shown: Shown

    @property
    def scene(self) -> Scene:
        """Its shape, the first one of two."""
        return self.shown.objects[0]


# --- what is shown, and how it is said -------------------------------------------------------------------------------


def captions(scene: Scene, world: WorldConfig = TOY, picture: bool = False) -> list[str]:
    """Every way of saying what one shape does, or what it is where a picture shows it."""
    templates = world.still_captions if scene.direction == "still" else world.moving_captions
    ways = MOTIONS[scene.direction].ways
    if picture:
        templates, ways = world.picture_captions, ("",)
    return [
        template.format(
            a="an" if article == "a" and scene.colour[0] in "aeiou" else article,
            colour=scene.colour,
            shape=scene.shape,
            way=way,
        )
        for article, template, way in itertools.product(("a", "the"), templates, ways)
    ]


def caption_of(shown: Shown, rng: np.random.Generator, world: WorldConfig = TOY, picture: bool = False) -> str:
    """One way of saying all that a clip shows, or that a picture does."""
    every = (captions(each, world, picture) for each in shown.objects)
    texts = [choices[rng.integers(len(choices))] for choices in every]
    text = texts[0] if len(texts) == 1 else world.pair_caption.format(first=texts[0], second=texts[1])
    if world.background_caption is None:
        return text
    return f"{text} {world.background_caption.format(background=shown.background)}"


def completed(scene: Scene, split: str, rng: np.random.Generator, world: WorldConfig = TOY) -> Shown:
    """What a clip shows that has a given shape: a second one where there are two, of another colour, and a background.

    The second one is of the training part, or in the split ``all`` any.
    """
    objects = (scene,)
    if world.objects == 2:
        others = [each for each in scenes("all" if split == "all" else "train", world) if each.colour != scene.colour]
        objects = (scene, others[rng.integers(len(others))])
        objects = objects[::-1] if rng.integers(2) else objects
    kinds = world.backgrounds
    return Shown(objects, kinds[0] if len(kinds) == 1 else kinds[rng.integers(len(kinds))])


def label(scene: Scene, world: WorldConfig = TOY) -> int | str:
    """The number of a combination among all, for networks that are told a class; empty for one of a new colour."""
    every = scenes("all", world)
    return every.index(scene) if scene in every else ""


def clip(
    seed: int,
    index: int,
    split: str = "train",
    num_frames: int | None = None,
    image_size: int | None = None,
    world: WorldConfig = TOY,
) -> Clip:
    """Clip ``index`` of the endless series that ``seed`` and ``split`` name.

    Consecutive blocks of clips hold every combination of the split once, in random order, so small sets are balanced
    too. Where there are two shapes, that is so for one of them.

    Args:
        num_frames: the world's own if not given, and so is ``image_size``. One frame is a picture, whose caption says
            nothing of a motion.
    Raises:
        UserError: unknown split, no frames, or a frame too small for a shape to be told.
    """
    num_frames = world.num_frames if num_frames is None else num_frames
    image_size = world.image_size if image_size is None else image_size
    if num_frames < 1 or image_size < 32:
        raise UserError(f"num_frames={num_frames}, image_size={image_size}: a toy clip needs frames of 32 x 32 or more")
    choices = scenes(split, world)
    block, position = divmod(index, len(choices))
    scene = choices[runtime.stream(seed, "toy", split, "order", block).permutation(len(choices))[position]]
    rng = runtime.stream(seed, "toy", split, "clip", index)
    shown = completed(scene, split, rng, world)
    frames = draw(shown, rng, num_frames, image_size, world)
    return Clip(frames, caption_of(shown, rng, world, picture=num_frames == 1), shown)


# --- drawing ---------------------------------------------------------------------------------------------------------


def render(scene: Scene, rng: np.random.Generator, num_frames: int = 17, image_size: int = 64) -> np.ndarray:
    """`draw` of one shape of the built-in world."""
    return draw(Shown((scene,)), rng, num_frames, image_size)


def draw(
    shown: Shown, rng: np.random.Generator, num_frames: int = 17, image_size: int = 64, world: WorldConfig = TOY
) -> np.ndarray:
    """Draws a clip: frames (T, H, W, 3) uint8. Shapes stay in the frame from the first to the last, and apart.

    Raises:
        UserError: two shapes are too large to pass each other.
    """
    tracks = _tracks(shown, rng, num_frames, image_size, world)
    alphas = [np.clip(0.5 - track.distance(image_size), 0, 1)[..., None] for track in tracks]
    frames = _background(shown.background, rng, image_size)
    for scene, alpha in zip(shown.objects, alphas):
        frames = frames + alpha * (_shade(world.all_colours[scene.colour], rng) - frames)
    frames += rng.normal(0, NOISE, frames.shape)
    return np.clip(np.rint(frames), 0, 255).astype(np.uint8)


class _Track(NamedTuple):
    """A shape, its radius in pixels, and its centroids (T, 2) as (x, y)."""

    shape: str | list[tuple[float, float]]
    radius: float
    centres: np.ndarray

    def distance(self, image_size: int) -> np.ndarray:
        """Signed distance (T, H, W) of every pixel from the outline, in pixels, negative inside."""
        grid = np.arange(image_size, dtype=np.float64)
        x = grid[None, None, :] - self.centres[:, 0, None, None]
        y = grid[None, :, None] - self.centres[:, 1, None, None]
        return outline_of(self.shape).distance(x, y, self.radius)

    def box(self) -> tuple[np.ndarray, np.ndarray]:
        """Upper left and lower right corners (T, 2) of the box around it."""
        reach = np.array(outline_of(self.shape).reach) * self.radius
        return self.centres - reach[[0, 2]], self.centres + reach[[1, 3]]


def _tracks(
    shown: Shown, rng: np.random.Generator, num_frames: int, image_size: int, world: WorldConfig
) -> list[_Track]:
    for _ in range(MOST_TRIES):
        tracks = [_track(scene, rng, num_frames, image_size, world) for scene in shown.objects]
        if len(tracks) == 1 or _are_apart(*tracks):
            return tracks
    raise UserError(
        f"radius={list(world.radius)} and path={list(world.path)} leave two shapes no room to pass; make them smaller"
    )


def _track(scene: Scene, rng: np.random.Generator, num_frames: int, image_size: int, world: WorldConfig) -> _Track:
    """A move that begins and ends inside the frame, one pixel off its edge.

    Raises:
        UserError: the frame is too small for it.
    """
    shape, motion = world.shapes[scene.shape], MOTIONS[scene.direction]
    radius = rng.uniform(*world.radius) * image_size
    reach = np.array(outline_of(shape).reach) * radius
    low = reach[[0, 2]] + 1
    high = image_size - 1 - reach[[1, 3]] - 1
    way = np.array(motion.vector) * rng.uniform(*world.path) * image_size
    low, high = low + np.maximum(-way, 0), high - np.maximum(way, 0)
    if (low > high).any():
        raise UserError(f"frames of {image_size} x {image_size} leave a {scene.shape} no room to move; use larger")
    start = rng.uniform(low, high)
    return _Track(shape, radius, start + motion.course(num_frames)[:, None] * way)


def _are_apart(first: _Track, second: _Track) -> bool:
    (low, high), (other_low, other_high) = first.box(), second.box()
    return bool(((low > other_high + GAP) | (other_low > high + GAP)).any(1).all())


def _background(kind: str, rng: np.random.Generator, image_size: int) -> np.ndarray:
    """A colour (3,), or a picture (H, W, 3), in 0..255."""
    plain = rng.uniform(*BRIGHTNESS[kind]) + rng.uniform(-6, 6, 3)
    if kind != "textured":
        return plain
    angle, cycles, phase = rng.uniform(0, np.pi), rng.uniform(2, 3.5), rng.uniform(0, 2 * np.pi)
    grid = np.arange(image_size) / image_size
    along = np.cos(angle) * grid[None, :] + np.sin(angle) * grid[:, None]
    return plain + STRIPES * np.sin(2 * np.pi * cycles * along + phase)[..., None]


def _shade(colour: Colour, rng: np.random.Generator) -> np.ndarray:
    """A shade of a colour, (3,) in 0..255, which is closer to its name than to any other."""
    if isinstance(colour, tuple):
        spread = 6 if grey_of(colour) is None else 10
        return np.clip(np.array(colour) + rng.uniform(-spread, spread), 0, 255)
    hue = hue_of(colour) + rng.uniform(-7, 7)
    return 255 * np.array(colorsys.hsv_to_rgb(hue / 360 % 1, rng.uniform(0.8, 1), rng.uniform(0.8, 1)))


# --- files -----------------------------------------------------------------------------------------------------------


def write_dataset(
    folder: str | Path,
    num_clips: int,
    split: str = "train",
    seed: int = 0,
    num_frames: int | None = None,
    image_size: int | None = None,
    fps: float | None = None,
    crf: int = 12,
    world: WorldConfig = TOY,
) -> Path:
    """Writes clips as ``videos/00000.mp4, ...`` and the table ``video_caption.csv`` (columns video, caption, label).

    Clips of one frame are pictures, ``videos/00000.png``; they have no label.

    Args:
        num_frames: the world's own if not given, and so are ``image_size`` and ``fps``.
        crf: h264 quality; 12 keeps the noise.
    Returns:
        the path of the table, in which videos stand relative to ``folder``. Clips of two shapes have no label.
    Raises:
        UserError: unknown split, or an impossible size.
    """
    folder = Path(folder)
    scenes(split, world)
    (folder / "videos").mkdir(parents=True, exist_ok=True)
    rows = []
    for index in range(num_clips):
        item = clip(seed, index, split, num_frames, image_size, world)
        is_picture = len(item.frames) == 1
        name = f"videos/{index:05d}.{'png' if is_picture else 'mp4'}"
        if is_picture:
            write_png(folder / name, item.frames)
        else:
            write_video(folder / name, item.frames, world.fps if fps is None else fps, crf)
        has_label = len(item.shown.objects) == 1 and not is_picture
        rows.append((name, item.caption, label(item.scene, world) if has_label else ""))
    table = folder / "video_caption.csv"
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("video", "caption", "label"), *rows])
    with atomic_write(table) as file:
        file.write(text.getvalue().encode())
    return table


def make_dataset(config: ToyDataConfig) -> None:
    """`write_dataset` as the settings say; says where the table is.

    Raises:
        UserError: the folder has files already, or the world is none.
    """
    world, folder = read_world(config.world), Path(config.output)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"output={folder} is a file; give a folder")
    if folder.is_dir() and any(folder.iterdir()) and not config.overwrite:
        raise UserError(f"output={folder} is not empty; give another folder, or --overwrite True")
    size = config.num_frames, config.image_size, config.fps
    table = write_dataset(folder, config.num_clips, config.split, config.seed, *size, world=world)
    print(f"{config.num_clips} clips, listed in {table}")
