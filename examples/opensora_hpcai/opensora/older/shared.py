"""What the commands of older systems have in common."""

from __future__ import annotations

from dataclasses import fields

from opensora.config.common import Runtime
from opensora.config.train import TrainRuntime


def training_runtime(runtime: Runtime) -> TrainRuntime:
    """The device of a command, and its seed, or the usual one of a training."""
    given = {item.name: getattr(runtime, item.name) for item in fields(Runtime)}
    return TrainRuntime(**{name: value for name, value in given.items() if name != "seed" or value is not None})
