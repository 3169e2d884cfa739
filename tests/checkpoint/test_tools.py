import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindone.checkpoint import RunCheckpoints, read_tensors, save_safetensors

TOOLS = Path(__file__).parents[2] / "tools"


def tool(name):
    spec = importlib.util.spec_from_file_location(f"tools_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda *arguments: module.main([str(argument) for argument in arguments])


@pytest.fixture
def refused(capsys):
    """Runs a tool that has to end with exit code 2 and one line, and returns that line."""

    def run(main, *arguments):
        with pytest.raises(SystemExit) as error:
            main(*arguments)
        assert error.value.code == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    return run


def test_convert_writes_what_verify_finds_equal(tmp_path, torch_save, arrays, capsys, refused):
    convert, verify = tool("convert"), tool("verify")
    convert(torch_save(tmp_path / "a.pth", arrays), tmp_path / "b.ckpt")
    convert(tmp_path / "b.ckpt", tmp_path / "c.safetensors")
    verify(tmp_path / "a.pth", tmp_path / "c.safetensors")
    assert "equal: 6 tensors" in capsys.readouterr().out
    save_safetensors(tmp_path / "d.safetensors", {**arrays, "ids": np.arange(1, 5)})
    assert "differ in 1 tensors: ids: other values" in refused(verify, tmp_path / "a.pth", tmp_path / "d.safetensors")


@pytest.mark.parametrize("name", ["broken.safetensors", "broken.pth", "missing.pth"])
def test_convert_leaves_nothing_behind_when_the_source_is_bad(tmp_path, torch_save, arrays, refused, name):
    if name == "broken.pth":
        torch_save(tmp_path / name, arrays)
    elif name == "broken.safetensors":
        save_safetensors(tmp_path / name, arrays)
    if name != "missing.pth":
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-20])
    before = sorted(tmp_path.iterdir())
    assert name in refused(tool("convert"), tmp_path / name, tmp_path / "out.ckpt")
    assert sorted(tmp_path.iterdir()) == before


def test_verify_checks_a_run_against_its_manifest(tmp_path, capsys, refused):
    path = RunCheckpoints(tmp_path).save(1, {"a": b"123"}).path
    tool("verify")(path)
    assert "1 files as saved" in capsys.readouterr().out
    (path / "a").write_bytes(b"124")
    assert "has changed" in refused(tool("verify"), path)


def test_inspect_prints_the_totals_and_on_request_every_tensor(tmp_path, torch_save, arrays, capsys):
    torch_save(tmp_path / "a.pth", arrays)
    tool("inspect_checkpoint")(tmp_path / "a.pth")
    assert "block.weight" not in capsys.readouterr().out
    tool("inspect_checkpoint")(tmp_path / "a.pth", "--all")
    assert "[3, 4]  block.weight" in capsys.readouterr().out
    assert len(read_tensors(tmp_path / "a.pth")) == 6


def test_verify_compares_a_network_with_a_reference_run(golden_dir, tmp_path):
    """In a process of its own, because pytest does not run inside itself."""
    command = [sys.executable, TOOLS / "verify.py", golden_dir / "sched_v12_rflow_losses.json"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    (tmp_path / "v99_unknown.json").write_text("{}")
    command[-1] = tmp_path / "v99_unknown.json"
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no test compares with v99_unknown" in done.stderr
