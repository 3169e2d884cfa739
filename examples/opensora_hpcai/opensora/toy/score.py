"""The end-to-end test of a model of the toy world: do its videos show what the prompts say?

Two ways: judge existing clips of a table, or generate videos from prompts of the training combinations, of the unseen
ones and of new colours, and judge what was written to disk. Videos of a task are `opensora.toy.tasks`.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np

from mindone import runtime
from mindone.data.table import read_video_table
from mindone.data.video import read_video
from mindone.errors import UserError
from opensora import outputs
from opensora.config.toy import ScoreConfig, Scoring
from opensora.config.world import TOY, WorldConfig, read_world
from opensora.toy.combinations import held_out, scenes
from opensora.toy.judge import Score, Seen, names_something, score, see, wrong_labels
from opensora.toy.world import caption_of, completed

Judged = list[tuple[str, Seen]]


def score_videos(config: ScoreConfig) -> dict:
    """Judges existing clips, or generates and judges; prints the scores, and writes them if ``score.json`` is given.

    Returns:
        all of it: by part, the shares, and what each clip shows; of a task, what `opensora.toy.tasks` records.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    world = read_world(config.score.world)
    if config.conditions.task:
        from opensora.toy import tasks

        found = (config.conditions.task, config.score.needed, *tasks.outcomes_of(config, world))
        text, all_of_it = tasks.report(*found, world), tasks.record(*found, world)
    else:
        parts = judge_table(config.score, world) if config.score.videos else judge_generated(config, world)
        scores = {name: score(judged, world) for name, judged in parts.items()}
        text, all_of_it = table(scores, parts, world), record(scores, parts, world)
    print(text)
    if config.score.json:
        outputs.write_json(Path(config.score.json), all_of_it)
    return all_of_it


# --- what is judged --------------------------------------------------------------------------------------------------


def judge_table(settings: Scoring, world: WorldConfig = TOY) -> dict[str, Judged]:
    """Judges the clips of a table; shuffled captions are those of clips one random cycle further."""
    rows = read_video_table(settings.csv or Path(settings.videos) / "video_caption.csv", settings.videos)
    texts = [row.caption for row in rows]
    if settings.shuffle_captions:
        order = runtime.stream(0, "shuffle").permutation(len(rows))
        for here, there in zip(order, np.roll(order, 1)):
            texts[here] = rows[there].caption
    name = "shuffled" if settings.shuffle_captions else "clips"
    return {name: [(text, see(read_video(row.file), world)) for text, row in zip(texts, rows)]}


def judge_generated(config: ScoreConfig, world: WorldConfig = TOY) -> dict[str, Judged]:
    """Generates a video for every prompt and judges the files: the user's prompts, or `prompts` of both splits."""
    from opensora.generate.run import generate

    if config.prompts.captions or config.prompts.prompt_path or config.prompts.text_embed_folder:
        parts = {"prompts": None}
    else:
        wanted = {"seen": ("train", config.score.num_seen), "unseen": ("unseen", config.score.num_unseen)}
        wanted |= {colour: (colour, config.score.num_new) for colour in world.new_colours}
        pictures = config.shape.num_frames in (1, "1")
        if not held_out(world) or pictures:  # what is held out differs from the rest in its motion alone
            del wanted["unseen"]
        parts = {name: prompts(split, count, world, pictures) for name, (split, count) in wanted.items() if count}
        config.prompts.captions = [text for texts in parts.values() for text in texts]
    if config.prompts.captions and not any(names_something(text, world) for text in config.prompts.captions):
        raise UserError("no prompt names a colour, a shape or a direction of the toy world, so there is no score")
    results = generate(config)
    judged = [
        (json.loads(r.video.with_suffix(".json").read_text())["prompt"], see(read_video(r.video), world))
        for r in results
    ]
    if list(parts) == ["prompts"]:
        return {"prompts": judged}
    bounds = np.cumsum([0, *map(len, parts.values())]) * config.sampler.num_samples
    return {name: judged[start:stop] for name, start, stop in zip(parts, bounds, bounds[1:])}


def prompts(split: str, count: int, world: WorldConfig = TOY, pictures: bool = False) -> list[str]:
    """``count`` prompts of a split, always the same: every combination as often as any other, in changing words.

    Those of pictures say nothing of a motion.
    """
    rng, choices = runtime.stream(0, "prompts", split), scenes(split, world)
    texts: list[str] = []
    while len(texts) < count:
        order = rng.permutation(len(choices))
        texts += [caption_of(completed(choices[index], split, rng, world), rng, world, pictures) for index in order]
    return texts[:count]


# --- what is reported ------------------------------------------------------------------------------------------------


def table(scores: dict[str, Score], parts: dict[str, Judged], world: WorldConfig = TOY) -> str:
    """The shares per part, and every clip that is not right."""
    width = max(8, *map(len, scores))
    lines = [f"{name:{width}} {item.row()}" for name, item in scores.items()]
    lines.insert(0, f"{'':{width}} {next(iter(scores.values())).header()}")
    missed = [(text, seen) for judged in parts.values() for text, seen in judged if wrong_labels(text, seen, world)]
    if missed:
        lines += ["", "not right:", *(f"  {text}: {seen}" for text, seen in missed[:20])]
    if len(missed) > 20:
        lines.append(f"  and {len(missed) - 20} more")
    return "\n".join(lines)


def record(scores: dict[str, Score], parts: dict[str, Judged], world: WorldConfig = TOY) -> dict:
    """All of it, for a JSON file."""
    return {
        name: {
            **scores[name]._asdict(),
            "clips": [
                {"prompt": text, "seen": seen.values(), "wrong": wrong_labels(text, seen, world)}
                for text, seen in judged
            ],
        }
        for name, judged in parts.items()
    }
