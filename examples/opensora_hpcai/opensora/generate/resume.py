"""Which videos are there already, and under which names the others are written.

A result's JSON file says what it was made from, and whether it is finished: it is written before the video with
``finished: false`` and again after it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from opensora import outputs
from opensora.generate.plan import Job, Plan
from opensora.generate.results import Result, made_from

logger = logging.getLogger(__name__)

LATENTS_FOLDER = "denoised_latents"


def result_folder(plan: Plan) -> Path:
    """Where the files of results are: those of latents have a folder of their own."""
    return plan.folder if plan.config.output.use_vae_decode else plan.folder / LATENTS_FOLDER


def finished_before(plan: Plan) -> tuple[Plan, list[Result]]:
    """The plan without jobs whose videos are there, made from the same, and these.

    A seed that nobody chose does not have to be the same.
    """
    if plan.config.output.overwrite:
        return plan, []
    there = {job: _finished(plan, job) for job in plan.jobs}
    results = [result for result in there.values() if result]
    if results:
        logger.info("%d of %d are finished already; --overwrite True makes them anew", len(results), len(plan.jobs))
    return replace(plan, jobs=[job for job in plan.jobs if not there[job]]), results


def _finished(plan: Plan, job: Job) -> Result | None:
    name = "video" if plan.config.output.use_vae_decode else "latents"
    for file, found in _records(result_folder(plan), job.stem):
        if not found.get("finished") or not isinstance(found.get(name), str) or not _is_same(plan, job, found):
            continue
        made = file.parent / Path(found[name]).name
        if made.exists():
            job = replace(job, seed=found["seed"])
            return Result(job, None, made if name == "video" else None, made if name == "latents" else None)
    return None


def own_stem(plan: Plan, job: Job, folder: Path) -> str:
    """The name for a job's files: that of an unfinished try, or of any with ``overwrite``, else one that is free."""
    if plan.config.output.overwrite:
        return job.stem
    for file, found in _records(folder, job.stem):
        if found.get("finished") is False and _is_same(plan, job, found):
            return file.stem
    return outputs.free_stem(folder, job.stem)


def _is_same(plan: Plan, job: Job, found: dict[str, Any]) -> bool:
    before, now = found.get("made_from"), made_from(plan, job)
    if not isinstance(before, dict) or type(found.get("seed")) is not int:
        return False
    if not plan.chosen_seed and plan.request(job).seed is None:
        before, now = ({**values, "seed": None} for values in (before, now))
    return before == now


def _records(folder: Path, stem: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """JSON files ``stem``, ``stem-2``... that can be read."""
    pattern = re.compile(re.escape(stem) + r"(-\d+)?\.json")
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    for file in files:
        if not pattern.fullmatch(file.name):
            continue
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield file, found
