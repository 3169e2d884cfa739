"""What `opensora data index`, `scenes` and `score` cost beside the libraries that do their work, called by hand.

Both sides take turns as in `bench.py`, in one process each; a verb has further ones with ``--workers``. It writes
its table and its journal as ever, and may take 1 / 0.85 times as long as the library alone.

python benchmarks/curation.py [--cases scenes ...] [--json out.json]
"""

from __future__ import annotations

import contextlib
import io
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import av
import cv2
import numpy as np
from bench import Case, RatioConfig, compare

from mindone.config import parse, require_at_least
from mindone.data.write import write_video
from mindone.errors import UserError, guarded
from opensora.cli import open_door

LIMIT = 1 / 0.85
# Of each case, named by its verb, how many films there are, and their frames, height and width.
FILMS = {
    "index": (100, (48, 360, 640)),
    "index_tiny": (200, (9, 64, 64)),
    "scenes": (1, (240, 360, 640)),
    "scenes_films": (4, (480, 360, 640)),
    "score": (2, (60, 360, 640)),
}
FPS = 24


@dataclass
class CurationConfig(RatioConfig):
    """Settings of this benchmark."""

    cases: list[str] = field(default_factory=lambda: list(FILMS))
    """cases to measure"""
    workers: int = 0
    """processes of the verbs, whose start is measured too; 0: none but this one"""

    def check(self) -> None:
        super().check()
        require_at_least(self, workers=0)
        for name in self.cases:
            if name not in FILMS:
                raise UserError(f"there is no case {name}; use {', '.join(FILMS)}")


def make_films(folder: Path, name: str) -> list[Path]:
    """Films of two scenes of coloured noise that moves, and a table of them, ``films.csv``."""
    count, (frames, height, width) = FILMS[name]
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (2, height // 8, width // 4, 3)).astype(np.uint8)
    scenes = [cv2.resize(each, (2 * width, height), interpolation=cv2.INTER_CUBIC) for each in small]
    video = np.stack([scenes[2 * at // frames][:, at % width : at % width + width] for at in range(frames)])
    write_video(folder / "0.mp4", video, FPS)
    paths = [folder / f"{number}.mp4" for number in range(count)]
    for path in paths[1:]:
        path.write_bytes(paths[0].read_bytes())
    (folder / "films.csv").write_text("".join(f"{line}\n" for line in ["video", *(path.name for path in paths)]))
    return paths


def verb_case(name: str, folder: Path, workers: int = 0) -> Case:
    """A verb on films in ``folder`` against a loop over its library."""
    verb, paths = name.partition("_")[0], make_films(folder, name)
    numbers = itertools.count()

    def ours() -> Path:
        output = folder / f"out{next(numbers)}.csv"
        table = ["--table", str(folder / "films.csv")]
        films = ["--inputs", str(folder), "--probe", "header"] if verb == "index" else table
        more = [*(["--scores", "flow"] if verb == "score" else []), "--workers", str(workers)]
        with contextlib.redirect_stdout(io.StringIO()):
            where = ["--video_folder", str(folder), "--output", str(output)]
            open_door(f"data {verb}", [*films, *where, *more], "opensora")
        return output

    library, versus = LIBRARIES[verb]
    count, size = FILMS[name]
    return Case(f"{count} films of {'x'.join(map(str, size))}", versus, ours, lambda: [library(path) for path in paths])


def header(path: Path) -> tuple[int, int, int]:
    """Frames, height and width by PyAV."""
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        return stream.frames, stream.height, stream.width


def detected(path: Path) -> list[int]:
    """First frames of the scenes after the first one, by PySceneDetect."""
    from scenedetect import AdaptiveDetector, detect

    return [start.frame_num for start, _ in detect(str(path), AdaptiveDetector(min_scene_len=1))][1:]


def flow(path: Path) -> float:
    """Mean optical flow by PyAV and OpenCV, between the frames that the verb takes."""
    from opensora.data_tools.measures import FLOW_SIDE
    from opensora.data_tools.score import FLOW_FRAMES, FLOW_GAP

    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        step = min(FLOW_GAP, max(1, (stream.frames - 1) // (FLOW_FRAMES - 1)))
        frames = [frame.to_ndarray(format="gray") for at, frame in enumerate(film.decode(stream)) if at % step == 0]
    scale = FLOW_SIDE / min(frames[0].shape)
    grey = [cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for frame in frames[:FLOW_FRAMES]]
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    return float(np.mean([np.linalg.norm(dis.calc(a, b, None), axis=-1).mean() for a, b in zip(grey, grey[1:])]))


LIBRARIES: dict[str, tuple[Callable[[Path], object], str]] = {
    "index": (header, "PyAV"),
    "scenes": (detected, "PySceneDetect"),
    "score": (flow, "PyAV, OpenCV"),
}
"""Of each verb, what is called by hand, and its name."""


def cases(names: Sequence[str], workers: int) -> Iterator[tuple[str, Case]]:
    """Each case with films in a folder that is there until the next one is asked for."""
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            yield name, verb_case(name, Path(folder), workers)


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    config = parse(CurationConfig, argv, prog="curation.py", description=__doc__.splitlines()[0])
    return compare(cases(config.cases, config.workers), config, "verb | films | verb, ms | library, ms", LIMIT)


if __name__ == "__main__":
    sys.exit(main())
