"""The commands in the documentation exist, take the flags that they are given there, and are not refused."""

import ast
import os
import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from mindone.config import check, load
from mindone.parallel.launch import launch_parser
from opensora import families
from opensora.cli import DOORS, GROUPS, all_doors
from opensora.cli import load as load_object

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "opensora_hpcai"
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/*/*.md", "examples/*/docs/**/*.md")
    for path in ROOT.glob(pattern)
) + sorted(EXAMPLE.glob("configs/**/*.md"))
VARIABLE = re.compile(r"\w+=.*")


def commands(document: Path) -> list[list[str]]:
    """The words of every command in the document's bash blocks and in its `inline code`, continuation lines joined."""
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:python|bash|msrun|opensora) [^`]+)`", text)
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if program_of(line) in ("python", "bash", "msrun", "opensora")]


def program_of(command: list[str]) -> str | None:
    """Its first word that sets no variable."""
    return next((word for word in command if not VARIABLE.fullmatch(word)), None)


def script_of(command: list[str]) -> str | None:
    return next((word for word in command[1:] if word.endswith((".py", ".sh"))), None)


def door_of(command: list[str], folder: Path) -> tuple[str, list[str]] | None:
    """The door that a command opens, and its flags; None for scripts that have no settings.

    What is launched on several devices opens its own.
    """
    if program_of(command) == "opensora" and command[1] == "launch":
        given = launch_parser("opensora launch").parse_args(command[2:])
        assert given.nproc or given.hostfile
        return door_of(["python", *command[command.index(script_of(command)) :]], folder)
    if program_of(command) == "opensora":
        if command[1] in GROUPS:
            name = " ".join(command[1:3])
            return (name, command[3:]) if name in all_doors() else None
        return (command[1], command[2:]) if command[1] in DOORS else None
    script = script_of(command)
    found = re.search(r'enter\("([\w-]+)"\)', (folder / script).read_text())
    return (found[1], command[command.index(script) + 1 :]) if found else None


def folder_of(document: Path) -> Path:
    """Where a document's commands run: the example's documents say that theirs run in its folder."""
    return EXAMPLE if EXAMPLE in document.parents else ROOT


DOCUMENTED = [
    pytest.param(folder_of(document), command, id=f"{document.relative_to(ROOT)}:{' '.join(command)[:60]}")
    for document in DOCUMENTS
    for command in commands(document)
]
RUN_SCRIPTS = [given for given in DOCUMENTED if "scripts/run/" in (script_of(given.values[1]) or "")]


@pytest.mark.parametrize("folder, command", DOCUMENTED)
def test_documented_scripts_exist_and_their_flags_are_understood(folder, command, monkeypatch):
    monkeypatch.chdir(folder)
    script = script_of(command)
    assert script is None or (folder / script).is_file()
    if program_of(command) == "opensora" and len(command) - (command[1] in GROUPS) == 2:
        is_placeholder = not command[-1].replace("-", "").islower()
        assert is_placeholder or " ".join(command[1:]) in all_doors(), "a command that is only named"
    elif script or program_of(command) == "opensora":
        understand(command, folder)


@pytest.mark.parametrize("folder, command", RUN_SCRIPTS)
def test_documented_run_scripts_print_commands_that_are_understood(folder, command, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = command[command.index("bash") :]
    variables = dict(word.split("=", 1) for word in command[: command.index("bash")])
    done = subprocess.run(
        ["bash", str(folder / words[1]), *words[2:]],
        env={**os.environ, **variables, "DRY_RUN": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        understand(shlex.split(line), folder)


def understand(command: list[str], folder: Path) -> None:
    """Reads a command's settings, and checks them as the command does before it looks at any file."""
    door = door_of(command, folder)
    if door is None or all_doors()[door[0]].schema is None:
        return
    name, flags = door
    arguments = [word for word in flags if word != "..."]
    is_whole = arguments == flags
    if arguments and arguments[-1] == "--config":
        arguments.pop()
    if arguments == ["--help"]:
        return
    config = load(load_object(all_doors()[name].schema), arguments)
    if is_whole:
        check(config)
        versions = {getattr(group, "model_version", None) for group in groups(config)} - {None}
        for version in versions:
            family, config = families.settle(config, version)
            if hasattr(config, "shape") and config.shape.is_fixed and config.shape.num_frames:
                family.size(config.shape)


def groups(config) -> list:
    return [getattr(config, field.name) for field in fields(config)]


def test_the_table_of_commands_is_the_table_of_doors():
    rows = re.findall(
        r"^\| `([\w-]+)` \| `((?:scripts|(?:\.\./\.\./)?tools)/[\w./]+)` \|", (EXAMPLE / "README.md").read_text(), re.M
    )
    assert [name for name, _ in rows] == list(DOORS)
    for name, script in rows:
        assert re.search(rf'enter(\(|, )"{name}"\)', (EXAMPLE / script).read_text())


def test_what_one_adds_is_named_where_the_table_says():
    text = (ROOT / "docs" / "architecture.md").read_text()
    places = re.findall(r"`([\w.]+)`(?: and `(\w+)`)? \(`(opensora/[\w/.]+)`", text[: text.index("## Conventions")])
    assert len(places) >= 7
    for *names, file in places:
        code = (EXAMPLE / file).read_text()
        for name in filter(None, names):
            assert re.search(rf"\b{name.split('.')[-1]}\b", code), f"{file} has no {name}"


def test_every_linked_file_exists():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.relative_to(ROOT)} links to {target}"


def texts_of(path):
    """The texts of a source file, with an ellipsis where a value stands in them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "...".join(part.value for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_message_with_a_remedy_is_one_that_the_code_gives():
    rows = re.findall(r"^\| (\".*?) \|", (EXAMPLE / "docs" / "errors.md").read_text(encoding="utf-8"), re.M)
    quoted = [part.strip() for row in rows for text in re.findall(r'"([^"]+)"', row) for part in text.split("...")]
    sources = [*(ROOT / "mindone").rglob("*.py"), *(EXAMPLE / "opensora").rglob("*.py")]
    known = "\n".join(text for path in sources for text in texts_of(path))
    assert len(quoted) > 20
    assert [text for text in quoted if text not in known] == []


def test_the_demo_asks_for_what_the_score_tool_understands():
    from opensora.toy.judge import expected

    text = (ROOT / "scripts" / "demo.sh").read_text(encoding="utf-8")
    prompts = re.findall(r'"(a [^"$]+|the [^"$]+)"', text)
    assert len(prompts) >= 4
    for prompt in prompts:
        assert all(expected(prompt)), prompt
