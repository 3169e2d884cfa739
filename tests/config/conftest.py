"""A command with all kinds of settings, and the ways to give them."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import pytest

from mindone.config import (
    AnyFloat,
    Entries,
    FilePath,
    FilePaths,
    Settings,
    load,
    require,
    require_at_least,
)
from mindone.errors import UserError


@dataclass
class Machine:
    """Where it runs."""

    mode: Literal[0, 1] = 0
    """0 is 100% graph"""
    device: Literal["auto", "CPU", "Ascend"] = "auto"
    use_parallel: bool = False
    resume: bool | FilePath = False


@dataclass
class Network:
    """Published sizes."""

    depth: int = 28
    mlp_ratio: float = 4.0
    name: str | None = None
    weights: FilePath | None = None
    patch_size: tuple[int, int, int] = (1, 2, 2)


@dataclass
class Loop:
    """How long it runs."""

    batch_size: int = 10
    """samples per batch"""
    rate: float = 1e-5
    limit: AnyFloat = float("inf")
    betas: tuple[float, float] = (0.9, 0.999)
    image_size: int | list[int] | None = None
    num_frames: int | str = 16
    captions: list[str] | None = None
    references: list[FilePaths] | None = None
    weights: FilePath | None = "hub/model"
    ratio: str | None = None
    mask_ratios: dict[str, float] | None = None
    buckets: dict[str, dict[int, Any]] | None = None
    network: dict[str, Any] = field(default_factory=dict)
    denoiser: Annotated[dict[str, Any], Entries(Network)] = field(default_factory=dict)

    def check(self):
        require_at_least(self, batch_size=1)
        require(self, "rate", self.rate < 10, "less than 10")


@dataclass
class Command(Settings):
    """An example."""

    machine: Machine = field(default_factory=Machine)
    loop: Loop = field(default_factory=Loop)

    aliases: ClassVar[dict[str, str]] = {"prompt": "captions"}
    accepted_but_unused: ClassVar[dict[str, str]] = {"patchify": "there is one form of it"}

    def check(self):
        if self.machine.use_parallel and self.machine.mode == 1:
            raise UserError("use_parallel=True needs mode=0")


@pytest.fixture
def command():
    """The schema."""
    return Command


@pytest.fixture
def recipe(tmp_path):
    """Writes a recipe and gives its path."""

    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


@pytest.fixture
def read():
    """The settings of a command line, unchecked."""
    return lambda *argv: load(Command, [str(token) for token in argv])
