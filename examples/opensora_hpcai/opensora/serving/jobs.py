"""A video that somebody asked for, and the file that remembers it: ``FOLDER/ID/job.json``."""

from __future__ import annotations

import json
import logging
import secrets
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from opensora import outputs

logger = logging.getLogger(__name__)

Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
JOB_FILE = "job.json"


@dataclass(frozen=True)
class VideoJob:
    """A request and what became of it; times are seconds since the epoch.

    ``settings`` are values of `opensora.config.GenerateConfig` by label, beside those of the model's recipe.
    ``references`` and ``video`` are names of files in the job's folder. What is in progress is still queued on disk.
    """

    id: str
    model: str
    settings: dict[str, Any]
    created_at: float
    references: list[str] = field(default_factory=list)
    status: Status = "queued"
    started_at: float | None = None
    completed_at: float | None = None
    video: str | None = None
    error: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it."""
        return self.status in ("completed", "failed", "cancelled")


def new_job(model: str, settings: dict[str, Any], references: list[str]) -> VideoJob:
    """A job with a name of its own."""
    return VideoJob(f"video_{secrets.token_hex(12)}", model, settings, time.time(), references)


def write_job(folder: Path, job: VideoJob) -> None:
    """Writes a job into the folder of its name."""
    outputs.write_json(folder / job.id / JOB_FILE, asdict(job))


def read_jobs(folder: Path) -> list[VideoJob]:
    """The jobs of a folder, the oldest first; what cannot be read is left out with a warning."""
    jobs = []
    for file in sorted(folder.glob(f"*/{JOB_FILE}")):
        try:
            jobs.append(_job_of(json.loads(file.read_text(encoding="utf-8")), file.parent.name))
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            logger.warning("%s is left out: it is no video job (%s)", file, error)
    return sorted(jobs, key=lambda job: (job.created_at, job.id))


def _job_of(values: dict[str, Any], name: str) -> VideoJob:
    job = VideoJob(**{own.name: values[own.name] for own in fields(VideoJob)})
    if job.id != name or not isinstance(job.settings, dict) or not isinstance(job.created_at, int | float):
        raise ValueError("its entries do not fit")
    return job
