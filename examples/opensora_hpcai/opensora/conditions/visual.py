"""Given pictures and clips as an input of the network (Open-Sora 2.0): one mask channel, and the given latents.

A condition has a kind: ``t2v`` (nothing is given), ``i2v_head``, ``i2v_tail`` and ``i2v_loop`` (the first frame, the
last one, both), ``v2v_head`` and ``v2v_tail`` (a third of a clip), ``v2v_head_easy`` and ``v2v_tail_easy`` (most of
it). A causal autoencoder has one latent more in a given clip, that of its first frame.

Legend: `B` batch, `C` latent channels, `T` latent frames, `H`/`W` latent height and width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mindone.errors import UserError

KINDS = ("t2v", "i2v_head", "i2v_tail", "i2v_loop", "v2v_head", "v2v_tail", "v2v_head_easy", "v2v_tail_easy")
# Latents of a given clip, without the one of its first frame.
CLIP_LATENTS, EASY_CLIP_LATENTS = 8, 16


class End(NamedTuple):
    """What a condition gives at one end of a video: its first or last latent frames."""

    is_head: bool
    latents: int

    @property
    def name(self) -> str:
        return f"{'head' if self.is_head else 'tail'}_{self.latents}"

    def frames(self, compression: int) -> slice:
        """The frames of the video that a causal autoencoder makes these latents of, encoded by themselves."""
        return self._of((self.latents - 1) * compression + 1)

    @property
    def place(self) -> slice:
        """The latent frames."""
        return self._of(self.latents)

    def _of(self, count: int) -> slice:
        return slice(count) if self.is_head else slice(-count, None)


# (row, end) -> its latents (C, T', H, W)
Given = Callable[[int, End], np.ndarray]
# (row, pixels (1, 3, F', height, width)) -> latents (C, T', H, W)
Encode = Callable[[int, np.ndarray], np.ndarray]


def given_latents(kind: str, causal: bool) -> int:
    """How many latent frames a condition gives, at one end of the video.

    Raises:
        UserError: there is no such kind.
    """
    if kind not in KINDS:
        raise UserError(f"the condition {kind} is not known; use one of {', '.join(KINDS)}")
    if not kind.startswith("v2v"):
        return 0 if kind == "t2v" else 1
    return (EASY_CLIP_LATENTS if kind.endswith("_easy") else CLIP_LATENTS) + int(causal)


def given_frames(kind: str, causal: bool, latent_frames: int) -> np.ndarray:
    """(T,) bool: which latent frames a condition gives.

    Raises:
        UserError: the video is too short for it.
    """
    count = given_latents(kind, causal)
    if count and kind.startswith("v2v") and latent_frames <= count:
        raise UserError(f"{kind} gives {count} latent frames, but the video has {latent_frames}; use a longer video")
    mask = np.zeros(latent_frames, bool)
    for end in given_ends([kind], causal):
        mask[end.place] = True
    return mask


def given_ends(kinds: Iterable[str], causal: bool) -> list[End]:
    """What conditions of these kinds give, each end once."""
    found = []
    for kind in kinds:
        sides = [side for side in ("head", "tail") if side in kind or kind == "i2v_loop"]
        found += [End(side == "head", given_latents(kind, causal)) for side in sides]
    return list(dict.fromkeys(found))


def possible(weights: Mapping[str, float], latent_frames: int) -> dict[str, float]:
    """The kinds that a video of this length can have, an image none; the mapping itself is not changed."""
    if latent_frames == 1:
        return {}
    limits = {"v2v_head": CLIP_LATENTS, "v2v_tail": CLIP_LATENTS}
    limits |= {f"{kind}_easy": EASY_CLIP_LATENTS for kind in limits}
    return {kind: weight for kind, weight in weights.items() if latent_frames > limits.get(kind, 0)}


def draw_kinds(
    weights: Mapping[str, float], latent_frames: int, generators: Sequence[np.random.Generator]
) -> list[str]:
    """A kind per sample, by its weight, each from the sample's own random stream. An image has none."""
    choices = possible(weights, latent_frames)
    if not choices:
        return ["t2v"] * len(generators)
    ends = np.cumsum(list(choices.values()))
    kinds = list(choices)
    return [kinds[int(np.searchsorted(ends, g.random() * ends[-1], side="right"))] for g in generators]


def drawn_ends(weights: Mapping[str, float], latent_frames: int) -> list[str]:
    """Names of what `draw_kinds` may give of a video of this length, encoded by itself by a causal autoencoder."""
    return [end.name for end in given_ends(possible(weights, latent_frames), causal=True)]


def sampling_condition(
    kinds: Sequence[str], references: Sequence[Sequence[np.ndarray]], shape: Sequence[int], causal: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Masks (B, 1, T, H, W) and masked latents (B, C, T, H, W), both float32, for sampling.

    Args:
        kinds: per sample.
        references: per sample, the latents (C, T', H, W) of what is given: a picture's for ``i2v_head`` and
            ``i2v_tail``, two pictures' for ``i2v_loop``, a clip's for ``v2v``. The frames at the near end count: the
            first ones for a head, the last ones for a tail.
        shape: (C, T, H, W) of the video's latents.
    Raises:
        UserError: too few references, or too short ones.
    """
    channels, frames, height, width = shape
    masks = np.zeros((len(kinds), 1, frames, height, width), np.float32)
    latents = np.zeros((len(kinds), channels, frames, height, width), np.float32)
    for row, (kind, given) in enumerate(zip(kinds, references)):
        where = given_frames(kind, causal, frames)
        needed = 2 if kind == "i2v_loop" else int(kind != "t2v")
        if len(given) < needed:
            raise UserError(f"{kind} needs {needed} reference{'s' * (needed > 1)}, but {len(given)} are given")
        count = given_latents(kind, causal)
        if needed and min(part.shape[1] for part in given[:needed]) < count:
            raise UserError(f"{kind} needs a clip of {count} latent frames; the given one has {given[0].shape[1]}")
        masks[row, :, where] = 1
        for end in given_ends([kind], causal):
            latents[row, :, end.place] = given[0 if end.is_head else needed - 1][:, end.place]
    return masks, latents


def training_condition(x_start: np.ndarray, kinds: Sequence[str], given: Given, causal: bool) -> np.ndarray:
    """The network's condition (B, 1 + C, T, H, W) float32: masks, then masked latents.

    With a causal autoencoder what is given is encoded by itself, so that it holds nothing of the rest of the video;
    otherwise only pictures are, and clips are taken from the latents of the whole video.

    Args:
        x_start: (B, C, T, H, W), latents of the videos.
        kinds: per sample.
        given: the latents of what is encoded by itself, see `encoded`.
    """
    condition = np.zeros((len(x_start), 1 + x_start.shape[1], *x_start.shape[2:]), np.float32)
    for row, kind in enumerate(kinds):
        where = given_frames(kind, causal, x_start.shape[2])
        condition[row, 0, where] = 1
        if kind.startswith("v2v") and not causal:
            condition[row, 1:, where] = x_start[row][:, where].swapaxes(0, 1)
            continue
        for end in given_ends([kind], causal):
            condition[row, 1:, end.place] = given(row, end)
    return condition


def encoded(video: np.ndarray, encode: Encode, compression: int) -> Given:
    """What is given, encoded by itself.

    Args:
        video: (B, 3, F, height, width), the pixels.
        encode: see `Encode`.
        compression: frames per latent frame.
    """
    return lambda row, end: encode(row, video[row : row + 1, :, end.frames(compression)])


def pad_for_condition(video: np.ndarray, kind: str, extra: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A clip with repeated frames at a given end, and the pictures that are given, for a non-causal autoencoder.

    Its first latent frame mixes several frames; with ``extra`` copies in front it is that of the picture alone. Where
    the original takes a tail's picture from, ``2 * extra + 1`` frames before the end, is kept.

    Args:
        video: (3, F, height, width).
        kind: ``i2v_head``, ``i2v_tail`` or ``i2v_loop``; others change nothing.
        extra: frames that are added; as many are left out at the other end.
    Returns:
        The clip of F frames, and the given pictures (3, 1, height, width).
    """
    first, late = video[:, :1], video[:, -(2 * extra + 1)][:, None]
    if kind == "i2v_head":
        return np.concatenate([*[first] * extra, video[:, : video.shape[1] - extra]], 1), [first]
    if kind == "i2v_tail":
        return np.concatenate([video[:, extra:], *[video[:, -1:]] * extra], 1), [late]
    if kind == "i2v_loop":
        middle = video[:, : video.shape[1] - 2 * extra]
        return np.concatenate([*[first] * extra, middle, *[late] * extra], 1), [first, late]
    return video, []
