"""``opensora data run``: verbs one after the other, each on the table that the one before has written."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path

import yaml

from mindone.checkpoint.atomic import atomic_write, sha256
from mindone.checkpoint.files import read_json
from mindone.config import arguments, leaves, parse, to_yaml
from mindone.data.textfile import lines_of
from mindone.errors import UserError
from opensora import cli
from opensora.config.data import RunDataConfig

logger = logging.getLogger(__name__)

STATE = "pipeline.json"
# Verbs that do not turn one table into another.
NO_TABLE = ("run", "info", "report", "collate", "preprocess")
Values = dict[str, object]


def run(config: RunDataConfig) -> Path:
    """Runs what is not done yet and returns the last table, ``table.csv`` in the folder.

    A step is done if its settings and its input are those of its last run and its table is still as it was written.
    What was begun goes on where it stopped.

    Raises:
        UserError: the file is no pipeline, or a step refuses.
    """
    steps = read_steps(config)
    folder, state_file = Path(config.folder), Path(config.folder, STATE)
    state = _read_state(state_file)
    table, videos = None, str(config.video_folder)
    for number, (verb, values) in enumerate(steps, start=1):
        output = folder / ("table.csv" if number == len(steps) else f"{number:02d}_{verb}.csv")
        door = cli.all_doors()[f"data {verb}"]
        names = leaves(cli.load(door.schema))
        given = {"output": str(output), "video_folder": videos, "inputs": [videos], "table": table}
        given = {name: value for name, value in given.items() if name in names and value is not None} | values
        if "output_folder" in names:
            given = {"output_folder": str(folder / f"{number:02d}_{verb}")} | given
        if "rejected" in names:
            given = {"rejected": str(folder / f"{number:02d}_rejected.csv")} | given
        settings = parse(cli.load(door.schema), arguments(given), f"{config.pipeline}, step {number}")
        label = hashlib.sha256(f"{to_yaml(settings)}{_input(table, videos)}".encode()).hexdigest()
        name = f"{number} {verb}"
        if output.is_file() and state.get(name) == [label, sha256(output)]:
            logger.info("%s is done", name)
        else:
            logger.info("%s", name)
            cli.load(door.function)(settings)
            state[name] = [label, sha256(output)]
            with atomic_write(state_file) as file:
                file.write(json.dumps(state, indent=1).encode())
        table, videos = str(output), str(given.get("output_folder", videos))
    print(f"the table is {table}; its paths start from {videos}")
    return Path(table)


def _read_state(path: Path) -> dict[str, list[str]]:
    """What is done by an earlier run; nothing if its file is damaged."""
    if not path.is_file():
        return {}
    try:
        return dict(read_json(path, "a pipeline's state"))
    except UserError as error:
        logger.warning("%s; all steps are done again", error)
        return {}


def read_steps(config: RunDataConfig) -> list[tuple[str, Values]]:
    """The verbs of a pipeline and their settings, with those of ``set`` in place.

    Raises:
        UserError: it is no list of verbs, names one that there is not, or ``set`` names none of its steps.
    """
    try:
        content = yaml.safe_load("".join(lines_of(config.pipeline)))
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{config.pipeline} is not YAML: {error}") from error
    steps = content.get("steps") if isinstance(content, Mapping) else None
    if not isinstance(steps, list) or not steps:
        raise UserError(f"{config.pipeline} has no list of steps; an example: steps: [{{index: {{probe: all}}}}]")
    found: list[tuple[str, Values]] = []
    for number, step in enumerate(steps, start=1):
        verb, values = next(iter(step.items())) if isinstance(step, Mapping) and len(step) == 1 else (step, None)
        if not isinstance(verb, str) or f"data {verb}" not in cli.all_doors() or verb in NO_TABLE:
            known = ", ".join(cli.GROUPS["data"][1])
            raise UserError(f"{config.pipeline}, step {number} is no verb that gives a table; use one of {known}")
        if not isinstance(values or {}, Mapping):
            raise UserError(
                f"{config.pipeline}, step {number}: the settings of {verb} are no mapping of names to values"
            )
        found.append((verb, dict(values or {})))
    for item in config.set or []:
        name, equals, value = item.partition("=")
        verb, dot, setting = name.partition(".")
        places = [values for known, values in found if known == verb]
        if not (equals and dot and places):
            raise UserError(f"set={item} is not STEP.NAME=VALUE of a step of {config.pipeline}")
        for values in places:
            values[setting] = value
    return found


def _input(table: str | None, videos: str) -> str:
    """What tells a step's input from any other: the table's content, or names, lengths and times of the films."""
    if table:
        return sha256(Path(table))
    files = sorted(os.path.join(place, name) for place, _, names in os.walk(videos) for name in names)
    stats = [os.lstat(file) for file in files]
    return repr([(file, stat.st_size, stat.st_mtime_ns) for file, stat in zip(files, stats)])
