"""The size of a video from what a user asks for: numbers, or published names."""

from __future__ import annotations

from collections.abc import Sequence

from mindone.errors import UserError
from opensora.data.aspect import named_size, named_size_2_0, parse_num_frames

VideoSize = tuple[int, int, int]
"""Frames, height and width in pixels."""


def video_size(
    num_frames: int | str,
    image_size: Sequence[int] | int | None = None,
    resolution: str | None = None,
    aspect_ratio: str | None = None,
    compression: int = 8,
) -> VideoSize:
    """(frames, height, width) that the user asks for by numbers or by names.

    Named sizes are the published ones, also those that the autoencoder rounds down (426 becomes 424 pixels).

    Raises:
        UserError: no size, unknown names, or an explicit size that ``compression`` does not divide.
    """
    frames = parse_num_frames(num_frames)
    if image_size:
        return frames, *_explicit_size(image_size, compression)
    if not resolution or not aspect_ratio:
        raise UserError("the video has no size; give image_size (height width), or resolution and aspect_ratio")
    return frames, *named_size(resolution, aspect_ratio)


def video_size_2_0(
    num_frames: int | str,
    image_size: Sequence[int] | int | None = None,
    resolution: str | None = None,
    aspect_ratio: str | None = None,
    grid: int = 16,
) -> VideoSize:
    """(frames, height, width) by the rules of 2.0: ratios are width:height, and sides are rounded up to ``grid``.

    Raises:
        UserError: no size, or unknown names.
    """
    frames = parse_num_frames(num_frames)
    if image_size:
        height, width = (-(-side // grid) * grid for side in _sides(image_size))
        return frames, height, width
    if not resolution or not aspect_ratio:
        raise UserError("the video has no size; give image_size (height width), or resolution and aspect_ratio")
    return frames, *named_size_2_0(resolution, aspect_ratio, grid=grid)


def _sides(image_size: Sequence[int] | int) -> tuple[int, int]:
    sides = [image_size] if isinstance(image_size, int) else list(image_size)
    if len(sides) not in (1, 2) or any(side < 1 for side in sides):
        raise UserError(f"image_size={image_size} has to be one positive number or two: height width")
    return (sides[0], sides[0]) if len(sides) == 1 else (sides[0], sides[1])


def _explicit_size(image_size: Sequence[int] | int, compression: int) -> tuple[int, int]:
    height, width = _sides(image_size)
    for side in (height, width):
        if side % compression:
            nearest = max(compression, round(side / compression) * compression)
            raise UserError(
                f"image_size={height}x{width}: {side} is not divisible by {compression}, the compression of the "
                f"autoencoder; use {nearest}"
            )
    return height, width
