"""The settings of sequence parallelism, which training and sampling have in common, and what follows from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from mindone import runtime
from mindone.config import SettingError
from mindone.errors import UserError
from mindone.parallel.mesh import Mesh, make_mesh

if TYPE_CHECKING:
    from mindone.parallel.sequence import NoParallel, Way
    from opensora.models.types import DenoiserConfig


class SequenceSettings(Protocol):
    """Settings by their published names."""

    enable_sequence_parallelism: bool
    sequence_parallel_shards: int | None
    sequence_parallel_method: Literal["auto", "ulysses", "ring"]
    dsp: bool


def is_shared(settings: SequenceSettings) -> bool:
    """Whether ranks share a video."""
    return settings.enable_sequence_parallelism or settings.dsp


def shared_mesh(settings: SequenceSettings) -> Mesh:
    """The mesh of the ranks that were joined, in rows of those that share a video: all of them if not said.

    Raises:
        UserError: there is one rank only, the ranks do not make whole rows, or settings do not go together.
    """
    shards, method = settings.sequence_parallel_shards, settings.sequence_parallel_method
    if method != "auto" and (settings.dsp or not settings.enable_sequence_parallelism):
        raise SettingError(
            f"sequence_parallel_method={method} needs --enable_sequence_parallelism True, without --dsp",
            "sequence_parallel_method",
        )
    if not is_shared(settings):
        if (shards or 1) > 1:
            raise SettingError(
                f"sequence_parallel_shards={shards} needs --enable_sequence_parallelism True, or --dsp True",
                "sequence_parallel_shards",
            )
        return make_mesh()
    return _rows(shards or runtime.current().world_size)


def shared_by(settings: SequenceSettings, config: DenoiserConfig, mesh: Mesh) -> NoParallel | None:
    """How the ranks of a row of the mesh share a video in this denoiser; None where they share none."""
    from mindone.parallel.sequence import make_strategy

    return make_strategy(mesh, way_of(settings, config, mesh.sequence)) if is_shared(settings) else None


def way_of(settings: SequenceSettings, config: DenoiserConfig, ranks: int) -> Way:
    """How so many ranks share a video: keys and values go round where not every rank has a head, if they can."""
    from opensora.models.mmdit import MMDiTConfig

    if settings.dsp:
        return "dsp"
    if settings.sequence_parallel_method != "auto":
        return settings.sequence_parallel_method
    return "ring" if isinstance(config, MMDiTConfig) and ranks > config.num_heads else "ulysses"


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
