"""The commands in the documentation exist, and take the flags that they are given there."""

import re
import shlex
from pathlib import Path

import pytest

from mindone.config import load
from opensora import config as schemas

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "opensora_hpcai"
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "examples/*/*.md", "examples/*/docs/*.md")
    for path in ROOT.glob(pattern)
) + sorted(EXAMPLE.glob("configs/**/*.md"))
SCHEMAS = {
    "train.py": schemas.TrainConfig,
    "inference.py": schemas.GenerateConfig,
    "infer_t5.py": schemas.EmbedTextConfig,
    "infer_vae.py": schemas.EmbedVideoConfig,
    "infer_vae_decode.py": schemas.DecodeConfig,
    "train_vae.py": schemas.TrainVaeConfig,
}


def commands(document: Path) -> list[list[str]]:
    """The words of every command in the document's bash blocks and in its `inline code`, continuation lines joined."""
    text = document.read_text(encoding="utf-8")
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:python|bash|msrun) [^`]+)`", text)
    words = [shlex.split(line, comments=True) for line in lines]
    return [line for line in words if line and line[0] in ("python", "bash", "msrun")]


def script_of(command: list[str]) -> str | None:
    return next((word for word in command[1:] if word.endswith((".py", ".sh"))), None)


def folder_of(document: Path) -> Path:
    """Where a document's commands run: the example's documents say that theirs run in its folder."""
    return EXAMPLE if EXAMPLE in document.parents else ROOT


def documented(*names: str) -> list:
    found = [
        pytest.param(folder_of(document), command, id=f"{document.relative_to(ROOT)}:{' '.join(command)[:60]}")
        for document in DOCUMENTS
        for command in commands(document)
        if script_of(command) and (not names or Path(script_of(command)).name in names)
    ]
    assert found
    return found


@pytest.mark.parametrize("folder, command", documented())
def test_documented_scripts_exist(folder, command):
    assert (folder / script_of(command)).is_file()


@pytest.mark.parametrize("folder, command", documented(*SCHEMAS))
def test_documented_flags_are_understood(folder, command, monkeypatch):
    monkeypatch.chdir(folder)
    script = script_of(command)
    arguments = [word for word in command[command.index(script) + 1 :] if word != "..."]
    if arguments and arguments[-1] == "--config":
        arguments.pop()
    load(SCHEMAS[Path(script).name], arguments)


def test_every_linked_file_exists():
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.relative_to(ROOT)} links to {target}"


def test_the_demo_asks_for_what_the_score_tool_understands():
    from opensora.data.toy_score import expected

    text = (ROOT / "scripts" / "demo.sh").read_text(encoding="utf-8")
    prompts = re.findall(r'"(a [^"$]+|the [^"$]+)"', text)
    assert len(prompts) >= 4
    for prompt in prompts:
        assert all(expected(prompt)), prompt
