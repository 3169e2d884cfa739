"""Texts of all requests as a denoiser is told them: prompts, one per loop where they change, and negative prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opensora.data.cache import read_text, require_same_text
from opensora.failures import within_memory
from opensora.families.base import PromptRules
from opensora.generate.plan import Job, Plan
from opensora.generate.requests import Request
from opensora.text.conditioner import Arrays, Conditioner, picked, stacked
from opensora.text.loops import text_of_loop


@dataclass(frozen=True)
class Texts:
    """Conditioning of all texts, a row each, and the rows of every request.

    ``prompts`` has per request the row for each loop, ``negatives`` per request the row of its negative prompt, or
    None where the family's empty caption stands for it.
    """

    arrays: Arrays
    encoded: list[str]
    prompts: list[list[int]]
    negatives: list[int | None]

    def of(self, jobs: Sequence[Job], loop: int) -> Arrays:
        return picked(self.arrays, [self.prompts[job.row][loop] for job in jobs])

    def negative_of(self, jobs: Sequence[Job]) -> Arrays | None:
        """Those of jobs that either all have a negative prompt or all have none."""
        rows = [self.negatives[job.row] for job in jobs]
        return None if rows[0] is None else picked(self.arrays, rows)

    def encoded_for(self, job: Job) -> list[str]:
        """The different texts that a job's loops are told, in their order."""
        return list(dict.fromkeys(self.encoded[row] for row in self.prompts[job.row]))


def prompt_rules(plan: Plan, request: Request) -> PromptRules:
    """A picture has no frame rate."""
    given = plan.config.prompts
    scores = (given.aesthetic_score, given.motion_score, given.camera_motion)
    says_rate = given.prompt_suffix and request.size[0] > 1
    return PromptRules(*scores, given.caption_cleaning, plan.saved_fps if says_rate else None)


def prepared_texts(plan: Plan, request: Request) -> list[str]:
    """The text of every loop as it is encoded."""
    rules = prompt_rules(plan, request)
    return [plan.family.prepare_prompt(text_of_loop(request.text, loop).strip(), rules) for loop in range(plan.loops)]


def negative_text(plan: Plan, request: Request) -> str | None:
    """The negative prompt as it is encoded; None where there is none, or the network's own caption stands for it."""
    # A distilled network is told the guidance instead.
    if plan.config.sampler.guidance_scale <= 1 or getattr(plan.denoiser_config, "guidance_embed", False):
        return None
    chosen = plan.family.default_negative if request.negative is None else request.negative
    rules = PromptRules(cleaning=plan.config.prompts.caption_cleaning)
    return chosen and plan.family.prepare_prompt(chosen, rules)


def encode_texts(plan: Plan) -> Texts:
    """Conditioning from the caches or from the text encoders, which are dropped again afterwards."""
    given = plan.config.prompts
    prompts = [prepared_texts(plan, request) for request in plan.requests]
    negatives = [negative_text(plan, request) for request in plan.requests]
    to_encode = [] if given.text_embed_folder else [text for texts in prompts for text in texts]
    if not given.negative_embed_folder:
        to_encode += [text for text in negatives if text is not None]
    rows = {text: row for row, text in enumerate(dict.fromkeys(to_encode))}
    conditioner, parts = _encoded(plan, list(rows))
    table = _Rows(conditioner, parts, list(rows))
    if given.text_embed_folder:
        cached = [table.add(asked.cache, asked.text, texts[0]) for asked, texts in zip(plan.requests, prompts)]
        prompt_rows = [[row] * plan.loops for row in cached]
    else:
        prompt_rows = [[rows[text] for text in texts] for texts in prompts]
    if given.negative_embed_folder:
        negative_rows = [
            table.add(asked.negative_cache, asked.negative, text) for asked, text in zip(plan.requests, negatives)
        ]
    else:
        negative_rows = [None if text is None else rows[text] for text in negatives]
    return Texts(stacked(table.parts), table.texts, prompt_rows, negative_rows)


def _encoded(plan: Plan, texts: Sequence[str]) -> tuple[Conditioner, list[Arrays]]:
    """The conditioner, and the arrays of texts that no cache has."""
    config = plan.config
    batch_size = max(1, min(config.sampler.batch_size, len(texts)))
    conditioner = plan.family.conditioner(config.text, plan.denoiser_config, batch_size)
    conditioner.mesh = plan.mesh if config.denoiser.shard_weights else None
    if not texts:
        return conditioner, []
    with within_memory(f"the text encoder in {config.text.t5_dtype}", "use a smaller batch_size, or t5_dtype bf16"):
        arrays = conditioner.encode(texts)
    conditioner.release()
    return conditioner, [arrays]


class _Rows:
    """Rows of texts from the encoder, to which those of cache files are added."""

    def __init__(self, conditioner: Conditioner, parts: list[Arrays], texts: list[str]):
        self.conditioner, self.parts, self.texts = conditioner, parts, texts

    def add(self, path: Path, asked: str | None, prepared: str | None) -> int:
        """The row of a cache file, which has to be that of this text if one is asked for."""
        entry = read_text(path)
        if asked is not None:
            require_same_text(path, entry, asked, prepared)
        self.parts.append(self.conditioner.read(path))
        self.texts.append(entry.encoded or prepared or path.stem)
        return len(self.texts) - 1
