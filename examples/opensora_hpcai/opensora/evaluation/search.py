"""``opensora search``: several videos of every prompt, and the one that a judge likes best.

More compute for a better result, without another model. The table says what that buys: of independent candidates the
expected score of the best of 1, 2, ..., each from all subsets of those that were made; of a search in rounds the best
score after each of them.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mindone import runtime
from mindone.data.video import read_video
from mindone.errors import UserError
from mindone.folders import make_run_folder
from opensora import outputs
from opensora.config.search import Search, SearchConfig
from opensora.evaluation.noise_search import METHODS, Candidate, best_after
from opensora.generate.results import Result
from opensora.noise import InitialNoise
from opensora.start import start

logger = logging.getLogger(__name__)

BEST, SCORES = "best", "search.json"
Judge = Callable[[Path, str], float]


def search(config: SearchConfig) -> list[Candidate]:
    """Makes and judges all candidates, copies the best one of every prompt to the folder ``best``, and returns those.

    ``search.json`` has all scores.

    Raises:
        UserError: several processes, weights of the judge that are missing, or a prompt that it cannot judge.
    """
    start(config.runtime)
    if runtime.current().world_size > 1:
        raise UserError("search runs in one process; leave out use_parallel")
    settings = config.search
    found = METHODS[settings.search_method](Maker(config, make_judge(settings)), settings)
    chosen = [max(candidates, key=lambda each: each.score) for candidates in found]
    folder = chosen[0].video.parent
    keep(chosen, folder)
    steps = config.sampler.sampling_steps
    scores = [[each.score for each in candidates] for candidates in found]
    table = best_of(scores) if settings.search_method == "best_of_n" else best_after(scores, settings)
    record = {
        "judge": settings.judge,
        "search_method": settings.search_method,
        "best_of": {str(number): score for number, score in table.items()},
        "candidates": [_recorded(each) for candidates in found for each in candidates],
    }
    outputs.write_json(folder / SCORES, record)
    print("\n".join(lines(table, len(chosen), steps)))
    logger.info("the best of each prompt: %s", folder / BEST)
    return chosen


def _recorded(each: Candidate) -> dict[str, Any]:
    noise = {"seed": each.noise.seed, "initial_noise": str(each.noise)}
    return {"prompt": each.prompt, **noise, "video": each.video.name, "score": each.score}


class Maker:
    """Makes and judges candidates, all of them in one folder; see `opensora.evaluation.noise_search.Make`."""

    def __init__(self, config: SearchConfig, judge: Judge):
        self._config, self._judge = copy.deepcopy(config), judge

    def __call__(self, wanted: Sequence[Sequence[InitialNoise]] | int) -> list[list[Candidate]]:
        from opensora.generate.run import generate

        is_first = isinstance(wanted, int)
        count = wanted if is_first else len(wanted[0])
        sampler, output = self._config.sampler, self._config.output
        sampler.num_samples = count
        sampler.initial_noise = None if is_first else [str(noise) for row in wanted for noise in row]
        made = judged(generate(self._config), self._judge)
        # What follows belongs into the folder of the first ones.
        output.output_path, output.append_timestr = str(made[0].video.parent), False
        return [made[first : first + count] for first in range(0, len(made), count)]


def make_judge(settings: Search) -> Judge:
    """The score of a video and its prompt, higher is better.

    Raises:
        UserError: its weights are missing.
    """
    if settings.judge == "toy":
        return right_labels
    from opensora.data_tools.judges import judges
    from opensora.evaluation.clip_score import match_of

    clip = judges(str(settings.clip), None)
    return lambda video, prompt: match_of(clip, video, prompt, settings.judge_frames)


def right_labels(video: Path, prompt: str) -> float:
    """The share of the labels that a prompt of the toy world names which its video shows.

    Raises:
        UserError: it names none.
    """
    from opensora.toy.judge import expected, judge, wrong_labels

    named = sum(label is not None for label in expected(prompt))
    if not named:
        raise UserError(f"{prompt!r} names no colour, shape or direction of the toy world; use judge=clip")
    return 1 - len(wrong_labels(prompt, judge(read_video(video)))) / named


def judged(results: Sequence[Result], judge: Judge) -> list[Candidate]:
    """The candidates, those of a prompt one after the other."""
    found = []
    for result in results:
        prompt = json.loads(result.video.with_suffix(".json").read_text())["prompt"]
        found.append(Candidate(prompt, result.job.noise, result.video, judge(result.video, prompt)))
    return found


def keep(chosen: Sequence[Candidate], folder: Path) -> None:
    """Copies videos and their settings to the folder ``best``."""
    best = make_run_folder(folder, BEST)
    for candidate in chosen:
        for path in (candidate.video, candidate.video.with_suffix(".json")):
            if path.is_dir():
                shutil.copytree(path, best / path.name, dirs_exist_ok=True)
            else:
                shutil.copyfile(path, best / path.name)


def best_of(scores: Sequence[Sequence[float]]) -> dict[int, float]:
    """The mean over prompts of the expected best score of n candidates, for n from 1 to all of them.

    The expectation over subsets of n out of N: ``sum_i x_(i) C(i - 1, n - 1) / C(N, n)``, ``x_(i)`` in rising order.
    """
    total = min(map(len, scores))
    table = {}
    for number in range(1, total + 1):
        expected = []
        for values in scores:
            chances = [math.comb(place, number - 1) for place in range(len(values))]
            expected.append(float(np.dot(sorted(values), chances)) / math.comb(len(values), number))
        table[number] = float(np.mean(expected))
    return table


def lines(table: Mapping[int, float], prompts: int, steps: int | None) -> list[str]:
    """What more candidates buy, as a table."""
    head = f"{'best of':>8}  {'score':>7}  {'denoising steps':>15}   ({prompts} prompts)"
    return [head, *(f"{number:8d}  {score:7.3f}  {number * (steps or 0) or '':>15}" for number, score in table.items())]
