import errno
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from mindone.checkpoint import RunCheckpoints, read_tensors, save_ckpt
from mindone.checkpoint.run import MANIFEST, verify_manifest
from mindone.errors import UserError

# Saves step 1, then is killed at the n-th operation on the file system while it saves `step`, for every n.
KILLED_EVERYWHERE = """
import json, os, shutil, signal, sys
from mindone.checkpoint.run import RunCheckpoints

folder, step = sys.argv[1], int(sys.argv[2])
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}

def save_and_be_killed(n):
    count = 0
    def hook(event, args):
        nonlocal count
        count += event in EVENTS
        if count == n:
            os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    RunCheckpoints(folder, keep_last=1).save(step, {"a": b"new", "b": lambda path: path.write_bytes(b"x" * 999)})
    os._exit(0)

prepared = folder + "-prepared"
RunCheckpoints(prepared, 1).save(1, {"a": b"old", "b": b"y"})
n, results = 0, []
while not results or results[-1][0]:
    n += 1
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(prepared, folder)
    pid = os.fork()
    if pid == 0:
        save_and_be_killed(n)
    killed = os.waitpid(pid, 0)[1] != 0
    latest = RunCheckpoints(folder, 1).latest()
    results.append((killed, latest.step, latest.file("a").read_text(), latest.file("b").stat().st_size))
    RunCheckpoints(folder, 1).clean()
    assert not [name for name in os.listdir(folder) if name.startswith(".")]
print(json.dumps(results))
"""

KILLED_IN_A_WRITER = """
import sys, time
from mindone.checkpoint.run import RunCheckpoints

def endless(path):
    with open(path, "wb") as file:
        file.write(b"half of it")
        file.flush()
        print("writing", flush=True)
        time.sleep(60)

RunCheckpoints(sys.argv[1]).save(2, {"first": b"done", "second": endless})
"""


def contents(checkpoint):
    return {path.name: path.read_bytes() for path in checkpoint.path.iterdir() if path.name != MANIFEST}


def test_a_checkpoint_holds_its_files_and_what_was_stored_with_it(tmp_path):
    runs = RunCheckpoints(tmp_path / "ckpt")
    assert runs.latest() is None
    saved = runs.save(100, {"a.bin": b"123", "model/x": lambda path: path.write_text("hi")}, {"loss": 0.5})
    assert saved.path.name == "step-00000100"
    latest = runs.latest()
    assert (latest.step, latest.metadata) == (100, {"loss": 0.5})
    assert latest.file("a.bin").read_bytes() == b"123"
    assert latest.file("model/x").read_text() == "hi"
    assert set(json.loads((latest.path / MANIFEST).read_text())["files"]) == {"a.bin", "model/x"}
    with pytest.raises(UserError, match="has no optimizer"):
        latest.file("optimizer")


@pytest.mark.parametrize(("keep_last", "kept"), [(2, [4, 12]), (1, [12]), (0, [1, 2, 3, 4, 12])])
def test_the_last_ones_are_kept(tmp_path, keep_last, kept):
    runs = RunCheckpoints(tmp_path, keep_last)
    for step in (1, 2, 3, 4, 12):
        runs.save(step, {"a": b"x"})
    assert [checkpoint.step for checkpoint in runs.all()] == kept
    assert len(list(tmp_path.iterdir())) == len(kept)


def test_a_step_saved_again_replaces_the_first(tmp_path):
    runs = RunCheckpoints(tmp_path, 2)
    for step, content in ((1, b"1"), (2, b"first"), (2, b"second"), (2, b"third")):
        runs.save(step, {"a": content})
    assert [(checkpoint.step, contents(checkpoint)["a"]) for checkpoint in runs.all()] == [(1, b"1"), (2, b"third")]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_save_that_fails_leaves_the_one_before(tmp_path):
    runs = RunCheckpoints(tmp_path)
    runs.save(1, {"a": b"x"})

    def fail(path):
        path.write_bytes(b"half")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        runs.save(2, {"a": b"y", "b": fail})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_process_killed_while_it_writes_leaves_the_one_before(tmp_path):
    runs = RunCheckpoints(tmp_path)
    runs.save(1, {"first": b"whole"})
    command = [sys.executable, "-c", KILLED_IN_A_WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        process.kill()
    assert runs.latest().step == 1
    assert contents(runs.latest()) == {"first": b"whole"}
    assert len(list(tmp_path.iterdir())) == 2
    runs.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert runs.save(2, {"first": b"again"}).step == runs.latest().step == 2


@pytest.mark.parametrize("step", [1, 2])
def test_a_kill_at_any_operation_leaves_a_whole_checkpoint(tmp_path, step):
    command = [sys.executable, "-c", KILLED_EVERYWHERE, str(tmp_path / "ckpt"), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    results = [tuple(result) for result in json.loads(done.stdout)]
    old, new = (1, "old", 1), (step, "new", 999)
    assert {result[1:] for result in results} == {old, new}
    assert len(results) > 15
    assert results[-1] == (False, *new)
    turn = results.index((True, *new))
    assert all(result[1:] == new for result in results[turn:])


@pytest.mark.parametrize("damage", ["cut", "changed", "missing file", "no manifest", "damaged manifest"])
def test_a_damaged_checkpoint_is_left_out_by_name_and_the_one_before_is_taken(tmp_path, caplog, damage):
    runs = RunCheckpoints(tmp_path)
    runs.save(1, {"a": b"good"})
    file = runs.save(2, {"a": b"12345678"}).path / "a"
    manifest = file.with_name(MANIFEST)
    {
        "cut": lambda: file.write_bytes(b"1234"),
        "changed": lambda: file.write_bytes(b"1234567_"),
        "missing file": file.unlink,
        "no manifest": manifest.unlink,
        "damaged manifest": lambda: manifest.write_text('{"step": 2, "files"'),
    }[damage]()
    with caplog.at_level(logging.WARNING):
        assert runs.latest().step == 1
    assert "step-00000002" in caplog.text
    with pytest.raises(UserError, match="step-00000002"):
        verify_manifest(tmp_path / "step-00000002")


def test_damaged_checkpoints_do_not_push_out_the_last_good_one(tmp_path):
    runs = RunCheckpoints(tmp_path, keep_last=2)
    for step in (1, 2, 3):
        runs.save(step, {"a": b"x"})
    (tmp_path / "step-00000003" / MANIFEST).unlink()
    runs.save(4, {"a": b"x"})
    assert [checkpoint.step for checkpoint in runs.all()] == [2, 4]


@pytest.mark.parametrize("name", ["../a", "/tmp/a", "x/../../a", MANIFEST])
def test_files_stay_inside_their_checkpoint(tmp_path, name):
    with pytest.raises(UserError, match="cannot be the name"):
        RunCheckpoints(tmp_path).save(1, {name: b"x"})
    assert not list(tmp_path.iterdir())


def test_a_manifest_that_leads_out_of_its_folder_is_refused(tmp_path):
    RunCheckpoints(tmp_path).save(1, {"a": b"x"})
    manifest = tmp_path / "step-00000001" / MANIFEST
    manifest.write_text(manifest.read_text().replace('"a"', '"../../secret"'))
    with pytest.raises(UserError, match="cannot be the name"):
        verify_manifest(manifest.parent)


def test_a_run_that_begins_anew_keeps_its_own_checkpoints(tmp_path):
    """The order is that of writing: higher steps of the run before do not push out what was just written."""
    old = RunCheckpoints(tmp_path, keep_last=1)
    old.save(130, {"a": b"old"})
    runs = RunCheckpoints(tmp_path, keep_last=1)
    for step in (10, 20):
        runs.save(step, {"a": b"new"})
        assert [checkpoint.step for checkpoint in runs.all()] == [step]
        assert runs.latest().step == step


def test_checkpoints_that_do_not_say_their_place_come_before_those_that_do(tmp_path):
    runs = RunCheckpoints(tmp_path, keep_last=0)
    for step in (100, 200, 10):
        runs.save(step, {"a": b"x"})
    for name in ("step-00000100", "step-00000200"):
        manifest = tmp_path / name / MANIFEST
        content = json.loads(manifest.read_text())
        del content["written"]
        manifest.write_text(json.dumps(content))
    assert [checkpoint.step for checkpoint in runs.all()] == [100, 200, 10]


def test_every_so_many_steps_one_is_kept_for_good(tmp_path):
    runs = RunCheckpoints(tmp_path, keep_last=1, keep_every=4)
    for step in range(1, 11):
        runs.save(step, {"a": b"x"})
    assert [checkpoint.step for checkpoint in runs.all()] == [4, 8, 10]
    with pytest.raises(UserError, match="keep_every=-1"):
        RunCheckpoints(tmp_path, keep_every=-1)


def test_a_checkpoint_that_cannot_be_deleted_does_not_end_the_run(tmp_path, monkeypatch, caplog):
    runs = RunCheckpoints(tmp_path, keep_last=1)
    runs.save(1, {"a": b"x"})
    rename = os.rename

    def held(source, target):
        if os.path.basename(source) == "step-00000001":
            raise OSError(errno.EBUSY, "Device or resource busy")
        rename(source, target)

    monkeypatch.setattr("os.rename", held)
    assert runs.save(2, {"a": b"y"}).step == runs.latest().step == 2
    assert "step-00000001 stays" in caplog.text


def test_a_file_that_is_shorter_than_its_manifest_says_is_refused(tmp_path):
    path = RunCheckpoints(tmp_path).save(1, {"model/a.ckpt": lambda path: save_ckpt(path, {"w": np.zeros(3)})}).path
    file = path / "model" / "a.ckpt"
    file.write_bytes(file.read_bytes()[:-17])
    with pytest.raises(UserError, match=r"a\.ckpt has \d+ of the \d+ bytes that were saved"):
        read_tensors(file)
