"""From latents to files: videos or pictures, a JSON file beside each, and a contact sheet of them all."""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mindone import runtime
from mindone.data.write import to_uint8, write_contact_sheet
from mindone.parallel.heartbeat import beat
from mindone.parallel.mesh import Mesh
from mindone.progress import progress_bar
from opensora import networks, outputs
from opensora.failures import require_finite, within_memory
from opensora.generate.loops import Film
from opensora.generate.plan import Job, Plan, autoencoder_changes
from opensora.generate.references import Latents
from opensora.generate.results import Result, record
from opensora.generate.resume import own_stem
from opensora.generate.texts import Texts

if TYPE_CHECKING:
    from opensora.models.autoencoder import Autoencoder

SHEET_COLUMNS = 6


def load_autoencoder(plan: Plan) -> Autoencoder:
    """The autoencoder, whose chunks, micro batches and tiles the ranks that share a video share as well."""
    config = plan.config
    with within_memory(f"the autoencoder in {config.autoencoder.vae_dtype}", "use vae_dtype bf16 on an NPU"):
        autoencoder = networks.load_autoencoder(
            config.autoencoder.vae_checkpoint,
            plan.family.autoencoder_preset,
            config.autoencoder.vae_dtype,
            allow_random=config.denoiser.allow_random_weights,
            **autoencoder_changes(config),
        )
    autoencoder.share(plan.mesh)
    return autoencoder


def decode(plan: Plan, texts: Texts, results: Sequence[Result], films: dict[Job, Film], loop: int = 0) -> Latents:
    """Decodes the clips of a loop, one after the other; writes the videos if it is the last loop.

    Returns:
        Otherwise, per job, the latents that the next clip begins with.
    """
    last, ends = loop == plan.loops - 1, {}
    autoencoder = load_autoencoder(plan)
    for result in progress_bar("decode", results, shown=runtime.current().is_main):
        started = time.perf_counter()
        beat(f"decoding {result.job.stem}")
        video = _decoded(plan, autoencoder, result)
        if last and not plan.writes:
            continue
        film = films.setdefault(result.job, Film(plan.clip_frames))
        film.add(to_uint8(video))
        if last:
            _write(plan, texts, result, film, started)
        else:
            ends[result.job] = [_end(plan, autoencoder, film, result, video, loop + 1)]
            result.took("decode", time.perf_counter() - started)
    del autoencoder
    gc.collect()
    return ends


def _end(plan: Plan, autoencoder: Autoencoder, film: Film, result: Result, video: np.ndarray, loop: int) -> np.ndarray:
    """Latents (C, T', H, W) that the clip number ``loop`` begins with."""
    if plan.config.conditions.reuse_latents:
        count = autoencoder.latent_size((film.overlap, *video.shape[2:]))[0]
        return result.latents[:, -count:]
    return film.encoded_end(autoencoder, video, result.job.seed, loop)


def _decoded(plan: Plan, autoencoder: Autoencoder, result: Result) -> np.ndarray:
    """The clip (3, T, height, width) of a result."""
    frames, height, width = plan.size(result.job)
    remedy = "use a smaller vae_micro_batch_size, fewer frames, or vae_dtype bf16 on an NPU"
    with within_memory(f"decoding {frames} frames of {height}x{width} pixels", remedy):
        video = autoencoder.decode(result.latents[None], frames).asnumpy()[0]
    dtype = plan.config.autoencoder.vae_dtype
    require_finite(
        video,
        f"in the decoded video {result.job.stem} ({dtype})",
        "try vae_dtype fp32, or check the autoencoder's weights",
    )
    return video


def _write(plan: Plan, texts: Texts, result: Result, film: Film, started: float) -> None:
    """The record, unfinished; the video; the record, finished."""
    stem = own_stem(plan, result.job, plan.folder)
    place = plan.folder / f"{stem}.json"
    outputs.write_json(place, record(plan, texts, result, finished=False))
    frames = film.frames
    result.video = outputs.write_clip(plan.folder, stem, frames, plan.config.output.save_format, plan.saved_fps)
    result.took("decode", time.perf_counter() - started)
    outputs.write_json(place, record(plan, texts, result))
    film.shrink(SHEET_COLUMNS)


def write_sheet(plan: Plan, results: Sequence[Result], films: dict[Job, Film]) -> None:
    """A contact sheet of the videos that were made."""
    sheet = plan.folder / f"{outputs.free_stem(plan.folder, _sheet_name(plan.mesh))}.png"
    captions = [f"{plan.request(result.job).text}\nseed {result.job.seed}" for result in results]
    write_contact_sheet(sheet, [films[result.job].frames for result in results], captions, columns=SHEET_COLUMNS)


def _sheet_name(mesh: Mesh) -> str:
    return "contact_sheet" if mesh.data == 1 else f"contact_sheet_rank{mesh.rank}"
