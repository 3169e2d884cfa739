"""Text in pictures: where it is, and whether it stays where watermarks do.

It is found by rapidocr, whose models are in its wheel.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence

import cv2
import numpy as np

# Smaller pictures are enlarged and larger ones reduced before text is looked for.
LEAST_SIDE, MOST_SIDE = 320, 1024
# How sure rapidocr has to be of what it reads. At its own 0.5, 7 of 104 clips without text have boxes, at this one 1;
# of as many with text 5 are missed at both (`opensora.toy.measured_text`, seed 1).
CONFIDENT = 0.7
# A watermark lies in the outer part of the picture and at the same place in every frame.
EDGE, SAME_PLACE = 0.25, 0.5

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, as shares of the width and height."""


@functools.cache
def finder() -> Callable[[np.ndarray], list[Box]]:
    """What finds boxes of text in a picture (H, W, 3) uint8 RGB.

    Raises:
        ImportError: rapidocr or onnxruntime is missing.
    """
    import onnxruntime  # noqa: F401  rapidocr asks for it only when it is used
    from rapidocr import RapidOCR

    logging.getLogger("RapidOCR").setLevel(logging.ERROR)
    settings = {"Global.text_score": CONFIDENT, "Det.limit_side_len": LEAST_SIDE, "Det.limit_type": "min"}
    engine = RapidOCR(params={"Global.log_level": "error", **settings})

    def boxes(picture: np.ndarray) -> list[Box]:
        height, width = picture.shape[:2]
        scale = min(1.0, max(MOST_SIDE / max(height, width), 1 / min(height, width)))
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        found = engine(np.ascontiguousarray(small[..., ::-1]))
        if found.boxes is None:
            return []
        size = np.array([small.shape[1], small.shape[0]])
        kept = [np.asarray(box) / size for box, text in zip(found.boxes, found.txts) if _is_text(text)]
        return [(*box.min(0).tolist(), *box.max(0).tolist()) for box in kept]

    return boxes


def _is_text(text: str) -> bool:
    """Two letters or digits, for single signs are mostly shapes that look like them."""
    return sum(map(str.isalnum, text)) > 1


def area(boxes: Sequence[Box]) -> float:
    """The share of the picture that boxes cover, those that overlap counted twice; at most 1."""
    return min(1.0, sum((right - left) * (bottom - top) for left, top, right, bottom in boxes))


def watermarks(frames: Sequence[Sequence[Box]]) -> int:
    """How many boxes lie near an edge and at the same place in all frames; 0 for a single frame."""
    if len(frames) < 2:
        return 0
    first, *others = frames
    return sum(_near_edge(box) and all(any(_overlap(box, b) > SAME_PLACE for b in o) for o in others) for box in first)


def _near_edge(box: Box) -> bool:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return min(x, y, 1 - x, 1 - y) < EDGE


def _overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(0.0, wide) * max(0.0, high)
    return both / max(area([a]) + area([b]) - both, 1e-12)
