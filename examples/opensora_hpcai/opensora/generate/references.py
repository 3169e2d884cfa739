"""Given pictures and videos: read, brought to the size of the video, encoded.

Legend: `C` latent channels, `T'` latent frames, `H`/`W` latent height and width.
"""

from __future__ import annotations

import functools
import gc
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mindone import runtime
from mindone.data.transforms import ResizeCrop, normalise
from mindone.data.video import iter_frames, probe
from mindone.errors import UserError
from opensora.conditions.given import Reference
from opensora.conditions.strategies import apply_strategy
from opensora.failures import require_finite, within_memory

if TYPE_CHECKING:
    from opensora.generate.plan import Job, Plan
    from opensora.generate.requests import Request
    from opensora.models.autoencoder import Autoencoder

logger = logging.getLogger(__name__)

Latents = dict["Job", list[np.ndarray]]
"""Per job, the latents (C, T', H, W) of what it is given."""


def require_references(requests: Sequence[Request], loops: int, autoencoder: Autoencoder) -> None:
    """Refuses references that cannot be read or are too short, and strategies that they do not fit.

    Raises:
        UserError: names the file, or the strategy.
    """
    length = functools.cache(lambda path: probe(path).num_frames)
    said: dict[tuple[int, tuple[int, ...], int], str] = {}
    for request in requests:
        counts = [_frames_taken(reference, length(reference.path)) for reference in request.conditions.references]
        latents = [autoencoder.latent_size((count, *request.size[1:]))[0] for count in counts]
        stand_ins = [np.zeros((1, count, 1, 1), np.float32) for count in latents]
        video = np.zeros((1, request.latent_shape[1], 1, 1), np.float32)
        for loop in range(loops):
            _, mask = apply_strategy(video, stand_ins, request.conditions.groups, loop, request.conditions.align)
            given = tuple(np.flatnonzero(mask < 1).tolist())
            if given:
                said.setdefault((loop, given, len(mask)), request.text)
    for (loop, given, latents), text in said.items():
        where = f" of loop {loop}" if loop else ""
        logger.info("given are latent frames %s of %d%s: %s", _ranges(given), latents, where, text[:60])


def _ranges(numbers: Sequence[int]) -> str:
    """``0-4, 14`` of 0, 1, 2, 3, 4, 14."""
    starts = [n for n in numbers if n - 1 not in numbers]
    ends = [n for n in numbers if n + 1 not in numbers]
    return ", ".join(str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends))


def _frames_taken(reference: Reference, available: int) -> int:
    wanted = available if reference.frames is None else abs(reference.frames)
    if wanted > available and not reference.may_be_short:
        raise UserError(f"{reference.path} has {available} frames, but {wanted} are needed")
    return min(wanted, available)


def read_reference(reference: Reference, height: int, width: int) -> np.ndarray:
    """Frames (T, height, width, 3) uint8: resized to cover, the middle of them.

    Raises:
        BadSample: the file cannot be read, or is damaged.
    """
    total = probe(reference.path).num_frames
    count = _frames_taken(reference, total)
    first = total - count if (reference.frames or 0) < 0 else 0
    indices = None if reference.frames is None else range(first, first + count)
    return ResizeCrop(height, width).clip(iter_frames(reference.path, indices))


def encode_references(plan: Plan) -> Latents:
    """Latents of what every job is given. The autoencoder is dropped afterwards."""
    from opensora.generate.pixels import load_autoencoder

    latents: Latents = {job: [None] * len(plan.request(job).conditions.references) for job in plan.jobs}
    if not any(latents.values()):
        return latents
    autoencoder = load_autoencoder(plan)
    for (reference, height, width), users in _users(plan, autoencoder).items():
        video = normalise(read_reference(reference, height, width))
        still = plan.still_frames if video.shape[1] == 1 else 1
        mean, std = posterior_of(autoencoder, video.repeat(still, axis=1), reference.path)
        if still > 1:
            mean, std = mean[:, :1], std[:, :1]
        for job, number in users:
            latents[job][number] = sample(autoencoder, mean, std, job.seed, 0, number)
    del autoencoder
    gc.collect()
    return latents


def _users(plan: Plan, autoencoder: Autoencoder) -> dict[tuple[Reference, int, int], list[tuple[Job, int]]]:
    """Per reference and size, the jobs that are given it, and which of their references it is: each is encoded once."""
    users: dict[tuple[Reference, int, int], list[tuple[Job, int]]] = {}
    for job in plan.jobs:
        height, width = pixels_encoded(autoencoder, *plan.size(job)[1:])
        for number, reference in enumerate(plan.request(job).conditions.references):
            users.setdefault((reference, height, width), []).append((job, number))
    return users


def pixels_encoded(autoencoder: Autoencoder, height: int, width: int) -> tuple[int, int]:
    """The size that a video really has: named sizes may have a remainder that the latents lose."""
    _, rows, columns = autoencoder.latent_size((1, height, width))
    factor = autoencoder.spatial_compression
    return min(height, rows * factor), min(width, columns * factor)


def posterior_of(autoencoder: Autoencoder, video: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (C, T', H, W) of the unscaled latents of a video (3, T, height, width)."""
    remedy = "use fewer or smaller frames, vae_micro_batch_size 1, or vae_dtype bf16 on an NPU"
    with within_memory(f"encoding {video.shape[1]} frames of {video.shape[2]}x{video.shape[3]} pixels", remedy):
        mean, std = (part.asnumpy()[0] for part in autoencoder.posterior(video[None]))
    require_finite(mean, f"in the latents of {what},", "try vae_dtype fp32")
    return mean, std


def sample(
    autoencoder: Autoencoder, mean: np.ndarray, std: np.ndarray, seed: int, loop: int, number: int
) -> np.ndarray:
    """Normalised latents (C, T', H, W), a sample of the posterior as in the original; it belongs to the job's seed."""
    from mindspore import Tensor

    noise = runtime.stream(seed, "reference", loop, number).standard_normal(mean.shape, np.float32)
    return autoencoder.normalize(Tensor((mean + std * noise)[None].astype(np.float32))).asnumpy()[0]
