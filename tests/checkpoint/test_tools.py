import importlib.util
import json
import os
import shutil
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
    """In a process of its own, which finds a pytest that cannot be imported: it must not need one."""
    (tmp_path / "pytest.py").write_text("raise ImportError")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, TOOLS / "verify.py", golden_dir / "sched_v12_rflow_losses.json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 0, done.stdout
    assert "3 of 3 comparisons passed" in done.stdout
    (tmp_path / "v99_unknown.json").write_text("{}")
    command[-1] = tmp_path / "v99_unknown.json"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 2
    assert "no test compares with v99_unknown" in done.stderr


def test_verify_says_which_comparison_failed(golden_dir, tmp_path):
    for file in golden_dir.glob("sched_v12_rflow_losses.*"):
        shutil.copy(file, tmp_path)
    sidecar = tmp_path / "sched_v12_rflow_losses.json"
    content = json.loads(sidecar.read_text())
    content["timestep_transform"]["rows"][0][-1] += 1
    sidecar.write_text(json.dumps(content))
    done = subprocess.run([sys.executable, TOOLS / "verify.py", sidecar], capture_output=True, text=True)
    assert done.returncode == 1
    assert "2 of 3 comparisons passed" in done.stdout
    assert "FAILED" in done.stdout
    assert "test_timestep_transform_matches_the_original_table" in done.stdout


def test_inspect_finds_the_model_of_a_run_and_values_that_are_not_finite(tmp_path, capsys):
    def model(path):
        save_safetensors(path / "model.safetensors", {"a": np.ones(2, np.float32), "b": np.array([np.nan])})

    path = RunCheckpoints(tmp_path / "ckpt").save(1, {"ema/config.json": b"{}", "ema": model}).path
    for place in (tmp_path, path, path / "ema"):
        tool("inspect_checkpoint")(place, "--finite")
        assert "finite    all but 1: b" in capsys.readouterr().out


def test_tools_take_averages_on_request(tmp_path, torch_save, capsys):
    weights, average = {"w": np.zeros(2, np.float32)}, {"w": np.ones(2, np.float32)}
    torch_save(tmp_path / "a.pth", {"model": weights, "ema": average})
    tool("convert")(tmp_path / "a.pth", tmp_path / "b.safetensors", "--weights", "ema")
    assert read_tensors(tmp_path / "b.safetensors")["w"].tolist() == [1, 1]
    tool("inspect_checkpoint")(tmp_path / "a.pth", "--weights", "all", "--all")
    out = capsys.readouterr().out
    assert "model.w" in out
    assert "ema.w" in out
