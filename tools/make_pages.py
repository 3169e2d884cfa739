"""Writes the pages of the documentation that are made of something else: flags of other implementations, and recipes.

python tools/make_pages.py            # writes the pages that have changed
python tools/make_pages.py --check    # names them instead, and ends with exit code 1 if there are any
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mindone.checkpoint.atomic import atomic_write
from mindone.config import Names, descriptions
from mindone.errors import UserError, guarded
from opensora.cli import all_doors, load

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = ROOT / "examples" / "opensora_hpcai"
PUBLISHED = EXAMPLE / "docs" / "published_flags.yaml"
MADE = "<!-- Made by tools/make_pages.py of {source}: change that, and run it. -->"

# --- flags of other implementations ----------------------------------------------------------------------------------


class Published(NamedTuple):
    """A flag or recipe key of another implementation."""

    name: str
    default: Any = None
    """its value there if it was not given; None if there was none, or it is not known"""
    note: str = ""
    """what is different here"""
    instead: str = ""
    """what to use if it does not exist here"""


def published_flags(entries: Mapping[str, Any]) -> list[Published]:
    """The flags of one script, as they stand in published_flags.yaml: a default, or a mapping of what is known."""
    return [
        Published(name, **entry) if isinstance(entry, dict) else Published(name, entry)
        for name, entry in entries.items()
    ]


def flag_row(names: Names, texts: Mapping[str, str], flag: Published) -> list[str]:
    """The cells of a flag: its name there, here, the defaults, what it means.

    Raises:
        UserError: a flag that the command does not know and nothing stands for, or that it knows after all.
    """
    reason = names.reason(flag.name)
    meaning = names.lookup(flag.name)
    if flag.instead and (reason or meaning):
        raise UserError(f"{flag.name} is known here; take its `instead` out of {PUBLISHED.name}")
    if flag.instead:
        return [code(flag.name), "does not exist", "", f"use {flag.instead}" if "`" in flag.instead else flag.instead]
    if meaning is None and reason is None:
        raise UserError(f"{flag.name} is unknown here; say in {PUBLISHED.name} what stands for it, as its `instead`")
    if meaning is None:
        return [code(flag.name), "no effect", "", sentence(reason, flag.note)]
    leaf = meaning.leaf
    here = "the same" if leaf.name == flag.name.rpartition(".")[2] else code(leaf.label)
    return [code(flag.name), here, defaults(flag.default, leaf.default), sentence(texts[leaf.path], flag.note)]


def defaults(there: Any, here: Any) -> str:
    """Both defaults if they differ and the other one is known, else the one that is valid here."""
    if there is None or there == here or (isinstance(there, list) and there == list(here or ())):
        return shown(here)
    return f"{shown(here)} (there {shown(there)})"


def shown(value: Any) -> str:
    """A default as the command line takes it."""
    if value is None or value == {}:
        return "left open"
    if isinstance(value, list | tuple):
        return code(" ".join(map(str, value)))
    return code(f"{value:g}" if isinstance(value, float) else str(value))


def flags_page(title: str, before: str, scripts: Iterable[Mapping[str, Any]]) -> str:
    """A table for each script of another implementation."""
    parts = [
        MADE.format(source="published_flags.yaml and the schemas in opensora/config"),
        f"# {title}",
        before.strip(),
        "Names are those of the command line, and of recipes. *The same* is the name here too; *no effect*: it is "
        "accepted with a notice that says why. *Left open*: nothing, or what the model version says; the explanation "
        "tells. How the two relate in the large stands in [migration](migration.md).",
    ]
    for script in scripts:
        schema = load(all_doors()[script["command"]].schema)
        names, texts = Names(schema), descriptions(schema)
        rows = [flag_row(names, texts, flag) for flag in published_flags(script["flags"])]
        parts += [
            f"## {script['script']}",
            f"Here: `opensora {script['command']}`.",
            table(["there", "here", "default", "what it does"], rows),
        ]
    return "\n\n".join(parts) + "\n"


# --- recipes ---------------------------------------------------------------------------------------------------------

GROUPS = {
    "opensora": "Open-Sora 1.0",
    "opensora-v1-1": "Open-Sora 1.1",
    "opensora-v1-2": "Open-Sora 1.2",
    "opensora-v2-0": "Open-Sora 2.0",
    "vae": "Autoencoders",
    "tiny": "The toy world, on a laptop",
    "data": "From films to a training table",
}
LABELS = ("Hardware: ", "Command: ", "Training: ")


def header(path: Path) -> dict[str, str]:
    """What a recipe says of itself: "" is what it is, then its hardware and commands, by their labels."""
    lines = path.read_text(encoding="utf-8").splitlines()
    found: dict[str, str] = {"": ""}
    label = ""
    for line in (line[1:].strip() for line in takewhile(lambda line: line.startswith("#"), lines)):
        begun = next((name for name in LABELS if line.startswith(name)), None)
        goes_on = found[label].endswith("\\")
        if begun:
            label = begun.rstrip(": ")
            found[label] = line.removeprefix(begun)
        elif goes_on:
            found[label] += f"\n    {line}"
        else:
            label = ""
            found[label] = f"{found[label]} {line}".strip()
    return found


def recipes_page() -> str:
    """Every shipped recipe with what it is, what it was meant for and its command."""
    configs = EXAMPLE / "configs"
    parts = [
        MADE.format(source="the first lines of the recipes"),
        "# Recipes",
        "A recipe is a YAML file of settings; flags win over it. [How recipes and flags work](config.md), "
        "[which recipe starts from which weights](../README.md#train). Names in capitals are yours.",
    ]
    folders = {path.relative_to(configs).parts[0] for path in configs.rglob("*.yaml")}
    unknown = sorted(folders - GROUPS.keys())
    if unknown:
        raise UserError(f"configs has folders without a title: {', '.join(unknown)}; give them one in GROUPS")
    for folder, title in GROUPS.items():
        parts.append(f"## {title}")
        for path in sorted((configs / folder).rglob("*.yaml")):
            parts += recipe_parts(path)
    parts += ["## Shared models", "Presets that recipes name, as in `vae: {autoencoder_kl: sdxl-vae}`:"]
    presets = [[code(path.stem), header(path)[""]] for path in sorted((ROOT / "configs").glob("*.yaml"))]
    return "\n\n".join([*parts, table(["preset", "what it is"], presets)]) + "\n"


def recipe_parts(path: Path) -> Iterator[str]:
    """Heading, text and command of one recipe."""
    said = header(path)
    yield f"### {path.relative_to(EXAMPLE / 'configs')}"
    yield escaped(said[""])
    settings = f"[Settings](../{path.relative_to(EXAMPLE).as_posix()})."
    yield f"Hardware: {escaped(said['Hardware'].rstrip('.'))}. {settings}" if "Hardware" in said else settings
    commands = [said[name] for name in ("Command", "Training") if name in said]
    yield "\n".join(["```bash", *(line if line.startswith("opensora") else runnable(line) for line in commands), "```"])


def runnable(command: str) -> str:
    """A command with its interpreter."""
    return command if command.startswith("python ") else f"python {command}"


# --- Markdown --------------------------------------------------------------------------------------------------------


def code(text: str) -> str:
    """Code within a cell of a table."""
    return "`{}`".format(text.replace("|", "\\|"))


def escaped(text: str) -> str:
    """Text whose stars, lines and brackets are no Markdown."""
    return "".join(f"\\{letter}" if letter in "*|<[_" else letter for letter in text)


def sentence(text: str, note: str) -> str:
    """An explanation and a note as one cell."""
    return escaped(text) + (f"; {escaped(note)}" if note else "")


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# --- the command -----------------------------------------------------------------------------------------------------


def pages() -> dict[Path, str]:
    """All pages, by path.

    Raises:
        UserError: a flag or a folder of recipes that nothing is said about.
    """
    published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    docs = EXAMPLE / "docs"
    return {
        docs / "migration_port.md": flags_page(
            "Flags of the earlier MindSpore port",
            "Every flag and recipe key of the port's commands, which are accepted here as they are.",
            published["mindspore_port"],
        ),
        docs / "migration_open_sora.md": flags_page(
            "Flags of Open-Sora",
            "Flags and config keys of Open-Sora's own scripts, written with `_` (dashes are accepted as well). Many "
            "are accepted as they are; for the others stands what to use instead.",
            published["open_sora"],
        ),
        docs / "recipes.md": recipes_page(),
    }


@guarded
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="name the pages that are not up to date; write nothing")
    check = parser.parse_args().check
    stale = [(path, text) for path, text in pages().items() if not path.is_file() or path.read_text("utf-8") != text]
    for path, text in stale:
        print(f"{path.relative_to(ROOT)} {'is not up to date' if check else 'is written'}")
        if not check:
            with atomic_write(path) as file:
                file.write(text.encode("utf-8"))
    if check and stale:
        print("run python tools/make_pages.py")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
