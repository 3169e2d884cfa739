"""Which sizes and lengths a video can have, and which ones its network knows from training."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mindone.errors import UserError
from opensora.config.common import Shape
from opensora.families import Family
from opensora.sizes import VideoSize

if TYPE_CHECKING:
    from opensora.models.autoencoder import Autoencoder

logger = logging.getLogger(__name__)

SECONDS = "sec"


def size_of(family: Family, shape: Shape, fps: float, autoencoder: Autoencoder) -> VideoSize:
    """Frames, height and width in pixels of what is asked for.

    ``2.5sec`` are so many frames at ``fps`` as come nearest. (Names such as ``4s`` are published lengths.)

    Raises:
        UserError: a size or length that the networks cannot do; it names the nearest that they can.
    """
    seconds = str(shape.num_frames).strip().removesuffix(SECONDS)
    if seconds != str(shape.num_frames).strip():
        shape = replace(shape, num_frames=_frames_of_seconds(seconds, fps, autoencoder))
    frames, height, width = family.size(shape, autoencoder.spatial_compression)
    if not can_have(autoencoder, frames):
        fewer, more = nearest_lengths(autoencoder, frames)
        raise UserError(f"num_frames={frames} is no length that the autoencoder can decode; use {fewer} or {more}")
    if min(autoencoder.latent_size((frames, height, width))) < 1:
        least = autoencoder.spatial_compression
        raise UserError(f"image_size={height}x{width} has no latents; use {least}x{least} or more")
    return frames, height, width


def _frames_of_seconds(text: str, fps: float, autoencoder: Autoencoder) -> int:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < 1e5:
        raise UserError(f"num_frames={text}{SECONDS} is not a length in seconds, such as 2.5{SECONDS}")
    frames = max(1, round(seconds * fps))
    if can_have(autoencoder, frames):
        return frames
    return min(nearest_lengths(autoencoder, frames), key=lambda length: abs(length - frames))


def is_of_whole_videos(autoencoder: Autoencoder) -> bool:
    """Whether it makes a length of its own of latents, instead of as many frames as are asked for."""
    from opensora.models.autoencoder import TiledAutoencoder

    return isinstance(autoencoder, TiledAutoencoder)


def frames_decoded(autoencoder: Autoencoder) -> Callable[[int], int]:
    """How many frames that many latents decode to."""
    if is_of_whole_videos(autoencoder):
        return autoencoder.frames_of
    return lambda latents: latents * autoencoder.time_compression


def can_have(autoencoder: Autoencoder, frames: int) -> bool:
    """Whether a video of so many frames is decoded whole."""
    if frames < 1:
        return False
    if not is_of_whole_videos(autoencoder):
        return True
    return autoencoder.frames_of(autoencoder.latent_size((frames, 64, 64))[0]) >= frames


def nearest_lengths(autoencoder: Autoencoder, frames: int) -> tuple[int, int]:
    """The lengths below and above one that an autoencoder cannot do."""
    fewer = next(length for length in range(frames, 0, -1) if can_have(autoencoder, length) or length == 1)
    more = next(length for length in range(frames, 2 * frames + 64) if can_have(autoencoder, length))
    return fewer, more


def describe(sizes: Iterable[VideoSize], loops: int = 1) -> str:
    """The pixels chosen: ``2 videos of 51 frames, 720x1280 pixels (landscape) and 1 picture, 8x8 pixels (square)``."""
    parts = []
    for (frames, height, width), count in Counter(sizes).items():
        what = f"{count} picture" if frames == 1 else f"{count} video"
        clips = "" if loops == 1 else f"{loops} clips of "
        length = "" if frames == 1 else f" of {clips}{frames} frames"
        turned = "square" if height == width else "landscape" if width > height else "portrait"
        parts.append(f"{what}{'s' if count > 1 else ''}{length}, {height}x{width} pixels ({turned})")
    return " and ".join(parts)


def warn_if_rounded(size: VideoSize, latents: Sequence[int], compression: int) -> None:
    height, width = latents[-2] * compression, latents[-1] * compression
    if (height, width) != size[1:] and (height < size[1] or width < size[2]):
        logger.warning("%dx%d is rounded down to %dx%d by the autoencoder", size[1], size[2], height, width)


# --- what a network was trained on -----------------------------------------------------------------------------------


def warn_if_untrained(trained_on: object, sizes: Iterable[VideoSize], fps: float) -> None:
    """Warns of sizes, lengths and rates that a model folder's ``trained_on`` does not have, and names the nearest.

    ``trained_on`` is ``{"sizes": [[height, width], ...], "num_frames": [...], "fps": ...}``; what it does not say is
    not compared.
    """
    if trained_on is None:
        return
    try:
        known_sizes, lengths, rates = _checked(trained_on)
    except (TypeError, ValueError, AttributeError):
        logger.warning("trained_on=%s in config.json is not understood", str(trained_on)[:80])
        return
    for frames, height, width in sorted(set(sizes)):
        found = []
        if known_sizes and (height, width) not in known_sizes:
            near = min(known_sizes, key=lambda known: _distance(known, (height, width)))
            found.append(f"{height}x{width} pixels (the nearest it knows is {near[0]}x{near[1]})")
        if lengths and frames not in lengths:
            near = min(lengths, key=lambda known: abs(known - frames))
            found.append(f"{frames} frames (the nearest it knows is {near})")
        if found:
            logger.warning("the network was not trained on %s; expect worse videos", " and ".join(found))
    if rates and fps not in rates:
        near = min(rates, key=lambda known: abs(known - fps))
        logger.warning("the network was not trained on fps=%g (the nearest it knows is %g)", fps, near)


def _checked(trained_on: Mapping[str, Any]) -> tuple[list[tuple[int, int]], list[int], list[float]]:
    sizes = [(int(height), int(width)) for height, width in trained_on.get("sizes") or ()]
    lengths = [int(length) for length in trained_on.get("num_frames") or ()]
    rates = trained_on.get("fps")
    rates = [] if rates is None else [float(rate) for rate in (rates if isinstance(rates, list) else [rates])]
    if any(min(size) < 1 for size in sizes):
        raise ValueError("sizes are positive")
    return sizes, lengths, rates


def _distance(a: tuple[int, int], b: tuple[int, int]) -> float:
    return abs(math.log(a[0] / b[0])) + abs(math.log(a[1] / b[1]))
