"""Clips of the toy world that are made worse by known degrees: what measures of videos are held against.

Each damage takes a clip of `opensora.toy.world`, the way to draw it again with another shape, a degree from 0 (nothing
is changed) to 1, and random numbers. Frames are (T, H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from mindone import runtime
from opensora.config.world import TOY
from opensora.toy.combinations import Scene, scenes
from opensora.toy.world import captions, render

NOISE = 80.0
"""Standard deviation of the strongest noise, in steps of 0..255."""
BLUR = 0.15
"""Standard deviation of the strongest blur, as a share of the frame."""
JITTER = 0.2
"""Farthest that a frame jumps to a side, as a share of the frame."""


@dataclass(frozen=True)
class Original:
    """A clip as it should be, the same clip with another shape, and its caption."""

    frames: np.ndarray
    other_shape: np.ndarray
    caption: str


def original(seed: int, index: int, num_frames: int, image_size: int) -> Original:
    """Clip ``index`` of a series that goes through all combinations in random order."""
    every = scenes("all")
    block, position = divmod(index, len(every))
    scene = every[runtime.stream(seed, "damage", "order", block).permutation(len(every))[position]]
    shapes = list(TOY.shapes)
    other = shapes[(shapes.index(scene.shape) + 1) % len(shapes)]

    def drawn(scene: Scene) -> np.ndarray:
        return render(scene, runtime.stream(seed, "damage", "clip", index), num_frames, image_size)

    return Original(drawn(scene), drawn(scene._replace(shape=other)), captions(scene)[0])


Damage = Callable[[Original, float, np.random.Generator], np.ndarray]


def noise(clip: Original, degree: float, rng: np.random.Generator) -> np.ndarray:
    """Random numbers added to every pixel."""
    return _pixels(clip.frames + rng.normal(0, NOISE * degree, clip.frames.shape))


def blur(clip: Original, degree: float, rng: np.random.Generator) -> np.ndarray:
    """Frames out of focus."""
    width = BLUR * degree * clip.frames.shape[2]
    return np.stack([cv2.GaussianBlur(frame, (0, 0), width) for frame in clip.frames]) if degree else clip.frames


def colour(clip: Original, degree: float, rng: np.random.Generator) -> np.ndarray:
    """All hues turned, by half a circle at most."""
    hsv = np.stack([cv2.cvtColor(frame.astype(np.float32) / 255, cv2.COLOR_RGB2HSV) for frame in clip.frames])
    hsv[..., 0] = (hsv[..., 0] + 180 * degree) % 360
    return _pixels(np.stack([cv2.cvtColor(frame, cv2.COLOR_HSV2RGB) for frame in hsv]) * 255)


def shape(clip: Original, degree: float, rng: np.random.Generator) -> np.ndarray:
    """Another shape that shows through, and at last stands in place of the right one."""
    return _pixels((1 - degree) * clip.frames + degree * clip.other_shape.astype(np.float64))


def direction(clip: Original, degree: float, rng: np.random.Generator) -> np.ndarray:
    """The move slowed down around the middle frame, half way standing still, at last backwards."""
    middle = (len(clip.frames) - 1) / 2
    places = middle + (np.arange(len(clip.frames)) - middle) * (1 - 2 * degree)
    return clip.frames[places.round().astype(int)]


def frozen(clip: Original, degree: float, rng: np.random.Generator) -> np.ndarray:
    """A film that stops before its end, at last with its first frame."""
    last = round((len(clip.frames) - 1) * (1 - degree))
    return clip.frames[np.minimum(np.arange(len(clip.frames)), last)]


def jitter(clip: Original, degree: float, rng: np.random.Generator) -> np.ndarray:
    """Every frame shifted by chance."""
    height, width = clip.frames.shape[1:3]
    shifts = rng.uniform(-1, 1, (len(clip.frames), 2)) * JITTER * degree * width
    moves = [np.array([[1, 0, x], [0, 1, y]], np.float32) for x, y in shifts]
    pairs = zip(clip.frames, moves)
    return np.stack(
        [cv2.warpAffine(frame, move, (width, height), borderMode=cv2.BORDER_REPLICATE) for frame, move in pairs]
    )


def shuffled(clip: Original, degree: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the frames in random order."""
    order = np.arange(len(clip.frames))
    chosen = np.sort(rng.permutation(len(order))[: round(degree * len(order))])
    order[chosen] = rng.permutation(chosen)
    return clip.frames[order]


DAMAGES: dict[str, Damage] = {
    each.__name__: each for each in (noise, blur, colour, shape, direction, frozen, jitter, shuffled)
}
"""Every damage by its name."""


def _pixels(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
