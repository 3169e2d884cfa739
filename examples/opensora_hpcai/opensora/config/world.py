"""The description of a toy world: what its clips show, and how captions say it."""

from __future__ import annotations

import colorsys
import itertools
import string
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from mindone.config import FilePath, SettingError, Settings, about, parse, require, require_at_least
from opensora.toy.motions import MOTIONS
from opensora.toy.outlines import OUTLINES, flaw_of, outline_of

Colour = float | tuple[int, int, int]
"""A hue in degrees, drawn in random shades, or red, green and blue in 0..255."""
Background = Literal["dark", "light", "textured"]

MIN_SATURATION = 0.25
"""Below this a colour has no hue: it is a grey, and told from others by its brightness."""
HUE_APART, GREY_APART = 18.0, 80.0
"""Least difference between two colours, in degrees, and between two greys, in steps of 0..255."""
BRIGHTNESS = {"dark": (20.0, 60.0), "light": (180.0, 225.0), "textured": (50.0, 80.0)}
"""Brightness of a background, 0..255."""
FIELDS = {"a", "colour", "shape", "way"}

HUES = {"red": 0.0, "yellow": 54.0, "green": 120.0, "cyan": 180.0, "blue": 228.0, "purple": 285.0}
HELD_OUT = [
    ("red", "circle", "up"),
    ("red", "triangle", "left"),
    ("yellow", "square", "left"),
    ("yellow", "triangle", "down"),
    ("green", "triangle", "right"),
    ("green", "square", "still"),
    ("cyan", "circle", "right"),
    ("cyan", "triangle", "down"),
    ("blue", "square", "up"),
    ("blue", "circle", "left"),
    ("purple", "square", "right"),
    ("purple", "circle", "still"),
]


@dataclass
class WorldConfig(Settings):
    """A toy world. The defaults are the built-in one, of which configs/tiny/world.yaml is the same description."""

    colours: dict[str, Colour] = field(default_factory=lambda: dict(HUES))
    """colours by name: a hue in degrees, or [red, green, blue] of 0 to 255"""
    new_colours: dict[str, Colour] = field(default_factory=lambda: {"azure": 207.0})
    """colours that no training part has, each of them a part of its own by its name, for adapters to learn"""
    shapes: dict[str, str | list[tuple[float, float]]] = field(
        default_factory=lambda: {name: name for name in ("circle", "square", "triangle")}
    )
    """shapes by name: circle, square, triangle, star, cross, diamond, or corners as [x, y] with y growing downwards"""
    motions: list[Literal[tuple(MOTIONS)]] = field(default_factory=lambda: ["left", "right", "up", "down", "still"])
    """what shapes do"""
    objects: Literal[1, 2] = 1
    """shapes in a clip; two have different colours and never touch"""
    backgrounds: list[Background] = field(default_factory=lambda: ["dark"])
    """what is behind them: plain and dark or light, or stripes (textured)"""
    held_out: float | list[tuple[str, str, str]] = field(default_factory=lambda: list(HELD_OUT))
    """colour, shape and motion that are never together in the training part: a list, or the share of all of them"""
    held_out_seed: int = 0
    """which combinations a share means"""
    moving_captions: list[str] = field(
        default_factory=lambda: [
            "{a} {colour} {shape} moves {way}",
            "{a} {colour} {shape} is moving {way}",
            "{a} {colour} {shape} goes {way}",
        ]
    )
    """ways of saying what moves; {a} is an article, {way} the direction"""
    still_captions: list[str] = field(
        default_factory=lambda: [
            "{a} {colour} {shape} stands still",
            "{a} {colour} {shape} is standing still",
            "{a} {colour} {shape} does not move",
        ]
    )
    """ways of saying what stands still"""
    picture_captions: list[str] = field(default_factory=lambda: ["{a} {colour} {shape}"])
    """ways of saying what a picture, a clip of one frame, shows"""
    pair_caption: str = "{first} and {second}"
    """how the captions of two shapes become one"""
    background_caption: str | None = None
    """what is added to a caption to say its {background}; not said if not given, and not judged then"""
    radius: tuple[float, float] = (0.15, 0.21)
    """smallest and largest radius of a circle, as a share of the frame; other shapes are as large to the eye"""
    path: tuple[float, float] = (0.25, 0.42)
    """shortest and longest way of a moving shape, as a share of the frame"""
    num_frames: int = 17
    """frames of a clip"""
    image_size: int = 64
    """height and width in pixels"""
    fps: float = 8
    """frames per second written into the files"""

    aliases: ClassVar[dict[str, str]] = {}
    accepted_but_unused: ClassVar[dict[str, str]] = {}

    @property
    def all_colours(self) -> dict[str, Colour]:
        """Those of training and the new ones."""
        return self.colours | self.new_colours

    @property
    def says_background(self) -> bool:
        """Whether captions say it, so that it is judged."""
        return self.background_caption is not None

    def check(self) -> None:
        require_at_least(self, num_frames=2, image_size=32, held_out_seed=0)
        require(self, "fps", self.fps > 0, "more than 0")
        templates = ("moving_captions", "still_captions", "picture_captions")
        for name in ("colours", "shapes", "motions", "backgrounds", *templates):
            require(self, name, bool(getattr(self, name)), "one or more")
        for name in ("motions", "backgrounds"):
            require(self, name, len(set(getattr(self, name))) == len(getattr(self, name)), "each of them once")
        for name, (low, high) in (("radius", (0.05, 0.25)), ("path", (0.2, 0.6))):
            first, last = getattr(self, name)
            require(self, name, low <= first <= last <= high, f"two of {low:g} to {high:g}, the smaller first")
        self._check_colours()
        self._check_shapes()
        self._check_room()
        self._check_captions()
        self._check_held_out()

    def _check_colours(self) -> None:
        twice = self.colours.keys() & self.new_colours.keys()
        if twice:
            raise SettingError(f"{min(twice)} is one of colours and of new_colours; keep one of them", "new_colours")
        if self.objects == 2 and len(self.colours) < 2:
            raise SettingError("two objects have different colours; give two or more", "colours")
        for name, colour in self.all_colours.items():
            place = f"{'colours' if name in self.colours else 'new_colours'}.{name}"
            _check_word(name, place)
            if name in ("train", "unseen", "all"):
                raise SettingError(f"{name} is the name of a part of the data; call the colour something else", place)
            if isinstance(colour, tuple) and not all(0 <= value <= 255 for value in colour):
                raise SettingError(f"{place}={list(colour)} has to be red, green and blue of 0 to 255", place)
            if isinstance(colour, float) and not 0 <= colour < 360:
                raise SettingError(f"{place}={colour:g} has to be a hue of 0 to 360 degrees", place)
        for (first, one), (second, other) in itertools.combinations(self.all_colours.items(), 2):
            if not apart(one, other):
                raise SettingError(
                    f"{first} and {second} are too much alike to be told apart; hues have to differ by {HUE_APART:g} "
                    f"degrees, greys in brightness by {GREY_APART:g}",
                    f"{'colours' if second in self.colours else 'new_colours'}.{second}",
                )
        for (name, colour), background in itertools.product(self.all_colours.items(), self.backgrounds):
            low, high = BRIGHTNESS[background]
            grey = grey_of(colour)
            if grey is not None and low - GREY_APART < grey < high + GREY_APART:
                raise SettingError(
                    f"{name} can hardly be seen on a {background} background; change one of them", "colours"
                )

    def _check_shapes(self) -> None:
        for name, shape in self.shapes.items():
            place = f"shapes.{name}"
            _check_word(name, place)
            if isinstance(shape, str) and shape not in OUTLINES:
                raise SettingError(f"{place}={shape} is no outline; use {', '.join(OUTLINES)}, or corners", place)
            flaw = None if isinstance(shape, str) else flaw_of(shape)
            if flaw:
                raise SettingError(f"the shape {name} {flaw}", place)

    def _check_room(self) -> None:
        """The largest shapes have to find room for their longest way, with one pixel at each side."""
        room = 1 - 3 / self.image_size
        for (name, shape), motion in itertools.product(self.shapes.items(), self.motions):
            left, right, up, down = outline_of(shape).reach
            for side, step in zip((left + right, up + down), MOTIONS[motion].vector):
                if side * self.radius[1] + abs(step) * self.path[1] > room:
                    raise SettingError(
                        f"radius up to {self.radius[1]:g} and path up to {self.path[1]:g} leave a {name} that goes "
                        f"{motion} no room in {self.image_size} pixels; make one of them smaller",
                        "radius",
                        "path",
                    )

    def _check_captions(self) -> None:
        at_rest = FIELDS - {"way"}
        for name, wanted in (("moving_captions", FIELDS), ("still_captions", at_rest), ("picture_captions", at_rest)):
            for text in getattr(self, name):
                _check_template(text, name, wanted, wanted - {"a"})
        _check_template(self.pair_caption, "pair_caption", {"first", "second"}, {"first", "second"})
        if self.background_caption is not None:
            _check_template(self.background_caption, "background_caption", {"background"}, {"background"})
        said = [*self.all_colours, *self.shapes, *(self.backgrounds if self.says_background else ())]
        twice = [name for name in said if said.count(name) > 1]
        if twice:
            raise SettingError(f"{twice[0]} means two things in captions; call one of them something else", "shapes")

    def _check_held_out(self) -> None:
        if not isinstance(self.held_out, list):
            require(self, "held_out", 0 <= self.held_out <= 0.5, "a share from 0 to 0.5, or a list")
        else:
            for combination in self.held_out:
                for label, known in zip(combination, (self.colours, self.shapes, self.motions)):
                    if label not in known:
                        raise SettingError(
                            f"held_out has {' '.join(combination)}, but this world has no {label}; it has "
                            f"{', '.join(known)}",
                            "held_out",
                        )
        with about("held_out"):
            from opensora.toy.combinations import held_out

            left = set(itertools.product(self.colours, self.shapes, self.motions)) - held_out(self)
            for name, place in (("colours", 0), ("shapes", 1), ("motions", 2)):
                missing = set(getattr(self, name)) - {labels[place] for labels in left}
                if missing:
                    raise SettingError(
                        f"held_out leaves nothing with {min(missing)} to train on; hold out less", "held_out"
                    )


TOY = WorldConfig()
"""The built-in world."""


def apart(first: Colour, second: Colour) -> bool:
    """Whether the judge can tell two colours."""
    greys = grey_of(first), grey_of(second)
    if None not in greys:
        return abs(greys[0] - greys[1]) >= GREY_APART
    if greys != (None, None):
        return True
    return abs((hue_of(first) - hue_of(second) + 180) % 360 - 180) >= HUE_APART


def grey_of(colour: Colour) -> float | None:
    """The brightness of a colour without a hue, 0..255; None if it has one."""
    if not isinstance(colour, tuple):
        return None
    is_grey = colorsys.rgb_to_hsv(*(value / 255 for value in colour))[1] < MIN_SATURATION
    return sum(colour) / 3 if is_grey else None


def hue_of(colour: Colour) -> float:
    """The hue in degrees."""
    if isinstance(colour, tuple):
        return 360 * colorsys.rgb_to_hsv(*(value / 255 for value in colour))[0]
    return colour


def _check_word(name: str, place: str) -> None:
    """Names stand in captions and in names of folders."""
    if not name or not all(part.isalpha() for part in name.replace("-", " ").split(" ")) or name != name.lower():
        raise SettingError(
            f"{place} has to be a name of small letters, its words with spaces or hyphens between", place
        )


def _check_template(text: str, name: str, allowed: set[str], needed: set[str]) -> None:
    example = " ".join(f"{{{field}}}" for field in sorted(needed))
    try:
        parts = [part[1:] for part in string.Formatter().parse(text) if part[1] is not None]
    except ValueError:
        raise SettingError(f"{name} has {text!r}, whose braces do not match; write {example}", name) from None
    found = {field for field, _, _ in parts}
    if not needed <= found <= allowed or any(spec or conversion for _, spec, conversion in parts):
        raise SettingError(f"{name} has {text!r}; it has to have {example}, and no other names in braces", name)


def read_world(path: FilePath | None) -> WorldConfig:
    """The world that a file describes, checked; the built-in one without a file.

    Raises:
        UserError: no such file, or what it says cannot be drawn or judged.
    """
    return parse(WorldConfig, ["--config", str(path)] if path else [])
