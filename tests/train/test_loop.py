"""Whole runs of a toy network: interrupted, killed, resumed, and on two ranks."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mindone.checkpoint import read_tensors
from mindone.data.plan import FixedPlan
from mindone.errors import UserError
from mindone.parallel.mesh import Mesh
from mindone.testing import golden
from mindone.train import run_folder
from mindone.train.checkpoints import read_state
from mindone.train.loop import Clock, Every, Place
from mindone.train.skipped import SkippedUpdates

SCRIPT = Path(__file__).with_name("toy_script.py")
PATIENCE = 120


def load_script():
    spec = importlib.util.spec_from_file_location("toy_run", SCRIPT.with_name("toy_run.py"))
    module = importlib.util.module_from_spec(spec)
    # The graph compiler looks up a cell's globals in its module, by name.
    sys.modules["toy_run"] = module
    spec.loader.exec_module(module)
    return module


toy_run = load_script()


@pytest.fixture(autouse=True)
def graph_mode():
    golden.use_mode("graph")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The folder of a run from the first step to the last."""
    output = tmp_path_factory.mktemp("uninterrupted")
    finish(output)
    return only_run(output)


def results(folder):
    """Step, loss, learning rate and gradient norm of every update, as text."""
    header, *rows = (folder / "result.log").read_text().splitlines()
    assert header == "step\tloss\tlr\tgrad_norm\ttrain_time(s)\tsize"
    return [row.split("\t")[:4] for row in rows]


def assert_same_end(folder, other):
    for name in ("model/model.safetensors", "ema/model.safetensors", "optimizer.safetensors"):
        a, b = (read_tensors(each / "ckpt" / "step-00000008" / name) for each in (folder, other))
        assert set(a) == set(b)
        assert all(np.array_equal(np.asarray(a[key]), np.asarray(b[key])) for key in a), name


def start(output, *flags):
    return subprocess.Popen([sys.executable, str(SCRIPT), str(output), *flags], stdout=subprocess.PIPE, text=True)


def finish(output, *flags):
    """A run in a process of its own, as every command is; last bits may depend on what a process did before."""
    assert start(output, *flags).wait(PATIENCE) == 0


def wait_for(condition):
    for _ in range(PATIENCE * 20):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def only_run(output):
    return next(path for path in output.iterdir() if (path / "ckpt").is_dir())


def test_a_resumed_run_has_the_very_losses_and_weights_of_an_uninterrupted_one(uninterrupted, tmp_path):
    finish(tmp_path, "--steps", "3")
    finish(tmp_path, "--resume")
    folder = only_run(tmp_path)
    assert results(folder) == results(uninterrupted)
    assert len(results(folder)) == 8
    assert_same_end(folder, uninterrupted)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_ends_with_a_code_that_says_so(uninterrupted, tmp_path, number, code):
    process = start(tmp_path, "--slow")
    wait_for(lambda: list(tmp_path.glob("*/ckpt/step-*")))
    process.send_signal(number)
    assert process.wait(PATIENCE) == code
    folder = only_run(tmp_path)
    stopped_at = len(results(folder))
    assert 2 <= stopped_at < 8
    assert run_folder.find_run(tmp_path, True).checkpoint.step == stopped_at
    finish(tmp_path, "--resume")
    assert results(folder) == results(uninterrupted)
    assert_same_end(folder, uninterrupted)


def test_sigusr1_saves_a_checkpoint_and_the_run_goes_on(uninterrupted, tmp_path):
    process = start(tmp_path, "--slow")
    wait_for(lambda: list(tmp_path.glob("*/ckpt/step-00000002")))
    # Sent until it meets a step after which no checkpoint is due anyway.
    wait_for(lambda: process.send_signal(signal.SIGUSR1) or list(tmp_path.glob("*/ckpt/step-0000000[357]")))
    assert process.wait(PATIENCE) == 0
    assert results(only_run(tmp_path)) == results(uninterrupted)


@pytest.mark.parametrize("hanging", ["--hang_in_save", "--hang_in_data"])
def test_a_second_ctrl_c_aborts_at_once(tmp_path, hanging):
    process = start(tmp_path, hanging, "4")
    wait_for(lambda: process.stdout.readline().strip() == "hanging")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    assert run_folder.find_run(tmp_path, True).checkpoint.step == 2


def test_a_run_killed_in_the_middle_of_a_save_resumes_from_the_save_before(uninterrupted, tmp_path):
    process = start(tmp_path, "--hang_in_save", "4")
    wait_for(lambda: process.stdout.readline().strip() == "hanging")
    process.kill()
    process.wait(PATIENCE)
    folder = only_run(tmp_path)
    assert run_folder.find_run(tmp_path, True).checkpoint.step == 2
    assert len(results(folder)) == 4
    finish(tmp_path, "--resume")
    assert results(folder) == results(uninterrupted)
    assert_same_end(folder, uninterrupted)
    assert not list((folder / "ckpt").glob(".tmp-*"))


def launched(output, *flags):
    """Two ranks with half of the batch each."""
    command = [sys.executable, "-m", "mindone.parallel.launch", "--nproc", "2", "--log_dir", str(output / "logs")]
    command += [str(SCRIPT), str(output / "run"), "--batch_size", "1", "--use_parallel", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.msrun
def test_ctrl_c_saves_the_run_of_all_ranks_which_resumes_with_the_same_losses(uninterrupted, tmp_path):
    process = launched(tmp_path, "--slow")
    wait_for(lambda: list(tmp_path.glob("run/*/ckpt/step-*")))
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 130
    stopped_at = len(results(only_run(tmp_path / "run")))
    assert 2 <= stopped_at < 8
    assert run_folder.find_run(tmp_path / "run", True).checkpoint.step == stopped_at
    assert launched(tmp_path, "--resume").wait(PATIENCE) == 0
    found = np.array(results(only_run(tmp_path / "run")), float)
    np.testing.assert_allclose(found, np.array(results(uninterrupted), float), rtol=1e-5)


@pytest.mark.msrun
def test_two_ranks_of_msrun_train_as_one_with_twice_the_batch(uninterrupted, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    binaries = Path(sys.executable).parent
    command = [binaries / "msrun", "--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--join=True"]
    command += [f"--log_dir={tmp_path / 'logs'}", SCRIPT, tmp_path / "run", "--batch_size", "1", "--use_parallel"]
    environment = {**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        assert process.wait(PATIENCE) == 0
    finally:
        kill_group(process.pid)
    found = np.array(results(only_run(tmp_path / "run")), float)
    np.testing.assert_allclose(found, np.array(results(uninterrupted), float), rtol=1e-5)


def kill_group(group):
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_accumulation_sees_the_samples_and_noise_of_the_large_batch(uninterrupted, tmp_path):
    _, folder, _ = toy_run.train(tmp_path, batch_size=1, accumulation=2)
    found = np.array(results(folder), float)
    np.testing.assert_allclose(found, np.array(results(uninterrupted), float), rtol=1e-5)


def test_the_averaged_weights_are_saved_beside_the_trained_ones(uninterrupted):
    checkpoint = uninterrupted / "ckpt" / "step-00000008"
    raw, averaged = (read_tensors(checkpoint / name) for name in ("model", "ema"))
    assert set(raw) == set(averaged) == {"first", "second"}
    assert not np.array_equal(np.asarray(raw["first"]), np.asarray(averaged["first"]))
    assert json.loads((checkpoint / "ema" / "config.json").read_text()) == {"hidden": 8}


def test_only_the_last_checkpoints_are_kept(uninterrupted):
    assert sorted(path.name for path in (uninterrupted / "ckpt").iterdir()) == ["step-00000006", "step-00000008"]


def test_resume_takes_a_run_its_checkpoints_or_one_of_them(uninterrupted):
    for path, step in ((uninterrupted, 8), (uninterrupted / "ckpt", 8), (uninterrupted / "ckpt/step-00000006", 6)):
        found = run_folder.find_run("elsewhere", str(path))
        assert (found.folder, found.checkpoint.step) == (uninterrupted, step)


def test_resume_auto_starts_a_run_where_none_is_and_anything_else_without_one_is_an_error(tmp_path):
    assert run_folder.find_run(tmp_path / "nothing", "auto") is None
    with pytest.raises(UserError, match="has a complete checkpoint; leave it out to begin a run, or use --resume auto"):
        run_folder.find_run(tmp_path / "nothing", True)
    with pytest.raises(UserError, match="is not a folder"):
        run_folder.find_run(tmp_path, str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="has no complete checkpoint"):
        run_folder.find_run(tmp_path, str(tmp_path))


def test_tensorboard_reads_the_curves(uninterrupted):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(uninterrupted / "tensorboard"))
    events.Reload()
    losses = [event.value for event in events.Scalars("train/loss")]
    np.testing.assert_allclose(losses, [float(row[1]) for row in results(uninterrupted)], rtol=1e-6)


def test_settings_that_changed_since_the_run_began_are_an_error_unless_allowed(caplog):
    before = {"batch_size": 4, "betas": [0.9, 0.999], "seed": 1}
    run_folder.check_changes(before, {"batch_size": 4, "betas": (0.9, 0.999), "new": 3})
    with pytest.raises(UserError, match="other settings: batch_size was 4 and is 8; give the same ones, or --allow"):
        run_folder.check_changes(before, {"batch_size": 8})
    run_folder.check_changes(before, {"batch_size": 8}, allowed=True)
    assert "batch_size was 4 and is 8 now" in caplog.text


def test_a_run_from_elsewhere_goes_on_in_a_folder_of_its_own(uninterrupted, tmp_path):
    finish(tmp_path / "first", "--steps", "3")
    first = only_run(tmp_path / "first")
    before = sorted((path, path.stat().st_mtime_ns) for path in first.rglob("*"))
    finish(tmp_path / "second", "--resume", str(first))
    folder = only_run(tmp_path / "second")
    assert folder.parent == tmp_path / "second"
    assert sorted((path, path.stat().st_mtime_ns) for path in first.rglob("*")) == before
    assert results(folder) == results(uninterrupted)
    assert_same_end(folder, uninterrupted)


def test_a_used_folder_is_refused_unless_told_to_begin_anew(uninterrupted):
    with pytest.raises(UserError, match="has a training run already; go on with it by --resume True"):
        run_folder.open_folder(uninterrupted, False, None, Mesh())
    assert run_folder.open_folder(uninterrupted, False, None, Mesh(), overwrite=True) == uninterrupted


def test_updates_that_are_not_finite_are_written_down_and_end_the_run_when_they_do_not_end(tmp_path):
    with pytest.raises(UserError, match="not finite in 3 updates in a row, up to step 4; lower start_learning_rate"):
        toy_run.train(tmp_path, rate=float("inf"), most=3)
    header, first, *_ = (only_run(tmp_path) / "skipped_updates.csv").read_text().splitlines()
    assert header == "step,loss,grad_norm,seed,epoch_positions,samples,names"
    step, _, _, seed, positions, samples, _ = first.split(",")
    order = FixedPlan(16, 2, seed=3).epoch(0)[1]
    assert (step, seed) == ("2", "3")
    assert (positions, samples) == ("2 3", " ".join(map(str, order.indices)))


def test_a_run_that_ends_with_updates_left_out_has_no_result(tmp_path):
    skipped = SkippedUpdates(tmp_path / "skipped.csv", 1)
    skipped.in_a_row = 1
    skipped.check_end(8)
    skipped.in_a_row = 5
    with pytest.raises(UserError, match="not finite in the last 5 of 8 updates, so there is no result"):
        skipped.check_end(8)


def test_what_is_done_every_few_updates_is_done_after_the_last_one_too():
    done = []
    hook = Every(3, done.append)
    for step in range(1, 6):
        hook(step, last=step == 5)
    assert done == [3, 5]


def test_states_of_before_steps_had_numbers_of_their_own_are_read(tmp_path):
    (tmp_path / "state.json").write_text('{"step": 4, "seed": 1, "skipped": 2, "loss_scale": 8.0}')
    state = read_state(tmp_path / "state.json")
    assert (state.step, state.numbers) == (4, {"skipped": 2, "loss_scale": 8.0})


def test_noise_of_a_sample_depends_on_its_place_alone():
    whole = Place(5, 7, range(4)).normal("noise", (2, 3))
    parts = [Place(5, 7, range(start, start + 2)).normal("noise", (2, 3)) for start in (0, 2)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert not np.array_equal(whole, Place(5, 8, range(4)).normal("noise", (2, 3)))


def test_the_clock_leaves_out_compilation_and_remembers_over_a_restart():
    clock = Clock(seconds=10.0, steps=5)
    assert clock.per_step() == 2.0
    clock.start()
    clock.tick()
    assert clock.steps == 5
    clock.tick()
    assert clock.steps == 6
    assert clock.per_step() < 2.0


def test_a_folder_that_cannot_be_written_is_refused_when_the_run_starts(tmp_path):
    (tmp_path / "ckpt").write_text("a file where the folder of checkpoints has to be")
    with pytest.raises(UserError, match="ckpt"):
        run_folder.open_folder(tmp_path, False, None, Mesh())
