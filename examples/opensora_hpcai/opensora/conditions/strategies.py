"""Mask strategies of 1.1 and 1.2: which frames of a video are given, from which reference, and how freely.

A strategy is text: groups separated by ``;``, each up to six numbers separated by ``,``::

    loop, reference, start in the reference, start in the video, length, edit ratio        missing ones: 0,0,0,0,1,0

Starts and lengths count latent frames; a negative start counts from the end. The edit ratio is 0 for frames that are
kept, 1 for frames that are made anew, and the strength of the change in between.

Legend: `C` latent channels, `T` latent frames, `H`/`W` latent height and width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mindone.errors import UserError

EXAMPLE = "0 (the first frame), 0;0,1,0,-1,1 (both ends) or 0,0,-8,0,8 (go on from a clip)"


class Given(NamedTuple):
    """One group of a strategy."""

    loop: int = 0
    reference: int = 0
    reference_start: int = 0
    start: int = 0
    length: int = 1
    edit_ratio: float = 0.0

    def __str__(self) -> str:
        return ",".join(str(value) for value in self)


def parse_strategy(text: str | None) -> list[Given]:
    """The groups of a strategy; none of an empty one.

    Raises:
        UserError: a group that is no list of up to six numbers, or numbers out of range.
    """
    groups = []
    for part in (text or "").split(";"):
        if not part.strip():
            continue
        fields = [field.strip() for field in part.split(",")]
        if len(fields) > len(Given._fields):
            raise UserError(
                f"mask_strategy={text}: '{part}' has {len(fields)} numbers, six at most; use e.g. {EXAMPLE}"
            )
        values = [_number(field, name, text) for field, name in zip(fields, Given._fields)]
        groups.append(_checked(Given(*values), text))
    return groups


def _number(field: str, name: str, text: str) -> int | float:
    try:
        return float(field) if name == "edit_ratio" else int(field)
    except ValueError:
        what = name.replace("_", " ")
        raise UserError(f"mask_strategy={text}: {what} '{field}' is not a number; use e.g. {EXAMPLE}") from None


def _checked(group: Given, text: str) -> Given:
    for name in ("loop", "reference"):
        if getattr(group, name) < 0:
            raise UserError(f"mask_strategy={text}: {name} {getattr(group, name)} has to be 0 or more")
    if group.length < 1:
        raise UserError(f"mask_strategy={text}: length {group.length} has to be at least 1")
    if not (math.isfinite(group.edit_ratio) and 0 <= group.edit_ratio <= 1):
        raise UserError(f"mask_strategy={text}: edit ratio {group.edit_ratio} has to be between 0 and 1")
    return group


def nearest_point(value: int, step: int, limit: int) -> int:
    """``value`` rounded to a multiple of ``step`` (halves down) that leaves a whole step before ``limit``."""
    point = value // step * step
    return point + step if value - point > step / 2 and point + 2 * step <= limit else point


def apply_strategy(
    latents: np.ndarray,
    references: Sequence[np.ndarray],
    groups: Sequence[Given],
    loop: int = 0,
    align: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """One sample's latents with what is given in its places, and its edit mask.

    Args:
        latents: (C, T, H, W), noise.
        references: latents (C, T', H, W).
        groups: of `parse_strategy`; those of other loops do nothing.
        align: starts are moved to multiples of this, for autoencoders that work in chunks; lengths are cut to what
            fits.
    Returns:
        A copy of the latents, and (T,) float32: 1 where a frame is generated, the edit ratio where it is given.
    Raises:
        UserError: a reference that is not there, or frames beyond its end or that of the video.
    """
    frames = latents.shape[1]
    latents, mask = latents.copy(), np.ones(frames, np.float32)
    for group in groups:
        if group.loop != loop:
            continue
        if group.reference >= len(references):
            raise UserError(f"mask_strategy={group} wants reference {group.reference}, but {len(references)} are given")
        source = references[group.reference]
        begin = _start(group.reference_start, source.shape[1], f"the reference of mask_strategy={group}")
        start = aligned_start(group.start, frames, align, f"the video, with mask_strategy={group},")
        begin = begin if align is None else nearest_point(begin, align, source.shape[1])
        length = min(group.length, frames - start, source.shape[1] - begin)
        latents[:, start : start + length] = source[:, begin : begin + length]
        mask[start : start + length] = group.edit_ratio
    return latents, mask


def _start(start: int, frames: int, what: str) -> int:
    position = start + frames if start < 0 else start
    if not 0 <= position < frames:
        raise UserError(f"{what} has {frames} latent frames, so none can start at {start}")
    return position


def aligned_start(start: int, frames: int, align: int | None = None, what: str = "the video") -> int:
    """Where a group's latents begin in a video of ``frames`` latent frames; see `apply_strategy`.

    Raises:
        UserError: beyond the end of ``what``.
    """
    position = _start(start, frames, what)
    return position if align is None else nearest_point(position, align, frames)


def going_on(groups: Sequence[Given], reference: int, loop: int, length: int, edit_ratio: float = 0.0) -> list[Given]:
    """The groups of a video that goes on from the last ``length`` latents of ``reference``, the clip before."""
    return [*groups, Given(loop, reference, -length, 0, length, edit_ratio)]


# --- tasks by word ---------------------------------------------------------------------------------------------------

TASKS = ("i2v", "v2v", "interpolate", "connect", "extend", "extend_before", "edit")


def strategy_of_task(task: str, length: int, edit_ratio: float = 0.3) -> str:
    """The strategy that a word stands for.

    Args:
        task: ``i2v``: the first frame is given; ``v2v`` and ``edit``: a whole clip is changed as much as
            ``edit_ratio`` says; ``interpolate``: two pictures at both ends; ``connect``: the end of one clip and the
            beginning of another; ``extend``, ``extend_before``: a clip goes on after its end, or before its beginning.
        length: latent frames that are taken of a clip.
    """
    strategies = {
        "i2v": "0",
        "v2v": f"0,0,0,0,{length},{edit_ratio:g}",
        "edit": f"0,0,0,0,{length},{edit_ratio:g}",
        "interpolate": "0;0,1,0,-1,1",
        "connect": f"0,0,{-length},0,{length};0,1,0,{-length},{length}",
        "extend": f"0,0,{-length},0,{length}",
        "extend_before": f"0,0,0,{-length},{length}",
    }
    if task not in strategies:
        raise UserError(f"task={task} is not known; use one of {', '.join(TASKS)}")
    return strategies[task]


REFERENCES_OF_TASK = {"interpolate": 2, "connect": 2}
"""Tasks that need more than one reference."""
