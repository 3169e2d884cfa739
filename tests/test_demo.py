"""The demo chooses the recipe of a family, and ends with one line where there is none. Nothing is installed or made."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RECIPES = "examples/opensora_hpcai/configs/tiny"


@pytest.fixture
def demo(tmp_path):
    """Runs the demo of a checkout in which 1.0 has no recipe and 2.0 no model, with a python that prints its words."""
    checkout = tmp_path / "a checkout"
    (checkout / "mindone/nn/kernels/csrc").mkdir(parents=True)
    (checkout / "mindone/nn/kernels/csrc/a.h").touch()
    shutil.copytree(ROOT / "scripts", checkout / "scripts")
    for name in ("requirements.txt", "setup.py"):
        (checkout / name).touch()
    (checkout / RECIPES).mkdir(parents=True)
    for name, model in (("v1_1", "stdit2"), ("v1_2", "stdit3"), ("v2_0", "mmdit")):
        (checkout / RECIPES / f"opensora_{name}_sample.yaml").write_text(
            f"denoiser:\n  ckpt_path: ../../models/tiny/{model}\n"
        )
    for model in ("stdit2", "stdit3"):
        (checkout / "examples/opensora_hpcai/models/tiny" / model).mkdir(parents=True)
    python = tmp_path / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\n[ "$1" = -m ] && exit 0\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)

    def run(*words):
        return subprocess.run(
            ["bash", str(checkout / "scripts/demo.sh"), *words],
            env={**os.environ, "MINDONE_VENV": str(tmp_path / "venv")},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return run


@pytest.mark.parametrize(
    ("words", "recipe", "prompts"),
    [
        ([], "v1_2", 6),
        (["a blue square moves up"], "v1_2", 1),
        (["--family", "1.1"], "v1_1", 6),
        (["a red circle", "--family=1.1", "a blue square"], "v1_1", 2),
    ],
)
def test_the_demo_takes_the_recipe_of_its_family_and_the_prompts_that_are_given(words, recipe, prompts, demo):
    done = demo(*words)
    assert done.returncode == 0, done.stderr
    said = done.stdout[done.stdout.index("/examples") :].splitlines()
    assert said[0].endswith("tools/score_toy.py")
    assert said[said.index("--config") + 1].endswith(f"opensora_{recipe}_sample.yaml")
    given = said[said.index("--captions") + 1 :]
    assert len(given) == prompts
    assert prompts == 6 or given == [word for word in words if "family" not in word and not re.match(r"\d", word)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--family", "1.0"], "there is no bundled model of Open-Sora 1.0"),
        (["--family", "2.0"], "the bundled model of Open-Sora 2.0 is missing"),
        (["--family", "3"], "--family 3 is not known; use 1.0, 1.1, 1.2 or 2.0"),
        (["--family"], "--family has no value"),
    ],
)
def test_a_family_that_is_not_there_ends_with_one_line(words, message, demo):
    done = demo(*words)
    assert done.returncode == 2 and message in done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


def test_recipes_name_their_models_as_the_demo_reads_them():
    recipes = sorted((ROOT / RECIPES).glob("opensora_v*_sample.yaml"))
    models = {each: re.findall(r"^ *ckpt_path: *(\S+)$", each.read_text(), re.M) for each in recipes}
    assert all(len(found) == 1 for found in models.values())
    # The others sample what their own training has made.
    shipped = {recipe: model for recipe, (model,) in models.items() if not model.startswith("output/")}
    assert {f"opensora_v{version}_sample.yaml" for version in ("1_0", "1_1", "1_2", "2_0")} == {
        recipe.name for recipe in shipped
    }
    for recipe, model in shipped.items():
        assert (recipe.parent / model / "model.safetensors").is_file(), recipe
