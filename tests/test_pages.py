"""Pages of the documentation that are made of something else are up to date, and say all that there is to say."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from mindone.config import Names, descriptions
from mindone.errors import UserError
from opensora.config import GenerateConfig

ROOT = Path(__file__).parent.parent
TOOL = ROOT / "tools" / "make_pages.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("make_pages", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def row(tool):
    names, texts = Names(GenerateConfig), descriptions(GenerateConfig)
    return lambda *flag, **known: tool.flag_row(names, texts, tool.Published(*flag, **known))


def test_made_pages_are_up_to_date():
    done = subprocess.run([sys.executable, str(TOOL), "--check"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_a_page_that_was_changed_by_hand_is_named(tool, monkeypatch, capsys):
    changed = {path: f"{text}more" for path, text in tool.pages().items()}
    monkeypatch.setattr(tool, "pages", lambda: changed)
    monkeypatch.setattr(sys, "argv", ["make_pages.py", "--check"])
    assert tool.main() == 1
    named = capsys.readouterr().out
    assert all(path.name in named for path in changed)


def test_a_flag_says_its_name_its_defaults_and_its_meaning_here(row):
    assert row("fps", 8) == ["`fps`", "the same", "left open (there `8`)", row("fps")[3]]
    assert row("cfg_scale")[1] == "`guidance_scale`"
    assert row("batch_size", 4)[2] == "`4`"
    assert row("amp_level")[1:3] == ["no effect", ""]
    assert row("loop", note="as there")[3].endswith("; as there")


def test_what_stands_for_a_flag_is_said_if_and_only_if_it_does_not_exist_here(row):
    assert row("flash_attn", instead="nothing")[1] == "does not exist"
    with pytest.raises(UserError, match="flash_attn is unknown here"):
        row("flash_attn")
    for known in ("fps", "amp_level"):
        with pytest.raises(UserError, match=f"{known} is known here"):
            row(known, instead="nothing")


def test_a_recipes_first_lines_are_told_apart(tool, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "# What it is,\n# in two lines.\n# Hardware: one card.\n# It needs this.\n"
        "# Command: python a.py \\\n#   --b c\na: 1\n# no more\n"
    )
    assert tool.header(recipe) == {
        "": "What it is, in two lines. It needs this.",
        "Hardware": "one card.",
        "Command": "python a.py \\\n    --b c",
    }
