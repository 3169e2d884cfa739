"""The end-to-end test of tasks: are given frames kept, is what follows smooth, and is the prompt obeyed?

Videos are generated from `opensora.toy.cases` and judged from what was written to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mindone.data.video import read_video
from opensora.config.toy import LOOP_TASK, ScoreConfig
from opensora.config.world import TOY, WorldConfig
from opensora.toy.cases import Case, Setup, for_task, make_cases
from opensora.toy.judge import Seen, labels_of, see, wrong_labels
from opensora.toy.measures import jump, kept

KEPT_DB = 25.0
"""PSNR from which on a given frame counts as kept."""
JUMP = 1.5
"""How much larger than elsewhere in the video the change at a join may be."""


class Outcome(NamedTuple):
    """What became of a case; None where nothing is given, or nothing is joined."""

    caption: str
    seen: Seen
    kept: float | None
    """dB, that of the reference that is kept worst"""
    jump: float | None
    """the change at the worst join, as a multiple of the largest one elsewhere"""


class Criterion(NamedTuple):
    """What is asked of a task, and the share of the cases that do it."""

    what: str
    share: float

    def line(self, needed: float, count: int) -> str:
        verdict = "met" if self.share >= needed else "NOT met"
        return f"criterion {verdict}: {self.what}: {self.share:.3f} of {count} cases, {needed:g} needed"


def outcomes_of(config: ScoreConfig, world: WorldConfig = TOY) -> tuple[Setup, list[Outcome]]:
    """Generates the cases of ``conditions.task`` and looks at the files.

    Raises:
        UserError: what in the settings cannot work, or a task that the version does not know.
    """
    from opensora.generate.run import generate

    task = config.conditions.task
    config, setup = for_task(config, config.score.task_frames)
    folder = Path(config.output.output_path) / f"references_{task}"
    cases = make_cases(setup, config.score.num_cases, folder, config.sampler.fps or 8, world)
    config.prompts.captions = [case.caption for case in cases]
    if task != LOOP_TASK:
        config.conditions.reference_path = [";".join(map(str, case.files)) for case in cases]
    results = generate(config)
    return setup, [outcome(read_video(result.video), cases[result.job.row], setup, world) for result in results]


def outcome(video: np.ndarray, case: Case, setup: Setup, world: WorldConfig = TOY) -> Outcome:
    """What a video (T, H, W, 3) uint8 makes of its case."""
    values = [kept(video, given, place) for given, place in zip(case.given, setup.places)]
    joined = jump(video, setup.joins) if setup.joins else None
    return Outcome(case.caption, see(video, world), min(values, default=None), joined)


def criteria(setup: Setup, outcomes: Sequence[Outcome], world: WorldConfig = TOY) -> list[Criterion]:
    """What is asked for; the prompt's labels only where what is given does not show the motion already."""
    found = []
    if setup.places:
        what = "given frames kept" if sum(map(len, setup.places)) > 1 else "given frame kept"
        found.append(_criterion(f"{what}, {KEPT_DB:g} dB or more", outcomes, lambda item: item.kept >= KEPT_DB))
    if setup.joins:
        what = f"change at a join at most {JUMP:g} times the largest elsewhere"
        found.append(_criterion(what, outcomes, lambda item: item.jump <= JUMP))
    if sum(map(len, setup.places)) <= 1:
        found += [_label(name, outcomes, world) for name in labels_of(world)]
    return found


def _criterion(what: str, outcomes: Sequence[Outcome], holds: Callable[[Outcome], bool]) -> Criterion:
    return Criterion(what, sum(map(holds, outcomes)) / len(outcomes))


def _label(name: str, outcomes: Sequence[Outcome], world: WorldConfig) -> Criterion:
    return _criterion(f"{name} as the prompt says", outcomes, lambda item: name not in wrong_labels(*item[:2], world))


# --- what is reported ------------------------------------------------------------------------------------------------


def report(task: str, needed: float, setup: Setup, outcomes: Sequence[Outcome], world: WorldConfig = TOY) -> str:
    """A line of shares and means, the cases that fail, and a line per criterion."""
    shares = [_label(name, outcomes, world).share for name in labels_of(world)]
    db, jumps = ([getattr(item, name) for item in outcomes] for name in ("kept", "jump"))
    cells = [f"{len(outcomes):5d}", _cell(db, KEPT_DB, 1), _cell(jumps, JUMP, -1), *(f"{v:9.3f}" for v in shares)]
    header = f"{'':14} {'cases':>5}  {'kept':>6} {'dB':>6}  {'joined':>6} {'jump':>6}  " + "  ".join(
        f"{name:>9}" for name in labels_of(world)
    )
    missed = [_missed(item) for item in outcomes if _misses(item, world)]
    lines = [header, f"{task:14} {'  '.join(cells)}"]
    if missed:
        lines += ["", "not right:", *missed[:20]]
    if len(missed) > 20:
        lines.append(f"  and {len(missed) - 20} more")
    return "\n".join([*lines, "", *(item.line(needed, len(outcomes)) for item in criteria(setup, outcomes, world))])


def _cell(values: Sequence[float | None], limit: float, sign: int) -> str:
    """The share on the right side of the limit, and the mean."""
    if values[0] is None:
        return f"{'-':>6} {'-':>6}"
    share = sum(sign * value >= sign * limit for value in values) / len(values)
    return f"{share:6.3f} {np.mean(values):6.2f}"


def _misses(item: Outcome, world: WorldConfig) -> bool:
    lost = item.kept is not None and item.kept < KEPT_DB
    return lost or (item.jump is not None and item.jump > JUMP) or bool(wrong_labels(item.caption, item.seen, world))


def _missed(item: Outcome) -> str:
    said = [str(item.seen)]
    said += [] if item.kept is None else [f"given frames at {item.kept:.1f} dB"]
    said += [] if item.jump is None else [f"jump {item.jump:.2f}"]
    return f"  {item.caption}: {', '.join(said)}"


def record(task: str, needed: float, setup: Setup, outcomes: Sequence[Outcome], world: WorldConfig = TOY) -> dict:
    """All of it, for a JSON file."""
    return {
        "task": task,
        "cases": len(outcomes),
        "frames": setup.size[0],
        "criteria": [
            {**item._asdict(), "needed": needed, "met": item.share >= needed}
            for item in criteria(setup, outcomes, world)
        ],
        "clips": [
            {
                "prompt": item.caption,
                "seen": item.seen.values(),
                "wrong": wrong_labels(item.caption, item.seen, world),
                "kept_db": item.kept,
                "jump": item.jump,
            }
            for item in outcomes
        ],
    }
