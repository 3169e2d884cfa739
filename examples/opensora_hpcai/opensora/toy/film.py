"""A film of twelve toy scenes: cuts, fades and dissolves, burnt-in text in two, black bars in one, one shown twice.

`make_toy_film` writes it beside a broken file and a table of the truth, or holds what ``opensora data run`` has made of
them against that truth.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from mindone.checkpoint.atomic import atomic_write
from mindone.data.write import write_video
from mindone.errors import UserError
from opensora.config.toy import ToyFilmConfig
from opensora.toy.endpoint import right
from opensora.toy.world import Scene, clip

SCENES = 12
TEXTS, BARS, FIRST_SHOWN, SHOWN_AGAIN = (3, 8), 5, 1, 10
FADES = (4, 9)
"""Scenes that begin and end in black where they meet the one before."""
DISSOLVES = {2: 4, 7: 8}
"""Scenes that the one before is mixed into, and in how many frames."""
FLAWS = {**dict.fromkeys(TEXTS, "text"), BARS: "bars", SHOWN_AGAIN: "duplicate"}
"""Why scenes are not to be trained on."""
FILM, BROKEN, TRUTH = "film.mp4", "broken.mp4", "truth.csv"
COLUMNS = ("scene", "start_frame", "end_frame", "flaw", "shows")


class MadeFilm(NamedTuple):
    """Where it is, the first frame of each scene and the one after its last, and what the scenes show."""

    path: Path
    bounds: list[tuple[int, int]]
    shown: list[Scene]


def make_toy_film(config: ToyFilmConfig) -> list[str]:
    """Writes the folder of the film, or prints how what was made of it differs from the truth.

    Returns:
        A sentence for each difference.
    Raises:
        UserError: a folder is not what it has to be, or there are differences.
    """
    folder = Path(config.output)
    if config.prepared is None:
        film = make_film(folder / FILM, config.seconds, config.image_size, config.fps)
        (folder / BROKEN).write_bytes(b"this is not a film")
        _write_truth(folder / TRUTH, film)
        print(f"{film.path}: {SCENES} scenes, {film.bounds[-1][1]} frames; {folder / TRUTH} says what is in it")
        return []
    wrong = list(differences(_rows(folder / TRUTH), Path(config.prepared)))
    if wrong:
        raise UserError(f"{config.prepared} differs from the truth in {len(wrong)} places: {'; '.join(wrong)}")
    print(f"{SCENES} scenes to the frame, {len(FLAWS)} of them and {BROKEN} rejected for their flaws, captions right")
    return wrong


def make_film(path: Path, seconds: float = 30.0, size: int = 128, fps: float = 8) -> MadeFilm:
    """Draws and writes the film; the scenes differ in length by a few frames."""
    lengths = [round(seconds * fps / SCENES) + number % 3 - 1 for number in range(SCENES)]
    parts = [_scene(number, length, size) for number, length in enumerate(lengths)]
    for number in FADES:
        _fade(parts[number - 1][-6:], np.linspace(0.8, 0, 6))
        _fade(parts[number][:6], np.linspace(0, 0.8, 6))
    for number, mixed in DISSOLVES.items():
        _dissolve(parts[number - 1], parts[number], mixed)
    write_video(path, np.concatenate(parts), fps)
    ends = np.cumsum(lengths).tolist()
    shown = [clip(11, FIRST_SHOWN if number == SHOWN_AGAIN else number).scene for number in range(SCENES)]
    return MadeFilm(path, list(zip([0, *ends[:-1]], ends)), shown)


def _scene(number: int, length: int, size: int) -> np.ndarray:
    if number == SHOWN_AGAIN:
        return _scene(FIRST_SHOWN, length, size)
    frames = clip(11, number, num_frames=length, image_size=size).frames.astype(np.float32)
    # each scene has its own light, as films have
    frames = np.clip(frames + np.array([(40, 0, 0), (0, 60, 0), (0, 0, 80), (60, 60, 20)][number % 4]), 0, 255)
    frames = frames.astype(np.uint8)
    if number in TEXTS:
        for frame in frames:
            cv2.putText(frame, "BREAKING", (6, size - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.75, (255, 255, 255), 2)
    if number == BARS:
        frames[:, : size // 8] = frames[:, -size // 8 :] = 0
    return frames


def _fade(frames: np.ndarray, light: np.ndarray) -> None:
    frames[:] = (frames * light[:, None, None, None]).astype(np.uint8)


def _dissolve(before: np.ndarray, after: np.ndarray, mixed: int) -> None:
    """Half of ``mixed`` frames lie in each scene; both stand still meanwhile where they have no more of their own."""
    shares = np.linspace(0, 1, mixed + 2)[1:-1, None, None, None]
    half = mixed // 2
    old = np.concatenate([before[-half:], np.repeat(before[-1:], half, 0)])
    new = np.concatenate([np.repeat(after[:1], half, 0), after[:half]])
    both = ((1 - shares) * old + shares * new).astype(np.uint8)
    before[-half:], after[:half] = both[:half], both[half:]


# --- what is in it, and what was found -------------------------------------------------------------------------------


def _write_truth(path: Path, film: MadeFilm) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for number, (bounds, shown) in enumerate(zip(film.bounds, film.shown)):
        writer.writerow([number, *bounds, FLAWS.get(number, ""), " ".join(shown)])
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise UserError(f"{path} is missing; the first call of the tool, without --prepared, writes the film and it")
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def differences(truth: list[dict[str, str]], prepared: Path) -> Iterator[str]:
    """Sentences on what the tables of ``configs/data/films_to_table.yaml`` in a folder have wrong.

    Raises:
        UserError: a table is missing.
    """
    scenes, table = _rows(prepared / "03_scenes.csv"), _rows(prepared / "table.csv")
    broken, rejected = (_rows(prepared / f"{number}_rejected.csv") for number in ("02", "07"))
    found, wanted = ([(row["start_frame"], row["end_frame"]) for row in rows] for rows in (scenes, truth))
    if found != wanted:
        yield f"scenes are {found} and not {wanted}"
    if [row["video"] for row in broken] != [BROKEN] or not broken[0]["problem"]:
        yield f"{prepared / '02_rejected.csv'} has to have {BROKEN} alone, with its problem"
    flaws = {row["scene"]: row["flaw"] for row in truth if row["flaw"]}
    seen = {row["scene"]: ", ".join(flaws_of(row)) for row in rejected}
    if seen != flaws:
        yield f"rejected are {seen} and not {flaws}"
    kept = [row["scene"] for row in truth if not row["flaw"]]
    if [row["scene"] for row in table] != kept:
        yield f"the table has the scenes {[row['scene'] for row in table]} and not {kept}"
    shows = {row["scene"]: row["shows"] for row in truth}
    for row in table:
        if not right(row, shows.get(row["scene"], "").split()):
            yield f"scene {row['scene']} shows {shows.get(row['scene'])}, and its caption is {row['caption']}"


def flaws_of(row: Mapping[str, str]) -> list[str]:
    """What the scores of a clip say against it, as in `FLAWS`."""
    found = {
        "text": int(row.get("ocr") or 0) > 0,
        "bars": float(row.get("bars") or 0) > 0.05,
        "duplicate": bool(row.get("duplicate_of")),
    }
    return [flaw for flaw, is_there in found.items() if is_there]
