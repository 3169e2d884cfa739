"""Where the numbers of a training run go: the screen, ``result.log``, TensorBoard. Only the main rank has any."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

logger = logging.getLogger(__name__)

RESULT_LOG, VALIDATION_LOG = "result.log", "validation.log"
COLUMNS = ("step", "loss", "lr", "grad_norm", "train_time(s)", "size")


@dataclass(frozen=True)
class Record:
    """The numbers of one update: float32 values as they are printed, so that equal text means equal bits."""

    step: int
    """finished updates, from 1"""
    epoch: int
    loss: float
    grad_norm: float
    lr: float
    seconds: float
    """duration of the update, with loading"""
    samples_per_second: float = 0.0
    """mean over the last updates, without compilation; 0 while nothing but the compilation was measured"""
    eta: float = 0.0
    """seconds that are left"""
    parts: Mapping[str, float] = field(default_factory=dict)
    """parts of the loss, by name"""
    size: str = "-"
    """of the samples, ``17x64x96``"""


class Tracker(Protocol):
    def log(self, record: Record) -> None:
        """Takes note of an update."""

    def picture(self, step: int, name: str, png: Path) -> None:
        """Takes note of a picture."""

    def values(self, step: int, values: Mapping[str, float]) -> None:
        """Takes note of further numbers by name, such as the loss of a validation."""

    def close(self) -> None: ...


class Trackers:
    """Several trackers as one; none on ranks other than the main one."""

    def __init__(self, trackers: Sequence[Tracker] = ()):
        self.trackers = list(trackers)

    def log(self, record: Record) -> None:
        for tracker in self.trackers:
            tracker.log(record)

    def picture(self, step: int, name: str, png: Path) -> None:
        for tracker in self.trackers:
            tracker.picture(step, name, png)

    def values(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in self.trackers:
            tracker.values(step, values)

    def close(self) -> None:
        for tracker in self.trackers:
            tracker.close()


def duration(seconds: float) -> str:
    """``1:02:03``, or ``02:03`` below an hour."""
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes:02d}:{seconds:02d}"


class ScreenTracker:
    """A log line every ``interval`` updates, with the means of loss and parts since the line before."""

    def __init__(self, total_steps: int, interval: int):
        self.total_steps, self.interval = total_steps, interval
        self._since: list[Record] = []

    def log(self, record: Record) -> None:
        self._since.append(record)
        if record.step % self.interval and record.step != self.total_steps:
            return
        count = len(self._since)
        parts = {name: sum(each.parts[name] for each in self._since) / count for name in record.parts}
        columns = [
            f"step {record.step}/{self.total_steps}",
            f"epoch {record.epoch}",
            f"loss {sum(each.loss for each in self._since) / count:.5f}",
            *(f"{name} {value:.5f}" for name, value in parts.items()),
            f"grad_norm {record.grad_norm:.3f}",
            f"lr {record.lr:.2e}",
        ]
        if record.samples_per_second:
            columns += [f"{record.samples_per_second:.1f} samples/s", f"eta {duration(record.eta)}"]
        logger.info("  ".join(columns))
        self._since.clear()

    def picture(self, step: int, name: str, png: Path) -> None:
        logger.info("step %d: %s", step, png)

    def values(self, step: int, values: Mapping[str, float]) -> None:
        logger.info("step %d: %s", step, "  ".join(f"{name} {value:.5f}" for name, value in values.items()))

    def close(self) -> None: ...


def lines_until(path: Path, step: int) -> list[str]:
    """Of a table whose first column is the step, the header and the whole lines up to ``step``; none of a new run."""
    if not step or not path.is_file():
        return []
    header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    kept = [row for row in rows if row.split("\t")[0].isdigit() and int(row.split("\t")[0]) <= step]
    return [header, *(row for row in kept if row.endswith("\n"))]


class ResultLog:
    """``result.log``: a header and one line per update, separated by tabs.

    A run that is resumed goes on below the lines that led to its checkpoint; lines of updates that were lost with the
    interruption are dropped.
    """

    def __init__(self, folder: Path, resumed_at: int = 0):
        self.path = folder / RESULT_LOG
        lines = lines_until(self.path, resumed_at)
        self.path.write_text("".join(lines or ["\t".join(COLUMNS) + "\n"]), encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115

    def log(self, record: Record) -> None:
        values = (record.step, record.loss, f"{record.lr:.9g}", record.grad_norm, f"{record.seconds:.4f}", record.size)
        self._file.write("\t".join(map(str, values)) + "\n")

    def picture(self, step: int, name: str, png: Path) -> None: ...

    def values(self, step: int, values: Mapping[str, float]) -> None: ...

    def close(self) -> None:
        self._file.close()


def has_updates(result_log: Path) -> bool:
    """Whether the log of a run names an update."""
    return result_log.is_file() and len(result_log.read_text(encoding="utf-8").splitlines()) > 1


class TensorBoard:
    """Event files in ``folder/tensorboard``, written without TensorFlow or PyTorch."""

    def __init__(self, folder: Path, interval: int):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self.interval = interval
        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._writer = EventFileWriter(str(folder / "tensorboard"), flush_secs=10)

    def log(self, record: Record) -> None:
        if record.step % self.interval:
            return
        values = {
            "train/loss": record.loss,
            "train/grad_norm": record.grad_norm,
            "train/learning_rate": record.lr,
            "speed/samples_per_second": record.samples_per_second,
            **{f"train/{name}": value for name, value in record.parts.items()},
        }
        self.values(record.step, values)

    def values(self, step: int, values: Mapping[str, float]) -> None:
        self._add(step, [self._summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])

    def picture(self, step: int, name: str, png: Path) -> None:
        from PIL import Image

        with Image.open(png) as image:
            size = {"width": image.width, "height": image.height}
        picture = self._summary.Image(encoded_image_string=png.read_bytes(), colorspace=3, **size)
        self._add(step, [self._summary.Value(tag=name, image=picture)])

    def _add(self, step: int, values: list) -> None:
        self._writer.add_event(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        self._writer.close()


def make_trackers(folder: Path, total_steps: int, log_interval: int, resumed_at: int = 0) -> Trackers:
    """All trackers of a run in its folder."""
    return Trackers(
        [ScreenTracker(total_steps, log_interval), ResultLog(folder, resumed_at), TensorBoard(folder, log_interval)]
    )
