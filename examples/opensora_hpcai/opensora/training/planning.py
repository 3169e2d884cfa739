"""Which samples train together, and at which size: one size for all, or buckets."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mindone.data.metadata import Metadata, probed
from mindone.data.plan import BucketPlan, BucketSize, Draw
from mindone.data.table import VideoRow
from mindone.errors import UserError
from mindone.parallel.collectives import barrier
from mindone.parallel.mesh import Mesh
from opensora.config.train import TrainConfig
from opensora.data.buckets import BucketRules, Fitted, sampling_intervals
from opensora.data.cache import folder_of_size, latent_folders
from opensora.families import Family

logger = logging.getLogger(__name__)

NOT_CACHED = "of a size that vae_latent_folder has no folder for"


@dataclass(frozen=True)
class Buckets:
    """The buckets of a table, as an assignment for a `BucketPlan`."""

    rules: BucketRules
    metadata: Metadata
    interval: np.ndarray
    """(N,) int32, every how many-th frame of a video is taken"""
    fitted: Fitted
    cached: np.ndarray | None = None
    """(buckets,) bool, whether latents of a bucket's size are cached; None: videos are encoded"""

    def assign(self, draw: Draw) -> np.ndarray:
        found = self.fitted.assign(draw)
        return found if self.cached is None else np.where(self._is_uncached(found), np.int32(-1), found)

    def _is_uncached(self, found: np.ndarray) -> np.ndarray:
        return (found >= 0) & ~self.cached[found]

    def reasons(self, draw: Draw) -> Mapping[str, np.ndarray]:
        """Why samples have no bucket: reason -> their rows."""
        found = self.fitted.assign(draw)
        reasons = self.fitted.reasons(found)
        if self.cached is not None and self._is_uncached(found).any():
            reasons[NOT_CACHED] = np.flatnonzero(self._is_uncached(found))
        return reasons

    @property
    def lengths(self) -> set[int]:
        """Frames that samples may train at."""
        return {bucket.size[0] for bucket in self.rules.buckets}


def make_buckets(
    config: TrainConfig, family: Family, rows: Sequence[VideoRow], compression: int, mesh: Mesh | None = None
) -> Buckets:
    """The buckets of ``config.shape``; one rank looks at files that the table says nothing of.

    Raises:
        UserError: lengths and sizes are not known, or latents are cached at one size only.
    """
    data, shape = config.data, config.shape
    rules = family.bucket_rules(shape.bucket_config, compression)
    with_fps = shape.fps_max is not None
    metadata = Metadata.of_rows(rows)
    lacking = metadata.lacking(with_fps)
    if len(lacking) and not data.video_folder:
        raise UserError(
            f"{data.csv_path} does not say num_frames, height and width{' and fps' if with_fps else ''} of "
            f"{len(lacking)} of {len(rows)} samples, which buckets need; add these columns, or give video_folder"
        )
    if len(lacking):
        metadata = _probed_once(rows, data.csv_path, with_fps, mesh or Mesh())
    interval = data.frame_stride * sampling_intervals(metadata.fps, shape.fps_max)
    return Buckets(rules, metadata, interval, rules.fit(metadata, interval), _cached(config, rules, compression))


def _probed_once(rows: Sequence[VideoRow], csv_path: str, with_fps: bool, mesh: Mesh) -> Metadata:
    """The main rank looks at the files; the others find what it has found beside the table."""
    if not mesh.is_main:
        barrier(mesh)
    metadata = probed(rows, csv_path, with_fps)
    if mesh.is_main:
        barrier(mesh)
    return metadata


def _cached(config: TrainConfig, rules: BucketRules, compression: int) -> np.ndarray | None:
    """Whether latents of each bucket's size are cached; None without a cache."""
    if not config.data.vae_latent_folder:
        return None
    folder = Path(config.data.vae_latent_folder)
    folders = latent_folders(folder)
    if folders == [folder]:
        raise UserError(
            f"vae_latent_folder={folder} has no subfolders latent_HEIGHTxWIDTH, which buckets need; cache the latents "
            "of each size in its own, or leave vae_latent_folder out"
        )
    return np.array([folder_of_size(folders, *bucket.size[1:], compression) is not None for bucket in rules.buckets])


def plan_of_buckets(buckets: Buckets, seed: int, ranks: int, contents: str) -> BucketPlan:
    """The batches of a table's buckets.

    Args:
        ranks: that batch sizes are meant for.
        contents: tells the table from any other.
    Raises:
        UserError: there is no batch; it names what buckets lack.
    """
    rules = buckets.rules
    sizes = [BucketSize(str(bucket), bucket.size, bucket.batch_size) for bucket in rules.buckets]
    length = len(buckets.metadata)
    return BucketPlan(buckets, length, sizes, ranks, seed, _fingerprint(buckets, contents))


def _fingerprint(buckets: Buckets, contents: str) -> str:
    """Of the table, what is known of its samples, and the rules."""
    lengths = [
        (resolution.name, length.num_frames, length.keep, length.take)
        for resolution in buckets.rules.resolutions
        for length in resolution.lengths
    ]
    cached = None if buckets.cached is None else buckets.cached.tolist()
    digest = hashlib.blake2b(json.dumps([contents, lengths, buckets.rules.strict, cached]).encode(), digest_size=8)
    digest.update(buckets.metadata.to_bytes() + buckets.interval.tobytes())
    return digest.hexdigest()


def require_shares(plan: BucketPlan, ranks: int) -> None:
    """Refuses a number of ranks that the plan's batches cannot be shared out among.

    Raises:
        UserError: names one of the batches, and the numbers of ranks that can go on.
    """
    sizes = {bucket.batch_size * plan.ranks for bucket in plan.buckets if bucket.batch_size}
    common = int(np.gcd.reduce(list(sizes)))
    if common % ranks:
        possible = [str(number) for number in range(1, common + 1) if common % number == 0]
        raise UserError(
            f"the run to resume plans batches for {plan.ranks} ranks, such as one of {min(sizes)} samples, which "
            f"{ranks} ranks cannot share; go on with {', '.join(possible)} ranks"
        )
