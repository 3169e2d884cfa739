"""``opensora data score``: columns that say how sharp, moving, written over and pleasing videos are."""

from __future__ import annotations

import importlib.util
import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mindone.data.table import relative_path
from mindone.data.video import iter_frames, probe
from mindone.errors import UserError
from opensora.data_tools import likeness, text_boxes
from opensora.data_tools.index import workers_of
from opensora.data_tools.listing import CAPTION, VIDEO
from opensora.data_tools.measures import VmafMotion, black_bars, flow_strength, luma, sharpness, video_hash
from opensora.data_tools.table import Cell, Row, Rows, Tally, open_table, process_rows

if TYPE_CHECKING:
    # worker processes need no schemas, which are a fifth of what they would import
    from opensora.config.curation import ScoresConfig

logger = logging.getLogger(__name__)

COLUMNS = {
    "blur": ("blur",),
    "bars": ("bars", "bar_top", "bar_bottom", "bar_left", "bar_right"),
    "motion": ("score_vmafmotion",),
    "flow": ("flow",),
    "phash": ("phash",),
    "ocr": ("ocr", "text_area", "watermark"),
    "aesthetic": ("aesthetic",),
    "match": ("match",),
    "likeness": (likeness.VECTOR,),
}
"""Of each score, the columns that it fills."""
NETWORKS = ("aesthetic", "match", "likeness")
# Optical flow is taken between so many frames, at most so many apart.
FLOW_FRAMES, FLOW_GAP = 10, 15
LOOKED_AT = (0.1, 0.5, 0.9)
# Away from the ends, which may be black or have something of the next scene.
HASHED_AT = (0.2, 0.5, 0.8)
AT_ONCE = 8


class Look(NamedTuple):
    """What is looked at of a video: frames (N, H, W, 3) uint8 at three relative places, some frames apart, and at the
    places that its hash is of; and the motion of all of it."""

    three: np.ndarray
    flow: np.ndarray
    hashed: np.ndarray
    motion: float


def score(config: ScoresConfig) -> Tally:
    """Writes the table with the columns of the scores that can be measured, and says what the others need.

    Raises:
        UserError: the table cannot be read, or no score can be measured.
    """
    rows = open_table(config.table, [VIDEO])
    needs = {name: missing(name, config, rows) for name in dict.fromkeys(config.scores)}
    for name, need in needs.items():
        if need:
            logger.warning("%s is left out: %s", name, need)
    names = tuple(name for name, need in needs.items() if not need)
    if not names:
        raise UserError("no score can be measured; the messages above say what each of them needs")
    networks = any(name in NETWORKS for name in names)
    own = {
        "root": str(config.video_folder),
        "names": names,
        "clip": str(config.clip) if networks else None,
        "head": str(config.aesthetic_head) if "aesthetic" in names else None,
    }
    tally = process_rows(
        rows,
        partial(score_rows, **own),
        config.output,
        what="score",
        adds=[column for name in names for column in COLUMNS[name]],
        settings=own,
        # networks use all processors by themselves
        workers=0 if networks else workers_of(config.workers),
        at_once=AT_ONCE if networks else 1,
        in_batches=True,
        retry=config.retry,
    )
    print(f"{config.output}: {tally}")
    return tally


def missing(name: str, config: ScoresConfig, rows: Rows) -> str | None:
    """What a score needs and does not have."""
    if name == "ocr" and not all(importlib.util.find_spec(package) for package in ("rapidocr", "onnxruntime")):
        return "install its packages with: pip install 'mindone[curation]'"
    if name in NETWORKS and (config.clip is None or not Path(config.clip).is_dir()):
        return f"download openai/clip-vit-large-patch14 and give its folder as --clip (now {config.clip or 'not set'})"
    if name == "aesthetic" and (config.aesthetic_head is None or not Path(config.aesthetic_head).is_file()):
        return (
            "download sac+logos+ava1-l14-linearMSE.pth of the improved aesthetic predictor and give it as "
            f"--aesthetic_head (it is {config.aesthetic_head or 'not set'})"
        )
    if name == "match" and CAPTION not in rows.columns:
        return f'the table has no column "{CAPTION}"; write captions first'
    return None


def score_rows(
    rows: list[Row], root: str, names: tuple[str, ...], clip: str | None = None, head: str | None = None
) -> list[dict[str, Cell]]:
    """The scores of each row's video.

    Raises:
        UserError: a video cannot be read.
    """
    looks = [look(Path(root, relative_path(row[VIDEO], root, "the table")), "motion" in names) for row in rows]
    found = [plain_scores(each, names) for each in looks]
    if clip is not None:
        for cells, more in zip(found, _judged(rows, looks, names, clip, head)):
            cells.update(more)
    return found


def look(path: Path, motion: bool = True) -> Look:
    """Decodes a video once; without ``motion`` only the frames that are kept.

    Raises:
        BadSample: it cannot be read.
    """
    total = probe(path).num_frames
    step = min(FLOW_GAP, max(1, (total - 1) // (FLOW_FRAMES - 1)))
    places = {
        "three": [min(total - 1, int(total * place)) for place in LOOKED_AT] if total > 2 else list(range(total)),
        "flow": list(range(0, total, step))[:FLOW_FRAMES],
        "hashed": [int(total * place) for place in HASHED_AT],
    }
    wanted = sorted({place for some in places.values() for place in some})
    measure, kept = VmafMotion(), {}
    indices = range(total) if motion else wanted
    for index, frame in zip(indices, iter_frames(path, indices)):
        if motion:
            measure.add(luma(frame[None])[0])
        if index in wanted:
            kept[index] = frame
    return Look(*(np.stack([kept[place] for place in some]) for some in places.values()), measure.mean())


def plain_scores(seen: Look, names: tuple[str, ...]) -> dict[str, Cell]:
    """The scores that need no network of ours."""
    cells: dict[str, Cell] = {}
    if "blur" in names:
        cells["blur"] = round(sharpness(luma(seen.three)), 4)
    if "bars" in names:
        sides = black_bars(luma(seen.flow))
        height, width = seen.flow.shape[1:3]
        left = (1 - (sides[0] + sides[1]) / height) * (1 - (sides[2] + sides[3]) / width)
        cells |= dict(zip(COLUMNS["bars"], (round(1 - left, 4), *sides)))
    if "motion" in names:
        cells["score_vmafmotion"] = round(seen.motion, 4)
    if "flow" in names:
        cells["flow"] = round(flow_strength(luma(seen.flow)), 4)
    if "phash" in names:
        cells["phash"] = video_hash(luma(seen.hashed))
    if "ocr" in names:
        # two frames tell what stays in place
        boxes = [text_boxes.finder()(frame) for frame in seen.three[:2]]
        most = max(text_boxes.area(each) for each in boxes)
        cells |= {"ocr": max(map(len, boxes)), "text_area": round(most, 4), "watermark": text_boxes.watermarks(boxes)}
    return cells


def _judged(
    rows: list[Row], looks: list[Look], names: tuple[str, ...], clip: str, head: str | None
) -> list[dict[str, Cell]]:
    from opensora.data_tools.judges import judges

    judge = judges(clip, head)
    vectors = [judge.vectors(each.three) for each in looks]
    found: list[dict[str, Cell]] = [{} for _ in rows]
    if "aesthetic" in names:
        for cells, each in zip(found, vectors):
            cells["aesthetic"] = round(judge.aesthetic(each), 4)
    if "likeness" in names:
        for cells, each in zip(found, vectors):
            cells[likeness.VECTOR] = likeness.packed(each)
    captioned = [index for index, row in enumerate(rows) if row.get(CAPTION)]
    if "match" in names and captioned:
        middles = np.stack([vectors[index][len(vectors[index]) // 2] for index in captioned])
        for index, value in zip(captioned, judge.match(middles, [rows[index][CAPTION] for index in captioned])):
            found[index]["match"] = round(float(value), 4)
    return found
