"""From latents to files: videos or pictures, a JSON file beside each, and a contact sheet of them all."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from mindone import runtime
from mindone.data.write import to_uint8, write_contact_sheet
from opensora import networks, outputs
from opensora.generate.plan import Plan, autoencoder_changes
from opensora.generate.results import Result, Texts, record

SHEET_COLUMNS = 6


def decode(plan: Plan, texts: Texts, results: Sequence[Result]) -> None:
    """Decodes and writes one video after the other, and a contact sheet of them all."""
    config, settings = plan.config, plan.config.autoencoder
    autoencoder = networks.load_autoencoder(
        settings.vae_checkpoint,
        plan.family.autoencoder_preset,
        settings.vae_dtype,
        allow_random=config.denoiser.allow_random_weights,
        **autoencoder_changes(config),
    )
    fps = config.sampler.fps / config.sampler.frame_interval
    clips = []
    for result in tqdm(results, desc="decode", disable=not runtime.current().is_main):
        started = time.perf_counter()
        frames = to_uint8(autoencoder.decode(result.latents[None], plan.size[0]).asnumpy()[0])
        stem = outputs.free_stem(plan.folder, result.job.stem)
        result.video = outputs.write_clip(plan.folder, stem, frames, config.output.save_format, fps)
        result.seconds["decode"] = time.perf_counter() - started
        outputs.write_json(plan.folder / f"{stem}.json", record(plan, texts, result))
        clips.append(frames[np.linspace(0, len(frames) - 1, min(SHEET_COLUMNS, len(frames))).round().astype(int)])
    sheet = plan.folder / f"{outputs.free_stem(plan.folder, _sheet_name())}.png"
    captions = [f"{plan.prompts[result.job.row].text}\nseed {result.job.seed}" for result in results]
    write_contact_sheet(sheet, clips, captions, columns=SHEET_COLUMNS)


def _sheet_name() -> str:
    current = runtime.current()
    return "contact_sheet" if current.world_size == 1 else f"contact_sheet_rank{current.rank}"
