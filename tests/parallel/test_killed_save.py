"""A rank that is killed while all write a checkpoint of slices leaves the checkpoint before it as it was."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mindone.checkpoint import read_tensors
from mindone.checkpoint.run import RunCheckpoints, verify_manifest

PATIENCE = 300
SCRIPT = Path(__file__).with_name("killed_script.py")


def start(folder, *where):
    command = [sys.executable, "-m", "mindone.parallel.launch", "--nproc", "2", "--log_dir", str(folder / "logs")]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([*command, str(SCRIPT), str(folder), *where], **streams)


def kill_standing(folder, process):
    """Kills the rank that stands still as the system does when memory is short."""
    standing = folder / "standing"
    for _ in range(PATIENCE * 10):
        if standing.exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    assert standing.exists(), process.communicate()[0][-3000:]
    os.kill(int(standing.read_text()), signal.SIGKILL)


def weights(folder):
    return {name: np.array(array) for name, array in read_tensors(folder / "model").items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    output, _ = start(folder).communicate(timeout=PATIENCE)
    assert "went on from update 0" in output, output[-3000:]
    assert not list((folder / "ckpt").glob(".tmp-*")) and "unfinished" not in output
    return weights(folder)


@pytest.mark.msrun
@pytest.mark.parametrize(("where", "left"), [("slices", "slices"), ("index", "step-00000002")])
def test_a_rank_killed_in_a_save_of_slices_leaves_the_checkpoint_before(uninterrupted, tmp_path, where, left):
    process = start(tmp_path, where)
    kill_standing(tmp_path, process)
    process.communicate(timeout=PATIENCE)
    assert process.returncode not in (0, None)
    assert [checkpoint.step for checkpoint in RunCheckpoints(tmp_path / "ckpt").all()] == [1]
    assert verify_manifest(RunCheckpoints(tmp_path / "ckpt").latest().path)
    unfinished = [path.name for path in (tmp_path / "ckpt").glob(".tmp-*") if path.name.endswith(left)]
    assert len(unfinished) == 1
    output, _ = start(tmp_path).communicate(timeout=PATIENCE)
    assert "went on from update 1" in output, output[-3000:]
    assert f"{unfinished[0]}: a save that was interrupted left it unfinished" in output
    assert sorted(path.name for path in (tmp_path / "ckpt").iterdir()) == [f"step-0000000{step}" for step in (1, 2, 3)]
    found = weights(tmp_path)
    assert found.keys() == uninterrupted.keys()
    assert all(np.array_equal(found[name], uninterrupted[name]) for name in found)
