"""``opensora evaluate clip``: how well videos match their prompts, by CLIP over some of their frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mindone.data.video import probe, read_frames
from mindone.errors import UserError
from mindone.progress import progress_bar
from opensora.config.evaluate import ClipScoreConfig
from opensora.data_tools.judges import Judges, judges
from opensora.data_tools.listing import CAPTION, VIDEO
from opensora.data_tools.table import open_table
from opensora.evaluation.temporal import report, videos_of


def clip(config: ClipScoreConfig) -> dict[str, float]:
    """Prints and returns the mean of the scaled cosines of each video's frames and its prompt.

    Raises:
        UserError: weights or prompts are missing, or not a single video can be scored.
    """
    judge, prompts = judges(str(config.clip), None), _prompts(config)
    scores, problems = {}, {}
    for name, path in progress_bar("clip", videos_of(config.videos).items()):
        try:
            text = prompts[name] if name in prompts else _beside(path)
            scores[name] = match_of(judge, path, text, config.frames)
        except UserError as error:
            problems[name] = str(error)
    report("clip", scores, problems, config.output)
    return scores


def match_of(judge: Judges, path: Path, text: str, frames: int) -> float:
    """The mean scaled cosine of evenly spaced frames of a video and a text."""
    total = probe(path).num_frames
    places = np.linspace(0, total - 1, min(total, frames)).round().astype(int).tolist()
    return float(judge.match(judge.vectors(read_frames(path, places)), [text] * len(places)).mean())


def _prompts(config: ClipScoreConfig) -> dict[str, str]:
    if config.prompts is None:
        return {}
    return {Path(row[VIDEO]).name: row[CAPTION] for row in open_table(config.prompts, [VIDEO, CAPTION])}


def _beside(path: Path) -> str:
    try:
        return path.with_suffix(".txt").read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise UserError(f"there is no prompt for {path.name}; give a table as --prompts") from error
