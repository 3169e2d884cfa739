"""``opensora evaluate vbench``: VBench's file names before its program runs, and its published scores afterwards.

VBench (Huang et al., arXiv:2311.17982) itself is run elsewhere, for its networks need CUDA.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from mindone.checkpoint.atomic import atomic_folder, require_new_folder
from mindone.errors import UserError
from opensora.config.evaluate import VbenchConfig
from opensora.evaluation.temporal import videos_of

QUALITY = {
    "subject consistency": (0.1462, 1.0),
    "background consistency": (0.2615, 1.0),
    "temporal flickering": (0.6293, 1.0),
    "motion smoothness": (0.706, 0.9975),
    "aesthetic quality": (0.0, 1.0),
    "imaging quality": (0.0, 1.0),
    "dynamic degree": (0.0, 1.0),
}
SEMANTIC = {
    "object class": (0.0, 1.0),
    "multiple objects": (0.0, 1.0),
    "human action": (0.0, 1.0),
    "color": (0.0, 1.0),
    "spatial relationship": (0.0, 1.0),
    "scene": (0.0, 0.8222),
    "appearance style": (0.0009, 0.2855),
    "temporal style": (0.0, 0.364),
    "overall consistency": (0.0, 0.364),
}
"""Of each dimension the lowest and highest value, which become 0 and 1."""
WEIGHTS = {"dynamic degree": 0.5}
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4.0, 1.0


def vbench(config: VbenchConfig) -> dict[str, float] | Path:
    """Prints and returns the scores of a result file, or writes the folder that VBench's program reads.

    Raises:
        UserError: the file or the videos are not as they should be.
    """
    if config.results is None:
        return write_layout(config)
    scores = totals(read_results(config.results))
    for name, value in scores.items():
        print(f"{name:<24}{100 * value:7.2f}")
    absent = [name for name in (*QUALITY, *SEMANTIC) if name not in scores]
    if absent:
        print(f"no total: {config.results} lacks {', '.join(absent)}")
    return scores


def read_results(path: str | Path) -> dict[str, float]:
    """The raw score of each dimension: ``{"subject_consistency": [0.97, [...]], ...}``.

    Raises:
        UserError: not such a file.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        raw = {
            name.replace("_", " "): float(value[0] if isinstance(value, list) else value)
            for name, value in values.items()
        }
    except (OSError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path} is not a result file of VBench ({error}); give its ..._eval_results.json") from error
    known = {name: raw[name] for name in (*QUALITY, *SEMANTIC) if name in raw}
    if not known:
        raise UserError(f"{path} has none of VBench's dimensions, such as subject_consistency")
    return known


def totals(raw: Mapping[str, float]) -> dict[str, float]:
    """Normalised dimensions, and quality, semantic and total as far as all their dimensions are there, 0 to 1."""
    scores = {name: _normalised(raw[name], *({**QUALITY, **SEMANTIC})[name]) for name in raw}
    parts = {}
    for title, names in (("quality", QUALITY), ("semantic", SEMANTIC)):
        if all(name in scores for name in names):
            weights = [WEIGHTS.get(name, 1.0) for name in names]
            parts[title] = sum(w * scores[name] for w, name in zip(weights, names)) / sum(weights)
    if len(parts) == 2:
        both = QUALITY_WEIGHT * parts["quality"] + SEMANTIC_WEIGHT * parts["semantic"]
        parts["total"] = both / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)
    return scores | parts


def _normalised(value: float, low: float, high: float) -> float:
    return (value - low) / (high - low)


def write_layout(config: VbenchConfig) -> Path:
    """Copies videos to ``PROMPT-SAMPLE.mp4``, as VBench expects them.

    Raises:
        UserError: other than ``samples`` videos for each prompt, or a prompt that cannot be a file's name.
    """
    try:
        lines = Path(config.prompts).read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{config.prompts} cannot be read: {error}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    videos = list(videos_of(config.videos).values())
    if len(videos) != len(prompts) * config.samples:
        raise UserError(
            f"{config.videos} holds {len(videos)} videos; {len(prompts)} prompts of {config.prompts} with "
            f"samples={config.samples} need {len(prompts) * config.samples}"
        )
    for prompt in prompts:
        if "/" in prompt or "\0" in prompt or prompts.count(prompt) > 1:
            raise UserError(f'the prompt "{prompt}" comes twice or cannot be the name of a file')
    require_new_folder(config.output)
    with atomic_folder(config.output) as folder:
        for number, video in enumerate(videos):
            prompt, sample = prompts[number // config.samples], number % config.samples
            shutil.copyfile(video, folder / f"{prompt}-{sample}{video.suffix}")
    print(f"{config.output}: {len(videos)} videos of {len(prompts)} prompts")
    return Path(config.output)
