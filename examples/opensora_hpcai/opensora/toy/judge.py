"""The judge of the toy world: what a clip shows, measured from its pixels alone.

Colour comes from the hue of the foreground, shape from its outline, direction from the path of its centroid, and the
background from the frame's edge. Nothing here knows the generator's scenes or the model, so a score means what it says
for any clip. Which names there are is said by a world.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mindone.errors import UserError
from opensora.config.world import BRIGHTNESS, TOY, WorldConfig
from opensora.toy.motions import MOTIONS
from opensora.toy.outlines import Outline, outline_of
from opensora.toy.sights import Sight, edge_of, nearest_names, sight_of, sights_by_colour

MIN_OVERLAP = 0.70
"""Smallest intersection over union of an outline with the shape it is called."""
MIN_MOVE = 0.10
"""Shortest way, as a share of the frame, that counts as a move; up to half of it counts as standing still."""
MIN_FRAMES = 0.8
"""Smallest share of the frames that show a shape."""
LIGHT = (BRIGHTNESS["textured"][1] + BRIGHTNESS["light"][0]) / 2
"""Brightness, 0..255, from which on a background is light."""
TEXTURE = 8.0
"""Standard deviation of a textured background's brightness, at least."""


class Verdict(NamedTuple):
    """What a shape is and does; None where that is none of the known colours, shapes or directions."""

    colour: str | None
    shape: str | None
    direction: str | None


UNCLEAR = Verdict(None, None, None)


class Seen(NamedTuple):
    """What a clip shows, or what a caption asks for: its shapes, and the background if captions say it."""

    objects: tuple[Verdict, ...]
    background: str | None = None

    def values(self) -> dict[str, str | None | list[dict[str, str | None]]]:
        """All of it, for a JSON file."""
        background = {"background": self.background} if self.background else {}
        if len(self.objects) == 1:
            return self.objects[0]._asdict() | background
        return {"objects": [each._asdict() for each in self.objects]} | background

    def __str__(self) -> str:
        texts = [
            ", ".join(f"{name} {value or 'unclear'}" for name, value in each._asdict().items()) for each in self[0]
        ]
        texts += [f"{self.background} background"] if self.background else []
        return "; ".join(texts) or "nothing that is clear"


# --- clips -----------------------------------------------------------------------------------------------------------


def judge(frames: np.ndarray, world: WorldConfig = TOY) -> Verdict:
    """Judges the one shape of a clip of frames (T, H, W, 3) uint8 RGB, whatever the world's number of shapes.

    A single frame, a picture, has no direction.

    Raises:
        UserError: not an array of RGB frames.
    """
    _require_clip(frames)
    sights = [sight for sight in map(sight_of, frames) if sight is not None]
    if len(sights) < MIN_FRAMES * len(frames):
        return UNCLEAR
    return _verdict(_colour(sights, world), sights, frames, world)


def see(frames: np.ndarray, world: WorldConfig = TOY) -> Seen:
    """Judges a clip of frames (T, H, W, 3) uint8 RGB: its shapes, by colour where there are two, and the background.

    Raises:
        UserError: not an array of RGB frames.
    """
    _require_clip(frames)
    background = _background(frames, world) if world.says_background else None
    if world.objects == 1:
        return Seen((judge(frames, world),), background)
    found: dict[str, list[Sight]] = collections.defaultdict(list)
    for frame in frames:
        for name, sight in sights_by_colour(frame, world.all_colours).items():
            found[name].append(sight)
    clear = {name: sights for name, sights in found.items() if len(sights) >= MIN_FRAMES * len(frames)}
    return Seen(tuple(_verdict(name, sights, frames, world) for name, sights in clear.items()), background)


def _require_clip(frames: np.ndarray) -> None:
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise UserError(f"a clip of shape {frames.shape} cannot be judged; it takes (T, H, W, 3)")


def _verdict(colour: str | None, sights: Sequence[Sight], frames: np.ndarray, world: WorldConfig) -> Verdict:
    path = np.array([sight.centroid for sight in sights]) / frames.shape[2:0:-1]
    return Verdict(colour, _shape([sight.outline for sight in sights], world), _direction(path, world))


def _colour(sights: Sequence[Sight], world: WorldConfig) -> str | None:
    """The name that is nearest to the median colour."""
    median = np.median([sight.colour for sight in sights], axis=0)
    place = int(nearest_names(median[None, None], world.all_colours)[0, 0])
    return list(world.all_colours)[place] if place >= 0 else None


def _shape(outlines: Sequence[np.ndarray], world: WorldConfig) -> str | None:
    """The shape whose ideal form fills the bounding boxes most alike, averaged over the frames."""
    overlaps = {}
    for name, shape in world.shapes.items():
        ideal = outline_of(shape)
        overlaps[name] = np.mean([_overlap(outline, ideal) for outline in outlines])
    best = max(overlaps, key=overlaps.get)
    return best if overlaps[best] >= MIN_OVERLAP else None


def _overlap(outline: np.ndarray, shape: Outline) -> float:
    """Intersection over union of an outline with a shape of the same bounding box."""
    height, width = outline.shape
    if max(height, width) > 1.5 * min(height, width):
        return 0.0
    y, x = (np.arange(height)[:, None] + 0.5) / height, (np.arange(width)[None] + 0.5) / width
    ideal = shape.inside(x, y)
    return float((outline & ideal).sum() / (outline | ideal).sum())


def _direction(path: np.ndarray, world: WorldConfig) -> str | None:
    """The motion of centroids (T, 2) given as shares of the frame; None if it is none of the world's, or in between."""
    if len(path) < 2:
        return None
    for returns in sorted({MOTIONS[name].returns for name in world.motions}):
        course = MOTIONS["left-and-back" if returns else "left"].course(len(path))
        steps = course - course.mean()
        way = steps @ path / (steps @ steps)
        rest = path - path.mean(0) - steps[:, None] * way
        length = np.hypot(*way)
        if abs(rest).max() > max(0.35 * length, MIN_MOVE / 2):
            continue
        if length < MIN_MOVE / 2:
            return "still" if "still" in world.motions else None
        vectors = {name: MOTIONS[name].vector for name in world.motions if MOTIONS[name].returns == returns}
        name = max(vectors, key=lambda name: np.dot(vectors[name], way))
        along = np.dot(vectors[name], way)
        return name if along >= MIN_MOVE and along >= 0.9 * length else None
    return None


def _background(frames: np.ndarray, world: WorldConfig) -> str | None:
    """The kind of background that the frame's edge has over time."""
    brightness = np.median(edge_of(frames), axis=0).mean(-1)
    kind = "light" if np.median(brightness) >= LIGHT else "dark"
    kind = "textured" if np.std(brightness) >= TEXTURE else kind
    return kind if kind in world.backgrounds else None


# --- captions --------------------------------------------------------------------------------------------------------


def expected(caption: str, world: WorldConfig = TOY) -> Verdict:
    """What a caption asks of one shape; None for a label it does not name, or names in two ways."""
    words = (
        {name: name for name in world.all_colours},
        {name: name for name in world.shapes},
        {name: MOTIONS[name].pattern for name in world.motions},
    )
    return Verdict(*(_find(caption, names) for names in words))


def asked(caption: str, world: WorldConfig = TOY) -> Seen:
    """What a caption asks for: of two shapes, each is what is said from its colour to that of the next."""
    colours = {name: name for name in world.all_colours}
    kinds = {name: name for name in world.backgrounds} if world.says_background else {}
    found = {name for _, _, name in _mentions(caption, colours | kinds) if name in kinds}
    background = found.pop() if len(found) == 1 else None
    starts = [start for start, _, _ in _mentions(caption, colours)]
    if world.objects == 1 or len(starts) < 2:
        return Seen((expected(caption, world),), background)
    bounds = [0, *starts[1:], len(caption)]
    parts = (caption[start:stop] for start, stop in zip(bounds, bounds[1:]))
    return Seen(tuple(expected(part, world) for part in parts), background)


def _find(caption: str, words: Mapping[str, str]) -> str | None:
    found = {name for _, _, name in _mentions(caption, words)}
    return found.pop() if len(found) == 1 else None


def _mentions(caption: str, words: Mapping[str, str]) -> list[tuple[int, int, str]]:
    """Where names are meant, and which, in order; what is a part of a longer one does not count."""
    matches = [
        (match.start(), match.end(), name)
        for name, pattern in words.items()
        for match in re.finditer(rf"\b({pattern})\b", caption.lower())
    ]
    return sorted(
        (start, stop, name)
        for start, stop, name in matches
        if not any(a <= start and stop <= b and b - a > stop - start for a, b, _ in matches)
    )


def labels_of(world: WorldConfig = TOY) -> tuple[str, ...]:
    """What is judged of a clip."""
    return (*Verdict._fields, *(("background",) if world.says_background else ()))


def mistakes(caption: str, seen: Verdict | Seen, world: WorldConfig = TOY) -> dict[str, list[tuple[str, str]]]:
    """By label, what a caption names and what the clip shows instead (``unclear``, if that is not clear).

    Of two shapes, the one of the asked colour is compared; a shape of another colour is ``nothing -> colour``.
    """
    wanted, seen = asked(caption, world), Seen((seen,)) if isinstance(seen, Verdict) else seen
    shown = {each.colour: each for each in seen.objects}
    pairs = [(wanted.objects[0], seen.objects[0])] if world.objects == 1 else []
    if world.objects == 2:
        pairs = [(want, shown.get(want.colour, UNCLEAR)) for want in wanted.objects]
    wrong = {
        name: [(want, have or "unclear") for want, have in ((getattr(w, name), getattr(s, name)) for w, s in pairs)]
        for name in Verdict._fields
    }
    if "background" in labels_of(world):
        wrong["background"] = [(wanted.background, seen.background or "unclear")]
    wrong = {
        name: [pair for pair in found if pair[0] is not None and pair[0] != pair[1]] for name, found in wrong.items()
    }
    if world.objects == 2 and any(want.colour for want in wanted.objects):
        wrong["colour"] += [("nothing", name) for name in shown if name not in {want.colour for want in wanted.objects}]
    return wrong


def wrong_labels(caption: str, seen: Verdict | Seen, world: WorldConfig = TOY) -> list[str]:
    """The labels that a caption names and the clip does not show."""
    return [name for name, found in mistakes(caption, seen, world).items() if found]


def names_something(caption: str, world: WorldConfig = TOY) -> bool:
    """Whether a caption names anything that can be judged."""
    wanted = asked(caption, world)
    return bool(wanted.background) or any(label for each in wanted.objects for label in each)


# --- scores ----------------------------------------------------------------------------------------------------------


class Score(NamedTuple):
    """Shares of clips that are right, per label and for all labels at once, and what was taken for what.

    ``background`` is None where it is not judged.
    """

    count: int
    colour: float
    shape: float
    direction: float
    all: float
    confusions: dict[str, int]
    background: float | None = None

    def shares(self) -> dict[str, float]:
        """By what the column of a table is called."""
        found = {name: getattr(self, name) for name in (*Verdict._fields, "background")}
        found = {name: share for name, share in found.items() if share is not None}
        return found | {"all three" if len(found) == 3 else "all four": self.all}

    def header(self) -> str:
        return "  ".join([f"{'clips':>5}", *(f"{name:>10}"[-max(9, len(name)) :] for name in self.shares())])

    def row(self) -> str:
        return "  ".join([f"{self.count:5d}", *(f"{v:{max(9, len(name))}.3f}" for name, v in self.shares().items())])


def score(pairs: Iterable[tuple[str, Verdict | Seen]], world: WorldConfig = TOY) -> Score:
    """Scores captions and what their clips show; a label that a caption does not name counts as right.

    Raises:
        UserError: no pairs, or no caption that names a colour, a shape or a direction.
    """
    right, confusions, named = [], collections.Counter(), False
    for caption, seen in pairs:
        named = named or names_something(caption, world)
        wrong = mistakes(caption, seen, world)
        right.append([not found for found in wrong.values()])
        confusions.update(f"{want} -> {have}" for found in wrong.values() for want, have in found)
    if not named:
        raise UserError("no caption names a colour, a shape or a direction of the toy world, so there is no score")
    table = np.array(right)
    shares = dict(zip(labels_of(world), table.mean(0).tolist()))
    every = float(table.all(1).mean())
    return Score(len(table), **shares, all=every, confusions=dict(confusions.most_common()))
