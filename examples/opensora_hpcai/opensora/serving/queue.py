"""Videos that wait, are made one after the other by a worker process, and stay: all of it on disk.

A job is in the queue once its file is on disk, and leaves it when its file says so; a queue that is opened on the
folder of an earlier one goes on with what waited there, and begins anew what was being made.
"""

from __future__ import annotations

import fcntl
import logging
import secrets
import shutil
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from mindone.checkpoint.atomic import UNFINISHED, remove_folder, require_writable
from mindone.errors import UserError
from opensora.serving.jobs import VideoJob, new_job, read_jobs, write_job
from opensora.serving.process import WorkerFailed, WorkerProcess
from opensora.serving.settings import FIXED, REFERENCES, SUFFIXES, command_line, require_settings

logger = logging.getLogger(__name__)

SEEDS = 2**31
LOCK_FILE = ".lock"


class QueueFull(Exception):
    """No more videos may wait."""


class VideoQueue:
    """The jobs of a folder and the thread that has them made.

    Args:
        models: recipes by name; the first is the usual one.
        limit: jobs that may wait.
        preview_every: steps between previews, 0: none.
    """

    def __init__(
        self,
        folder: str | Path,
        models: Mapping[str, str],
        worker: WorkerProcess,
        limit: int = 64,
        preview_every: int = 0,
    ):
        self.folder, self.models, self.limit = Path(folder).absolute(), dict(models), limit
        self._worker, self._preview_every = worker, preview_every
        require_writable(self.folder)
        self._lock = _locked(self.folder)
        self._changed = threading.Condition(threading.RLock())
        self._jobs = {job.id: job for job in read_jobs(self.folder)}
        self._running: str | None = None
        self._cancelled: set[str] = set()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="videos", daemon=True)

    def start(self) -> None:
        """Begins to make what waits."""
        waiting = len(self._waiting())
        if waiting:
            logger.info("%d videos wait in %s and are made now", waiting, self.folder)
        self._thread.start()

    def close(self) -> None:
        """Ends the worker; what it was making waits again, on disk."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._worker.stop()
        if self._thread.is_alive():
            self._thread.join()
        self._worker.close()
        self._lock.close()

    # --- what others ask ---------------------------------------------------------------------------------------------

    def submit(
        self, model: str | None, settings: Mapping[str, Any], references: Sequence[tuple[str, BinaryIO]] = ()
    ) -> VideoJob:
        """Puts a video into the queue.

        Args:
            model: one of `models`; the first if it is None.
            settings: by label, of those that `opensora.serving.settings` leaves open.
            references: names and contents of given pictures and clips; of a name only the ending counts.
        Raises:
            UserError: an unknown model, or settings that cannot be.
            QueueFull: too many wait.
        """
        model = model or next(iter(self.models))
        if model not in self.models:
            raise UserError(f"model={model} is not served here; use one of {', '.join(self.models)}")
        settings = {"seed": secrets.randbelow(SEEDS), **{k: v for k, v in settings.items() if v is not None}}
        require_settings(self.models[model], settings)
        names = [_reference_name(number, name) for number, (name, _) in enumerate(references)]
        job = new_job(model, settings, names)
        with self._changed:
            if len(self._waiting()) >= self.limit:
                raise QueueFull(f"{self.limit} videos wait already; ask again later")
            self._write_new(job, [content for _, content in references])
            self._jobs[job.id] = job
            self._changed.notify_all()
        return job

    def get(self, job_id: str) -> VideoJob | None:
        """The job of a name, if there is one."""
        with self._changed:
            return self._jobs.get(job_id)

    def jobs(self) -> list[VideoJob]:
        """All jobs, the oldest first."""
        with self._changed:
            return list(self._jobs.values())

    def progress(self, job: VideoJob) -> float:
        """How much of a job is done, 0 to 1."""
        if job.is_over:
            return float(job.status == "completed")
        with self._changed:
            return self._worker.progress() if self._running == job.id else 0.0

    def place(self, job: VideoJob) -> int | None:
        """How many jobs are made before one that waits."""
        waiting = self._waiting()
        return waiting.index(job.id) if job.id in waiting else None

    def file(self, job: VideoJob) -> Path | None:
        """The video of a job, once it is there."""
        path = self.folder / job.id / Path(job.video).name if job.video else None
        return path if path and path.is_file() else None

    def preview(self, job: VideoJob) -> Path | None:
        """The newest picture of a job that is being made."""
        pictures = (self.folder / job.id / "previews").glob("[!.]*.png")
        return max(pictures, key=lambda path: path.stat().st_mtime_ns, default=None)

    def cancel(self, job_id: str) -> VideoJob | None:
        """Takes a job out of the queue, or stops it; one that is over stays as it is."""
        with self._changed:
            job = self._jobs.get(job_id)
            if job is None or job.is_over:
                return job
            if self._running == job_id:
                self._cancelled.add(job_id)
                self._worker.stop()
                self._changed.wait_for(lambda: self._running != job_id)
                return self._jobs.get(job_id)
            return self._keep(replace(job, status="cancelled", completed_at=time.time()))

    def delete(self, job_id: str) -> bool:
        """Cancels a job and removes it with its files; returns whether there was one."""
        with self._changed:
            self.cancel(job_id)
            if self._jobs.pop(job_id, None) is None:
                return False
        remove_folder(self.folder / job_id)
        return True

    # --- making ------------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting())
                if self._closing:
                    return
                job = self._jobs[self._waiting()[0]]
                self._running = job.id
                # On disk it still waits: so it does after a crash.
                job = self._jobs[job.id] = replace(job, status="in_progress", started_at=time.time())
            changes = self._make(job)
            with self._changed:
                if job.id in self._cancelled and changes["status"] != "completed":
                    changes = {"status": "cancelled"}
                if self._closing and changes["status"] == "failed":
                    self._jobs[job.id] = replace(job, status="queued", started_at=None)
                else:
                    self._keep_if_possible(replace(job, **changes, completed_at=time.time()))
                self._cancelled.discard(job.id)
                self._running = None
                self._changed.notify_all()

    def _make(self, job: VideoJob) -> dict[str, Any]:
        """What changes of a job once its video is made, or could not be."""
        try:
            argv = self.arguments(job)
            made = self._worker.ask("generate", argv, lambda: not self._closing and job.id not in self._cancelled)
            return {"status": "completed", "video": Path(made["video"]).name}
        except UserError as error:
            return {"status": "failed", "error": str(error)}
        except WorkerFailed as error:
            self._remove_leftovers(job)
            return {"status": "failed", "error": f"the video could not be made: {error}"}
        except Exception as error:
            logger.exception("%s failed", job.id)
            return {"status": "failed", "error": f"the video could not be made: {type(error).__name__}"}

    def arguments(self, job: VideoJob) -> list[str]:
        """The command line that makes a job's video.

        Raises:
            UserError: its model is served no more.
        """
        if job.model not in self.models:
            raise UserError(f"model={job.model} is not served any more; use one of {', '.join(self.models)}")
        own = {**FIXED, "output_path": str(self.folder / job.id), "preview_every": self._preview_every}
        if job.references:
            own[REFERENCES] = ";".join(str(self.folder / job.id / name) for name in job.references)
        return command_line(self.models[job.model], {**job.settings, **own})

    def _waiting(self) -> list[str]:
        return [job.id for job in self.jobs() if job.status == "queued"]

    def _keep(self, job: VideoJob) -> VideoJob:
        write_job(self.folder, job)
        self._jobs[job.id] = job
        return job

    def _keep_if_possible(self, job: VideoJob) -> None:
        try:
            self._keep(job)
        except UserError as error:
            # It is known until the end, and made again after the next start.
            logger.error("%s: %s", job.id, error)
            self._jobs[job.id] = job

    def _write_new(self, job: VideoJob, contents: Sequence[BinaryIO]) -> None:
        folder = self.folder / job.id
        try:
            folder.mkdir()
            for name, content in zip(job.references, contents):
                with open(folder / name, "xb") as file:
                    shutil.copyfileobj(content, file)
            write_job(self.folder, job)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _remove_leftovers(self, job: VideoJob) -> None:
        for path in (self.folder / job.id).rglob(f"{UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _locked(folder: Path) -> TextIO:
    """A file that keeps other queues out of a folder while it is open."""
    file = open(folder / LOCK_FILE, "w")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise UserError(f"output_path={folder} is in use by another page or server; give another folder") from error
    return file


def _reference_name(number: int, name: str) -> str:
    suffix = Path(name).suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"the reference {Path(name).name!r} is no picture or video; use one of {', '.join(SUFFIXES)}")
    return f"reference-{number}{suffix}"
