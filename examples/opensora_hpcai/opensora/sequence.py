"""The settings of sequence parallelism, which training and sampling have in common, and what follows from them."""

from __future__ import annotations

from typing import Protocol

from mindone import runtime
from mindone.config import SettingError
from mindone.errors import UserError
from mindone.parallel.mesh import Mesh, make_mesh


class SequenceSettings(Protocol):
    """Settings by their published names."""

    enable_sequence_parallelism: bool
    sequence_parallel_shards: int | None
    dsp: bool


def is_shared(settings: SequenceSettings) -> bool:
    """Whether ranks share a video."""
    return settings.enable_sequence_parallelism or settings.dsp


def shared_mesh(settings: SequenceSettings) -> Mesh:
    """The mesh of the ranks that were joined, in rows of those that share a video: all of them if not said.

    Raises:
        UserError: there is one rank only, or the ranks do not make whole rows.
    """
    shards = settings.sequence_parallel_shards
    if not is_shared(settings):
        if (shards or 1) > 1:
            raise SettingError(
                f"sequence_parallel_shards={shards} needs --enable_sequence_parallelism True, or --dsp True",
                "sequence_parallel_shards",
            )
        return make_mesh()
    return _rows(shards or runtime.current().world_size)


def guided_mesh() -> Mesh:
    """The mesh of the ranks that were joined, in pairs that share a video.

    Raises:
        UserError: there is one rank only, or an odd number.
    """
    return _rows(2)


def whole_mesh(settings: SequenceSettings) -> Mesh:
    """The mesh of the ranks that were joined as one row, for weights that are spread over all of them.

    Raises:
        UserError: there is one rank only, or some of the ranks are to share a video.
    """
    world, shards = runtime.current().world_size, settings.sequence_parallel_shards
    if shards not in (None, world):
        raise SettingError(
            f"shard_weights needs all {world} ranks for every video, and sequence_parallel_shards={shards} has rows of "
            "fewer; leave it out",
            "sequence_parallel_shards",
        )
    return _rows(world)


def _rows(ranks: int) -> Mesh:
    if runtime.current().world_size == 1:
        raise UserError(
            "ranks are to share a video, but this is the only one; start several by opensora launch --nproc N, with "
            "--use_parallel True"
        )
    return make_mesh(ranks)
