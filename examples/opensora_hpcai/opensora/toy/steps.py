"""Steps that are done once: a folder remembers which ones are done, and what from."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mindone.checkpoint.files import read_json
from mindone.errors import UserError
from opensora.outputs import write_json

logger = logging.getLogger(__name__)

STATE = "steps.json"


@dataclass
class _Step:
    """What a step was made from, and the seconds that it took; None if it was not finished."""

    made_from: str
    seconds: float | None = None


class Steps:
    """The steps of a folder.

    Raises:
        UserError: the folder has files, but none of steps; or its record cannot be read.
    """

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / STATE
        if folder.exists() and not folder.is_dir():
            raise UserError(f"output={folder} is a file; give a folder")
        if not self.file.is_file() and folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"output={folder} has files that are not of a benchmark; give another folder")
        folder.mkdir(parents=True, exist_ok=True)
        self.steps: dict[str, _Step] = {}
        for name, values in (read_json(self.file, "the record of steps") if self.file.is_file() else {}).items():
            try:
                self.steps[name] = _Step(str(values["made_from"]), values["seconds"])
            except (TypeError, KeyError):
                raise UserError(f"{self.file} is damaged; delete it, and all steps are done again") from None

    def do(self, name: str, made_from: str, run: Callable[[bool], object], after: Sequence[str] = ()) -> None:
        """Does a step unless it is done.

        Args:
            made_from: settings, as text; where the folder is makes no difference.
            run: is told whether what is there, whole or not, is of other settings or other earlier steps.
            after: earlier steps that it depends on.
        """
        text = "\n".join([made_from.replace(str(self.folder), ""), *(self.steps[other].made_from for other in after)])
        digest = hashlib.sha256(text.encode()).hexdigest()
        before = self.steps.get(name)
        if before and before.made_from == digest and before.seconds is not None:
            logger.info("%s: done", name)
            return
        logger.info("%s", name)
        self.steps[name] = _Step(digest)
        self._write()
        begun = time.monotonic()
        run(before is not None and before.made_from != digest)
        self.steps[name].seconds = round(time.monotonic() - begun, 1)
        self._write()

    def seconds(self) -> dict[str, float]:
        """How long the steps took, those that went on after a stop from there."""
        return {name: step.seconds for name, step in self.steps.items() if step.seconds is not None}

    def _write(self) -> None:
        write_json(self.file, {name: asdict(step) for name, step in self.steps.items()})
