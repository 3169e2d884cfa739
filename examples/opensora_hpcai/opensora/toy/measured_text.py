"""How much of the text in clips the score ``ocr`` finds, and how often it takes something else for text.

Every font is drawn in every size over backgrounds in turn (`opensora.toy.writing`); as many clips have no text. A clip
counts as found if a box lies on its text.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mindone import runtime
from mindone.errors import UserError
from mindone.progress import progress_bar
from opensora import outputs
from opensora.config.toy import MeasuredTextConfig
from opensora.data_tools import text_boxes
from opensora.data_tools.text_boxes import Box
from opensora.toy.writing import (
    BACKGROUNDS,
    COLOURS,
    HEIGHT,
    PLACES,
    SIZES,
    TEXTS,
    WIDTH,
    Written,
    background,
    fonts,
    written,
)

NO_TEXT = "none"


class Seen(NamedTuple):
    """What a clip has, and what was found in it: boxes on its text, any boxes, and boxes that stay at an edge."""

    font: str
    size: str
    colour: str
    background: str
    place: str
    found: bool
    flagged: bool
    watermark: bool


def measure_text(config: MeasuredTextConfig) -> list[Seen]:
    """Prints, writes if there is a file for it, and returns what was found in every clip.

    Raises:
        UserError: rapidocr is missing.
    """
    try:
        finder = text_boxes.finder()
    except ImportError as error:
        raise UserError("text is found by rapidocr; pip install 'mindone[curation]'") from error
    seen = []
    for labels, clip in progress_bar("clips", list(clips(config))):
        boxes = [finder(frame) for frame in clip.frames]
        found = any(on_text(box, where) for some, where in zip(boxes, clip.boxes) for box in some)
        seen.append(Seen(*labels, found, any(boxes), text_boxes.watermarks(boxes) > 0))
    print("\n".join(lines(seen)))
    if config.json:
        outputs.write_json(config.json, [each._asdict() for each in seen])
    return seen


def clips(config: MeasuredTextConfig) -> Iterator[tuple[tuple[str, ...], Written]]:
    """The labels of each clip, as the first fields of `Seen`, and the clip: those with text, then those without."""
    cases = list(itertools.product(range(config.rounds), fonts().items(), SIZES))
    behind = list(BACKGROUNDS)
    for number, (_, (font, glyphs), size) in enumerate(cases):
        rng = runtime.stream(config.seed, "text", number)
        # sizes come in fours: what turns with them would always meet the same one
        turn = number + number // len(SIZES)
        colour, place = list(COLOURS)[turn % len(COLOURS)], PLACES[turn % len(PLACES)]
        name, text = behind[(turn + number // len(behind)) % len(behind)], TEXTS[int(rng.integers(len(TEXTS)))]
        drawn = glyphs(text, round(size * HEIGHT))
        labels = (font, f"{size:g}", colour, name, place)
        yield labels, written(background(name, rng), drawn, colour, bool(number // 2 % 2), place)
    for number in range(len(cases)):
        name = behind[number % len(behind)]
        rng = runtime.stream(config.seed, "no text", number)
        yield (NO_TEXT, "", "", name, ""), Written(background(name, rng), [])


def on_text(box: Box, where: tuple[int, int, int, int]) -> bool:
    """Whether the middle of a box lies on the text."""
    x, y = WIDTH * (box[0] + box[2]) / 2, HEIGHT * (box[1] + box[3]) / 2
    return where[0] <= x <= where[2] and where[1] <= y <= where[3]


def lines(seen: Sequence[Seen]) -> list[str]:
    """A table of Markdown: recall by what the text is like, precision and false alarms by background."""
    text = [each for each in seen if each.font != NO_TEXT]
    bare = [each for each in seen if each.font == NO_TEXT]
    table = ["| text | clips | found |", "|---|---|---|"]
    for field in ("font", "size", "colour", "place", "background"):
        for value in dict.fromkeys(getattr(each, field) for each in text):
            those = [each.found for each in text if getattr(each, field) == value]
            table.append(f"| {field} {value} | {len(those)} | {np.mean(those):.2f} |")
    table += [f"| **all** | {len(text)} | **{np.mean([each.found for each in text]):.2f}** |", ""]
    table += ["| no text, before | clips | false alarms |", "|---|---|---|"]
    for value in dict.fromkeys(each.background for each in bare):
        those = [each.flagged for each in bare if each.background == value]
        table.append(f"| {value} | {len(those)} | {sum(those)} |")
    right, wrong = sum(each.found for each in text), sum(each.flagged for each in bare)
    stay, others = ([each.watermark for each in text if (each.place == "edge") == at_edge] for at_edge in (True, False))
    return [
        *table,
        f"| **all** | {len(bare)} | **{wrong}** |",
        "",
        f"precision {right / max(1, right + wrong):.3f}, recall {right / max(1, len(text)):.3f}; called a watermark: "
        f"{sum(stay)} of {len(stay)} texts at an edge, {sum(others)} of the {len(others)} others, "
        f"{sum(each.watermark for each in bare)} of the clips without text",
    ]
