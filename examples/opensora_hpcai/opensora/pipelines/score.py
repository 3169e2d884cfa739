"""The end-to-end test of a model of the toy world: do its videos show what the prompts say?

Two ways: judge existing clips of a table, or generate videos from prompts of the training combinations and of the
twelve unseen ones and judge what was written to disk.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mindone import runtime
from mindone.checkpoint.atomic import atomic_write
from mindone.config import FilePath, parse, require_at_least
from mindone.data.table import read_video_table
from mindone.data.video import read_video
from mindone.errors import UserError, guarded
from opensora.config.generate import GenerateConfig
from opensora.data.toy import captions, scenes
from opensora.data.toy_score import HEADER, Score, Verdict, expected, judge, score, wrong_labels

Judged = list[tuple[str, Verdict]]


@dataclass
class Scoring:
    """What is judged."""

    videos: FilePath | None = None
    """judge existing clips: the folder that the paths of csv start from; nothing is generated then"""
    csv: FilePath | None = None
    """their table, with the columns video and caption; video_caption.csv in the folder if not given"""
    shuffle_captions: bool = False
    """give every clip the caption of another one: a judge that still finds them right is none"""
    num_seen: int = 100
    """generated prompts of combinations that the training set has"""
    num_unseen: int = 24
    """generated prompts of combinations that it does not have"""
    json: FilePath | None = None
    """file for the scores and all verdicts"""

    def check(self) -> None:
        require_at_least(self, num_seen=0, num_unseen=0)
        if (self.csv or self.shuffle_captions) and not self.videos:
            raise UserError("csv and shuffle_captions belong to existing clips; give their folder as --videos DIR")


@dataclass
class ScoreConfig(GenerateConfig):
    """Scores clips of the toy world; all settings of inference.py apply to generated ones."""

    score: Scoring = field(default_factory=Scoring)

    def check(self) -> None:
        if self.score.videos:
            return
        if self.use_parallel or not self.use_vae_decode or self.save_format != "mp4":
            raise UserError(
                "scoring needs mp4 videos of one process; use_parallel, use_vae_decode and save_format stay"
            )
        super().check()


@guarded
def main(argv: Sequence[str] | None = None) -> None:
    """Entry of ``tools/score_toy.py``."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    config = parse(ScoreConfig, argv, prog="score_toy.py", description=__doc__.splitlines()[0])
    parts = judge_table(config.score) if config.score.videos else judge_generated(config)
    scores = {name: score(judged) for name, judged in parts.items()}
    print(table(scores, parts))
    if config.score.json:
        with atomic_write(Path(config.score.json)) as file:
            file.write(json.dumps(record(scores, parts), indent=2).encode() + b"\n")


# --- what is judged --------------------------------------------------------------------------------------------------


def judge_table(settings: Scoring) -> dict[str, Judged]:
    """Judges the clips of a table; shuffled captions are those of clips one random cycle further."""
    rows = read_video_table(settings.csv or Path(settings.videos) / "video_caption.csv", settings.videos)
    texts = [row.caption for row in rows]
    if settings.shuffle_captions:
        order = runtime.stream(0, "shuffle").permutation(len(rows))
        for here, there in zip(order, np.roll(order, 1)):
            texts[here] = rows[there].caption
    name = "shuffled" if settings.shuffle_captions else "clips"
    return {name: [(text, judge(read_video(row.file))) for text, row in zip(texts, rows)]}


def judge_generated(config: ScoreConfig) -> dict[str, Judged]:
    """Generates a video for every prompt and judges the files: the user's prompts, or `prompts` of both splits."""
    from opensora.pipelines.generate import generate_videos

    if config.captions or config.prompt_path or config.text_embed_folder:
        parts = {"prompts": None}
    else:
        wanted = {"seen": ("train", config.score.num_seen), "unseen": ("unseen", config.score.num_unseen)}
        parts = {name: prompts(split, count) for name, (split, count) in wanted.items() if count}
        config.prompts.captions = [text for texts in parts.values() for text in texts]
    if config.captions and not any(label for text in config.captions for label in expected(text)):
        raise UserError("no prompt names a colour, a shape or a direction of the toy world, so there is no score")
    results = generate_videos(config)
    judged = [
        (json.loads(r.video.with_suffix(".json").read_text())["prompt"], judge(read_video(r.video))) for r in results
    ]
    if list(parts) == ["prompts"]:
        return {"prompts": judged}
    bounds = np.cumsum([0, *map(len, parts.values())]) * config.num_samples
    return {name: judged[start:stop] for name, start, stop in zip(parts, bounds, bounds[1:])}


def prompts(split: str, count: int) -> list[str]:
    """``count`` prompts of a split, always the same: every combination as often as any other, in changing words."""
    rng, choices = runtime.stream(0, "prompts", split), scenes(split)
    texts: list[str] = []
    while len(texts) < count:
        texts += [str(rng.choice(captions(choices[index]))) for index in rng.permutation(len(choices))]
    return texts[:count]


# --- what is reported ------------------------------------------------------------------------------------------------


def table(scores: dict[str, Score], parts: dict[str, Judged]) -> str:
    """The shares per part, and every clip that is not right."""
    width = max(8, *map(len, scores))
    lines = [f"{'':{width}} {HEADER}", *(f"{name:{width}} {item.row()}" for name, item in scores.items())]
    missed = [(text, seen) for judged in parts.values() for text, seen in judged if wrong_labels(text, seen)]
    if missed:
        lines += ["", "not right:", *(f"  {text}: {_said(seen)}" for text, seen in missed[:20])]
    if len(missed) > 20:
        lines.append(f"  and {len(missed) - 20} more")
    return "\n".join(lines)


def _said(seen: Verdict) -> str:
    return ", ".join(f"{name} {value or 'unclear'}" for name, value in seen._asdict().items())


def record(scores: dict[str, Score], parts: dict[str, Judged]) -> dict:
    """All of it, for a JSON file."""
    return {
        name: {
            **scores[name]._asdict(),
            "clips": [
                {"prompt": text, "seen": seen._asdict(), "wrong": wrong_labels(text, seen)} for text, seen in judged
            ],
        }
        for name, judged in parts.items()
    }
