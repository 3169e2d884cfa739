"""The console command and the scripts: doors that open at once and refuse in one line."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindone.checkpoint import read_tensors, save_safetensors
from opensora.cli import DOORS, GROUPS, all_doors, load, main

SCRIPTS = Path(__file__).parents[1] / "scripts"


def test_help_lists_all_commands(capsys):
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    assert all(f"  {name} " in listed for name in DOORS)


@pytest.mark.parametrize("group", GROUPS)
def test_help_of_a_group_lists_its_verbs(group, capsys):
    assert main([group]) == 0 and main([group, "--help"]) == 0
    listed = capsys.readouterr().out
    assert all(listed.count(f"\n  {name} ") == 2 for name in GROUPS[group][1])


def test_an_unknown_verb_is_refused_with_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["data", "indx"])
    assert leaving.value.code == 2
    assert capsys.readouterr().err == "error: unknown command 'data indx'; did you mean data index?\n"


def test_unknown_command_is_refused_with_the_nearest_one(capsys):
    with pytest.raises(SystemExit) as leaving:
        main(["generat"])
    assert leaving.value.code == 2
    assert capsys.readouterr().err == "error: unknown command 'generat'; did you mean generate?\n"


def test_convert_writes_another_format(tmp_path, capsys):
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_safetensors(tmp_path / "a.safetensors", {"norm.weight": weight})
    source, target = str(tmp_path / "a.safetensors"), str(tmp_path / "a.ckpt")
    assert main(["convert", "--src", source, "--target", target, "--names", "mindspore"]) == 0
    assert "1 tensors, 24 bytes" in capsys.readouterr().out
    assert np.array_equal(read_tensors(target)["norm.gamma"], weight)


@pytest.mark.parametrize("command", all_doors())
def test_every_command_leads_somewhere(command):
    door = all_doors()[command]
    assert callable(load(door.function))
    assert door.schema is None or isinstance(load(door.schema), type)


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_every_script_explains_itself_without_mindspore(script):
    code = (
        "import runpy, sys\n"
        f"sys.argv = ['{script}', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(SCRIPTS / script)!r}, run_name='__main__')\n"
        "finally:\n"
        "    print('mindspore' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert done.stdout.startswith(f"usage: {script} [-c RECIPE.yaml ...]")


def test_wrong_use_of_a_script_ends_with_one_line_and_code_2():
    command = [sys.executable, SCRIPTS / "inference.py", "--sampling_step", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: unknown option '--sampling_step'; did you mean --sampling_steps?\n"
