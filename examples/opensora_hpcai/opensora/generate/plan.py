"""What is to be generated, settled before any network is loaded: requests, sizes, seeds, files."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mindone import runtime
from mindone.checkpoint.digest import weights_digest
from mindone.checkpoint.find import find_model
from mindone.config import SettingError, naming_sources
from mindone.errors import UserError
from mindone.folders import make_run_folder, time_stamp
from mindone.parallel.collectives import from_first_rank
from mindone.parallel.mesh import Mesh
from opensora import networks
from opensora.config import GenerateConfig
from opensora.families import Family
from opensora.generate.references import require_references
from opensora.generate.requests import Request, make_requests
from opensora.generate.shapes import describe, warn_if_untrained
from opensora.model_folder import read_config, require_path
from opensora.noise import InitialNoise, Mixed
from opensora.sequence import guided_mesh, shared_mesh, whole_mesh
from opensora.sizes import VideoSize

if TYPE_CHECKING:
    from opensora.models.autoencoder import Autoencoder
    from opensora.models.types import DenoiserConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One video to make: ``row`` is its request's place in `Plan.requests`, ``stem`` the name of its files.

    ``mixed`` are seeds of noise that is mixed into that of its own seed, see `opensora.noise`.
    """

    row: int
    seed: int
    stem: str
    mixed: Mixed = ()

    @property
    def noise(self) -> InitialNoise:
        """What the video begins from."""
        return InitialNoise(self.seed, self.mixed)


@dataclass(frozen=True)
class Plan:
    """What this rank has to do.

    ``denoiser_config`` is the config dataclass of the family's network, ``autoencoder`` a skeleton without weights,
    ``weights`` a digest of every model's files, by the setting that names them.
    ``chosen_seed`` says whether somebody chose the seed of the run, so that it has to be the same in a repetition.
    """

    config: GenerateConfig
    family: Family
    denoiser_config: DenoiserConfig
    autoencoder: Autoencoder
    requests: list[Request]
    jobs: list[Job]
    folder: Path
    weights: dict[str, str]
    chosen_seed: bool = True
    mesh: Mesh = Mesh()

    def request(self, job: Job) -> Request:
        return self.requests[job.row]

    @property
    def writes(self) -> bool:
        """Whether this rank writes its videos; the others of its row only help to make them."""
        return self.mesh.sequence_index == 0

    def size(self, job: Job) -> VideoSize:
        return self.requests[job.row].size

    @property
    def loops(self) -> int:
        return self.config.conditions.loop

    @property
    def clip_frames(self) -> int:
        """Frames that a clip has in common with the one before it."""
        return self.config.conditions.condition_frame_length

    @property
    def still_frames(self) -> int:
        """Frames of the clip that stands still, of which a given picture is encoded as the first."""
        return _chunk_of(self.autoencoder) if self.config.conditions.picture_as_clip else 1

    @property
    def saved_fps(self) -> float:
        return self.config.sampler.fps / self.config.sampler.frame_interval

    def total_frames(self, job: Job) -> int:
        """Frames of the whole video: its clips overlap."""
        frames = self.size(job)[0]
        return frames if self.loops == 1 else frames + (self.loops - 1) * (frames - self.clip_frames)


def make_plan(config: GenerateConfig, family: Family) -> Plan:
    """Checks the settings, lists this rank's jobs, and makes the folder of the run.

    Raises:
        UserError: a size that cannot be, missing files, no prompt.
    """
    plan = checked_plan(config, family)
    output = plan.config.output
    stamp = time_stamp(from_first_rank(int(time.time()), plan.mesh)) if output.append_timestr else None
    folder = make_run_folder(output.output_path, stamp)
    return replace(plan, folder=folder, weights=_digests(plan.config, family.encoders_of(plan.denoiser_config)))


def checked_plan(config: GenerateConfig, family: Family) -> Plan:
    """The plan of the settings, for which nothing is written and no weights are read.

    The seed of job i is ``seed + i`` where its line has none: the seed that stands in a result's JSON file, with its
    prompt alone, gives the same video again.

    Raises:
        UserError: as for `make_plan`.
    """
    _require_models(config, family)
    with naming_sources(config):
        changes = denoiser_changes(config, family)
        denoiser_config = networks.denoiser_config(
            family.denoiser_preset, config.denoiser.ckpt_path, changes, "denoiser.denoiser_config"
        )
        autoencoder = networks.autoencoder_skeleton(
            family.autoencoder_preset, config.autoencoder.vae_checkpoint, **autoencoder_changes(config)
        )
    _require_same_latents(denoiser_config, autoencoder)
    config, chunk = whole_chunks(config, autoencoder)
    if config.conditions.picture_as_clip and chunk is None:
        raise SettingError("this autoencoder does not work in chunks; leave out picture_as_clip", "picture_as_clip")
    requests = make_requests(config, family, autoencoder, chunk)
    _require_encoders(config, family, denoiser_config, requests)
    _require_loops(config, requests, chunk)
    if any(request.conditions for request in requests) and not getattr(denoiser_config, "cond_embed", True):
        raise UserError("this denoiser takes no references (cond_embed is false in its config.json); leave them out")
    require_references(requests, config.conditions.loop, autoencoder)
    logger.info("%s", describe((request.size for request in requests), config.conditions.loop))
    trained_on = read_config(config.denoiser.ckpt_path).get("trained_on")
    warn_if_untrained(trained_on, {request.size for request in requests}, config.sampler.fps)
    chosen = config.runtime.seed is not None
    mesh = _mesh(config)
    seed = from_first_rank(config.runtime.seed if chosen else runtime.random_seed(), mesh)
    numbered = config.output.file_names == "number"
    requests, jobs = own_share(requests, list_jobs(requests, seed, numbered), mesh)
    folder = Path(config.output.output_path)
    return Plan(config, family, denoiser_config, autoencoder, requests, jobs, folder, {}, chosen, mesh)


def _mesh(config: GenerateConfig) -> Mesh:
    """Which ranks make a video together."""
    if config.denoiser.shard_weights:
        return whole_mesh(config.denoiser)
    if not config.denoiser.guidance_parallel:
        return shared_mesh(config.denoiser)
    if config.sampler.guidance_scale <= 1:
        raise UserError("guidance_parallel shares the branches of guidance; use a guidance_scale above 1")
    return guided_mesh()


def denoiser_changes(config: GenerateConfig, family: Family) -> dict[str, Any]:
    """The settings that change what a denoiser's config.json says."""
    changes = {name: getattr(config.denoiser, name) for name in networks.POSITION_SCALES}
    changes |= config.denoiser.denoiser_config
    if hasattr(networks.denoiser_presets()[family.denoiser_preset], "model_max_length"):
        changes.setdefault("model_max_length", config.text.model_max_length)
    return changes


def autoencoder_changes(config: GenerateConfig) -> dict[str, Any]:
    """The settings that change what an autoencoder's config.json says."""
    settings = config.autoencoder
    changes = {
        "micro_batch_size": settings.vae_micro_batch_size,
        "micro_frame_size": settings.vae_micro_frame_size,
        "sd_scale_factor": settings.sd_scale_factor,
    }
    return {**changes, **settings.vae_config}


def _require_same_latents(denoiser_config: DenoiserConfig, autoencoder: Autoencoder) -> None:
    channels = getattr(denoiser_config, "latent_channels", denoiser_config.in_channels)
    if channels != autoencoder.latent_channels:
        raise UserError(
            f"the denoiser takes latents of {channels} channels, but the autoencoder's have "
            f"{autoencoder.latent_channels}; use the vae_type that belongs to it"
        )


def list_jobs(requests: Sequence[Request], seed: int, numbered: bool = False) -> list[Job]:
    """The jobs of all requests, with consecutive seeds; ``numbered`` calls them 00000, 00001 and so on."""
    jobs = []
    for row, request in enumerate(requests):
        for repeat in range(request.samples):
            stem = request.stem if request.samples == 1 else f"{request.stem}-{repeat}"
            stem = f"{len(jobs):05d}" if numbered else stem
            own_seed = seed + len(jobs) if request.seed is None else request.seed + repeat
            jobs.append(Job(row, own_seed, stem, request.mixed))
    return jobs


def own_share(requests: list[Request], jobs: list[Job], mesh: Mesh) -> tuple[list[Request], list[Job]]:
    """The jobs of this rank's row of the mesh, and the requests these jobs need."""
    jobs = jobs[mesh.data_index :: mesh.data]
    rows = sorted({job.row for job in jobs})
    return [requests[row] for row in rows], [replace(job, row=rows.index(job.row)) for job in jobs]


def _require_models(config: GenerateConfig, family: Family) -> None:
    """Refuses missing model files before anything is loaded."""
    if not config.denoiser.allow_random_weights:
        require_path(config.denoiser.ckpt_path, "the denoiser's weights", "ckpt_path")
        for path, _ in config.denoiser.loras:
            require_path(path, "an adapter's weights", "lora")
        if config.output.use_vae_decode and family.autoencoder_preset not in networks.WITHOUT_WEIGHTS:
            require_path(config.autoencoder.vae_checkpoint, "the autoencoder's weights", "vae_checkpoint")


def _require_encoders(
    config: GenerateConfig, family: Family, denoiser_config: DenoiserConfig, requests: Sequence[Request]
) -> None:
    """Refuses missing files of what the requests need beside the denoiser: text encoders, an autoencoder."""
    distilled = getattr(denoiser_config, "guidance_embed", False)
    given, guided = config.prompts, config.sampler.guidance_scale > 1 and not distilled
    negatives = guided and any(request.negative or family.default_negative is not None for request in requests)
    if not given.text_embed_folder or (negatives and not given.negative_embed_folder):
        for option in family.encoders_of(denoiser_config):
            require_path(getattr(config.text, option), "the text encoder's files", option)
    if any(request.conditions for request in requests) and not config.denoiser.allow_random_weights:
        require_path(config.autoencoder.vae_checkpoint, "the autoencoder's weights", "vae_checkpoint")


def _digests(config: GenerateConfig, encoders: Sequence[str]) -> dict[str, str]:
    """Of the models that are given: weights may change while their names stay."""
    paths = {"ckpt_path": config.denoiser.ckpt_path, "vae_checkpoint": config.autoencoder.vae_checkpoint}
    paths |= {f"lora {number}": path for number, (path, _) in enumerate(config.denoiser.loras)}
    if not config.prompts.text_embed_folder:
        paths |= {option: getattr(config.text, option) for option in encoders}
    return {option: weights_digest(find_model(path)) for option, path in paths.items() if path and Path(path).exists()}


def _chunk_of(autoencoder: Autoencoder) -> int | None:
    """The frames of one chunk, for autoencoders that work in chunks."""
    return getattr(autoencoder.config, "micro_frame_size", None)


def whole_chunks(config: GenerateConfig, autoencoder: Autoencoder) -> tuple[GenerateConfig, int | None]:
    """The config with a condition_frame_length of whole chunks of the autoencoder, and the frames of one chunk."""
    chunk = _chunk_of(autoencoder)
    if chunk is None:
        return config, None
    asked = config.conditions.condition_frame_length
    if asked is None or asked % chunk == 0:
        return config, chunk
    nearest = max(1, round(asked / chunk)) * chunk
    logger.warning(
        "condition_frame_length=%d is taken as %d: the autoencoder works in chunks of %d frames", asked, nearest, chunk
    )
    return replace(config, conditions=replace(config.conditions, condition_frame_length=nearest)), chunk


def _require_loops(config: GenerateConfig, requests: Sequence[Request], chunk: int | None) -> None:
    """Refuses loops without anything new, strategies for loops that there are not, and samplers without masks."""
    loops, overlap = config.conditions.loop, config.conditions.condition_frame_length
    if config.sampler.sampling == "dpm-solver" and (loops > 1 or any(request.conditions for request in requests)):
        raise UserError("sampling=dpm-solver keeps no given frames; use ddpm or ddim with references and loops")
    for request in requests:
        late = [group for group in request.conditions.groups if group.loop >= loops]
        if late:
            raise UserError(f"mask_strategy={late[0]} belongs to loop {late[0].loop}; use --loop {late[0].loop + 1}")
        if loops > 1 and request.size[0] <= overlap:
            raise UserError(
                f"loop={loops}: clips of {request.size[0]} frames that begin with {overlap} frames of the one before "
                "have nothing new; use more num_frames, or a smaller condition_frame_length"
            )
        if loops > 1 and config.conditions.reuse_latents and chunk and request.size[0] % chunk:
            raise UserError(
                f"reuse_latents needs num_frames in chunks of the autoencoder, {chunk} frames each, so that a clip "
                f"ends with a whole one; {request.size[0]} are not"
            )
