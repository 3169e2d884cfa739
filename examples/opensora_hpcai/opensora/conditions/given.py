"""What a video is given: which frames of which files, and how they become part of a sample.

There are two ways. Networks with frames masks (1.1, 1.2) get given latents in the noise (`GivenFrames`), others as an
input of their own (`GivenToNetwork`). Both take tasks by word; the first one also takes mask strategies.

Legend: `B` batch, `C` latent channels, `T` latent frames, `H`/`W` latent height and width.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mindone.errors import UserError
from opensora.conditions.strategies import (
    REFERENCES_OF_TASK,
    TASKS,
    Given,
    aligned_start,
    apply_strategy,
    going_on,
    parse_strategy,
    strategy_of_task,
)
from opensora.conditions.visual import KINDS, given_ends, given_frames, given_latents, sampling_condition

References = Sequence[Sequence[np.ndarray]]
"""Per sample, latents (C, T', H, W)."""


class Reference(NamedTuple):
    """Frames of a file: the first ones, the last ones if the number is negative, all without one."""

    path: str
    frames: int | None = None
    may_be_short: bool = False
    """a file with fewer frames is taken as it is"""


@dataclass(frozen=True)
class Asked:
    """What a user says of one video."""

    paths: tuple[str, ...] = ()
    strategy: str | None = None
    task: str | None = None
    edit_ratio: float = 0.3
    paste_tail: bool = True


@dataclass(frozen=True)
class Length:
    """The length of a video, and what its autoencoder makes of frames."""

    frames: int
    latents: int
    clip_frames: int
    """frames that tasks such as extend go on from"""
    latents_of: Callable[[int], int]
    frames_of: Callable[[int], int]
    chunk: int | None = None
    """frames of one chunk, for autoencoders that work in chunks"""

    @property
    def causal(self) -> bool:
        """Whether all latent frames but the first stand for as many frames."""
        return self.frames_of(3) - self.frames_of(2) == self.frames_of(2) - self.frames_of(1)

    @property
    def align(self) -> int | None:
        """Latents of one chunk."""
        return None if self.chunk is None else self.latents_of(self.chunk)

    def first_frame(self, latent: int) -> int:
        """The first frame that a latent frame stands for; with chunks, of latents that begin one."""
        if self.chunk is not None:
            return latent // self.align * self.chunk
        return self.frames_of(latent) if latent else 0


@dataclass(frozen=True)
class Conditions:
    """What one video is given."""

    references: tuple[Reference, ...] = ()
    groups: tuple[Given, ...] = ()
    kind: str = "t2v"
    align: int | None = None
    causal: bool = True
    paste_tail: bool = True

    def __bool__(self) -> bool:
        return bool(self.references or self.groups)


class Conditioning(ABC):
    """One way of giving frames to a video."""

    @abstractmethod
    def references_of(self, task: str) -> int:
        """How many references a task takes."""

    def frames_taken(self, task: str, length: Length) -> int:
        """Frames of a clip that a task gives whatever the length of the video is; 0: it leaves that open."""
        return 0

    @abstractmethod
    def understand(self, asked: Asked, length: Length) -> Conditions:
        """What a user wants.

        Raises:
            UserError: a task or strategy that this way does not have, or that lacks something.
        """

    @abstractmethod
    def places(self, conditions: Conditions, length: Length) -> list[range]:
        """Per reference of a task, the frames of the video in which it stands."""

    @abstractmethod
    def put(
        self, noise: np.ndarray, conditions: Sequence[Conditions], references: References, loop: int = 0
    ) -> dict[str, np.ndarray]:
        """Fields of a `opensora.families.base.SampleRequest`, with ``noise`` (B, C, T, H, W) among them.

        Raises:
            UserError: references that are not there, or too short.
        """


class GivenFrames(Conditioning):
    """Given latents stand in the noise, and a mask says how freely they may change."""

    def references_of(self, task: str) -> int:
        return REFERENCES_OF_TASK.get(task, 1)

    def understand(self, asked: Asked, length: Length) -> Conditions:
        if asked.task is None:
            if asked.paths and not asked.strategy:
                raise UserError(f"nothing says what is done with the reference; give --task {' or '.join(TASKS)}")
            references = tuple(Reference(path) for path in asked.paths)
            return Conditions(references, tuple(parse_strategy(asked.strategy)), align=length.align)
        if asked.task not in TASKS:
            raise UserError(f"task={asked.task} is one of version 2.0; use one of {', '.join(TASKS)}")
        if asked.strategy:
            raise UserError(
                f"task={asked.task} and mask_strategy={asked.strategy} say the same thing; give one of them"
            )
        _require_references(asked.task, asked.paths, self.references_of(asked.task))
        clip = length.clip_frames
        whole = asked.task in ("v2v", "edit")
        taken = {
            "v2v": (length.frames,),
            "edit": (length.frames,),
            "connect": (-clip, clip),
            "extend": (-clip,),
            "extend_before": (clip,),
        }.get(asked.task, (1, 1))
        references = tuple(Reference(path, frames, whole) for path, frames in zip(asked.paths, taken))
        latents = length.latents if whole else length.latents_of(clip)
        if asked.task in ("connect", "extend", "extend_before"):
            _require_room(asked.task, length, latents * len(taken))
        if asked.task == "interpolate" and length.chunk and length.frames <= length.chunk:
            raise UserError(
                f"task=interpolate has its second picture at the beginning of the last {length.chunk} frames, and "
                f"{length.frames} frames have no other beginning; use {2 * length.chunk} frames"
            )
        strategy = strategy_of_task(asked.task, latents, asked.edit_ratio)
        return Conditions(references, tuple(parse_strategy(strategy)), align=length.align)

    def places(self, conditions: Conditions, length: Length) -> list[range]:
        places = []
        for group, reference in zip(conditions.groups, conditions.references):
            first = length.first_frame(aligned_start(group.start, length.latents, conditions.align))
            places.append(range(first, first + abs(reference.frames)))
        return places

    def put(
        self, noise: np.ndarray, conditions: Sequence[Conditions], references: References, loop: int = 0
    ) -> dict[str, np.ndarray]:
        placed = [
            apply_strategy(latents, given, wanted.groups, loop, wanted.align)
            for latents, wanted, given in zip(noise, conditions, references)
        ]
        latents, masks = (np.stack(values) for values in zip(*placed))
        return {"noise": latents} if (masks == 1).all() else {"noise": latents, "edit_mask": masks}


def continued(conditions: Conditions, loop: int, reference: int, latents: int, edit_ratio: float) -> Conditions:
    """The conditions of a clip that begins with ``latents`` latents of the clip before, its reference ``reference``."""
    groups = going_on(conditions.groups, reference, loop, latents, edit_ratio)
    return Conditions(conditions.references, tuple(groups), align=conditions.align)


class GivenToNetwork(Conditioning):
    """The network is told a mask and the latents under it; conditions have kinds, see `opensora.conditions.visual`."""

    kinds = {"i2v": "i2v_head", "interpolate": "i2v_loop", "extend": "v2v_head", "extend_before": "v2v_tail"}
    """task → kind; a task takes the other end of a clip than the kind: what goes on from it"""

    def references_of(self, task: str) -> int:
        return {"t2v": 0, "i2v_loop": 2}.get(self.kinds.get(task, task), 1)

    def frames_taken(self, task: str, length: Length) -> int:
        kind = self.kinds.get(task, task)
        return length.frames_of(given_latents(kind, length.causal)) if kind.startswith("v2v") else 0

    def understand(self, asked: Asked, length: Length) -> Conditions:
        known = (*self.kinds, *KINDS)
        if asked.strategy:
            raise UserError(f"mask_strategy={asked.strategy} is one of 1.1 and 1.2; use task: {', '.join(known)}")
        if asked.task is None and asked.paths:
            raise UserError(f"nothing says what is done with the reference; give --task {' or '.join(known)}")
        if asked.task is not None and asked.task not in known:
            raise UserError(f"task={asked.task} is not one of version 2.0; use one of {', '.join(known)}")
        kind = self.kinds.get(asked.task, asked.task) or "t2v"
        _require_references(kind, asked.paths, self.references_of(kind))
        if kind == "t2v":
            return Conditions()
        given_frames(kind, length.causal, length.latents)
        clip = self.frames_taken(kind, length)
        if kind.startswith("i2v"):
            taken = (1,) if kind == "i2v_head" else (-1,) if kind == "i2v_tail" else (1, -1)
        else:
            taken = (clip,) if ("head" in kind) != (asked.task in self.kinds) else (-clip,)
        references = tuple(Reference(path, frames) for path, frames in zip(asked.paths, taken))
        return Conditions(references, kind=kind, causal=length.causal, paste_tail=asked.paste_tail)

    def places(self, conditions: Conditions, length: Length) -> list[range]:
        counts = [abs(reference.frames) for reference in conditions.references]
        at_end = [number > 0 or "tail" in conditions.kind for number in range(len(counts))]
        starts = [length.frames - count if end else 0 for count, end in zip(counts, at_end)]
        return [range(start, start + count) for start, count in zip(starts, counts)]

    def put(
        self, noise: np.ndarray, conditions: Sequence[Conditions], references: References, loop: int = 0
    ) -> dict[str, np.ndarray]:
        kinds = [wanted.kind for wanted in conditions]
        if set(kinds) == {"t2v"}:
            return {"noise": noise}
        masks, latents = sampling_condition(kinds, references, noise.shape[1:], conditions[0].causal)
        pasted = np.zeros((*masks.shape[:3], 1, 1), bool)
        for row, wanted in enumerate(conditions):
            for end in given_ends([wanted.kind], wanted.causal):
                pasted[row, :, end.place] = end.is_head or wanted.paste_tail
        return {"noise": noise, "condition": np.concatenate([masks, latents], 1), "pasted": pasted}


def _require_room(task: str, length: Length, latents: int) -> None:
    """Refuses videos of which given clips leave nothing, or whose end is not that of a chunk but has to be."""
    if latents >= length.latents:
        raise UserError(
            f"task={task} gives {length.clip_frames} frames of each clip, which leaves nothing of {length.frames} "
            "frames to make; use a longer video, or a smaller condition_frame_length"
        )
    if task != "extend" and length.chunk and length.frames % length.chunk:
        nearest = max(2, round(length.frames / length.chunk)) * length.chunk
        raise UserError(
            f"task={task} needs num_frames in chunks of the autoencoder, {length.chunk} frames each; use {nearest} "
            f"instead of {length.frames}"
        )


def _require_references(task: str, paths: Sequence[str], count: int) -> None:
    if len(paths) != count:
        raise UserError(
            f"task={task} takes {count} reference{'' if count == 1 else 's'}, but {len(paths)} are given; separate "
            "several by ;"
        )
