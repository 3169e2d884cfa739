"""Jobs of several processes: what they are told, what the screen shows, and that nothing of them is left."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mindone.errors import UserError
from mindone.parallel import heartbeat
from mindone.parallel.launch import Host, commands_of_hosts, launch, python_command, read_hosts
from mindone.parallel.logs import Follower, last_lines

PATIENCE = 120
LAUNCH = [sys.executable, "-m", "mindone.parallel.launch"]
# Ranks of a job without MindSpore; each says when it is ready.
BEGIN = """
import os, signal, subprocess, sys, time
rank = int(os.environ["RANK_ID"])
def ready():
    open(f"ready_{rank}", "w").close()
    while len([name for name in os.listdir() if name.startswith("ready_")]) < int(os.environ["MS_WORKER_NUM"]):
        time.sleep(0.01)
"""


def start(folder: Path, script: str, *options: str, launcher: list[str] = LAUNCH) -> subprocess.Popen:
    (folder / "script.py").write_text(BEGIN + script)
    command = [*launcher, "--nproc", "2", "--log_dir", "logs", *options, "script.py", str(folder)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, text=True, start_new_session=True, **streams)


def wait_for(condition) -> None:
    for _ in range(PATIENCE * 50):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def is_ready(folder: Path) -> bool:
    return all((folder / f"ready_{rank}").exists() for rank in (0, 1))


def processes_of(folder: Path) -> list[str]:
    """The command lines of all processes that were started in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd") == str(folder):
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def end_of(process: subprocess.Popen, folder: Path) -> tuple[int, str, str]:
    """Exit code, standard output and error, once nothing of the job is left."""
    output, errors = process.communicate(timeout=PATIENCE)
    wait_for(lambda: not processes_of(folder))
    return process.returncode, output, errors


def test_the_first_rank_is_on_the_screen_once_and_without_the_chatter_of_mindspore(tmp_path):
    script = """
ready()
print("[INFO] DISTRIBUTED(26683,7fb1d4f9b6c0,python):2026-11-26-05:59:08 Start] Event base dispatch success!")
print(f"rank {rank} of", os.environ["RANK_SIZE"], os.environ["MS_ROLE"], os.environ["DEVICE_ID"], sys.argv[1:])
print("[ERROR] of others", end="")
"""
    code, output, errors = end_of(start(tmp_path, script), tmp_path)
    assert (code, output) == (0, f"rank 0 of 2 MS_WORKER 0 ['{tmp_path}']\n[ERROR] of others")
    assert errors == "launch: 2 of 2 processes are started, logs are in logs; this is rank 0\n"
    assert "rank 1 of 2 MS_WORKER 1" in (tmp_path / "logs" / "worker_1.log").read_text()
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"scheduler.log", "worker_0.log", "worker_1.log"}


@pytest.mark.parametrize("ending", ["raise SystemExit(3)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_a_rank_that_fails_ends_the_job_with_its_code_and_the_last_lines_of_its_log(tmp_path, ending):
    script = f"""
ready()
if rank == 1:
    subprocess.Popen(["sleep", "600"])
    print("the reason", flush=True)
    {ending}
time.sleep(600)
"""
    code, _, errors = end_of(start(tmp_path, script), tmp_path)
    _, reason, header, line, last = errors.splitlines()
    killed = "SIGKILL" in ending
    what = "was killed by SIGKILL (by hand, or for lack of memory)" if killed else "ended with exit code 3"
    assert (code, reason) == (137 if killed else 3, f"launch: error: rank 1 {what}")
    assert header == "launch: the last lines of rank 1, logs/worker_1.log:"
    assert (line, last) == ("    the reason", "launch: the other ranks are ended")


def test_what_all_ranks_refuse_is_said_once(tmp_path):
    script = 'ready(); print("error: no such recipe", flush=True); raise SystemExit(2)'
    code, output, errors = end_of(start(tmp_path, script), tmp_path)
    assert (code, output) == (2, "error: no such recipe\n")
    assert re.fullmatch(r"launch: error: rank [01] and rank [01] ended with exit code 2", errors.splitlines()[1])
    assert len(errors.splitlines()) == 2


SAVES = """
from mindone import signals
with signals.requests() as asked:
    ready()
    while not asked.stop:
        if asked.save:
            open(f"saved_{rank}", "w").close()
            asked.save = False
        time.sleep(0.01)
    open(f"stopped_{rank}", "w").close()
    time.sleep(float(os.environ.get("SAVES_FOR", "0")))
raise SystemExit(signals.exit_code(asked.stop))
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_every_rank_gets_a_signal_and_the_job_ends_with_its_code(tmp_path, number, code):
    process = start(tmp_path, SAVES)
    wait_for(lambda: is_ready(tmp_path))
    process.send_signal(signal.SIGUSR1)
    wait_for(lambda: all((tmp_path / f"saved_{rank}").exists() for rank in (0, 1)))
    process.send_signal(number)
    found, _, errors = end_of(process, tmp_path)
    assert (found, "error" in errors) == (code, False)
    assert all((tmp_path / f"stopped_{rank}").exists() for rank in (0, 1))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_the_job_at_once(tmp_path, number, code, monkeypatch):
    monkeypatch.setenv("SAVES_FOR", "600")
    process = start(tmp_path, SAVES)
    wait_for(lambda: is_ready(tmp_path))
    process.send_signal(number)
    wait_for(lambda: all((tmp_path / f"stopped_{rank}").exists() for rank in (0, 1)))
    process.send_signal(number)
    found, _, errors = end_of(process, tmp_path)
    assert found == code
    assert errors.endswith(f"launch: {number.name} again: the job is ended at once\n")


def test_a_signal_before_the_ranks_are_ready_has_the_same_codes(tmp_path):
    process = start(tmp_path, "ready(); time.sleep(600)")
    wait_for(lambda: is_ready(tmp_path))
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGTERM)
    assert end_of(process, tmp_path)[0] == 143


def test_ranks_that_do_not_end_after_one_that_failed_are_killed(tmp_path):
    patient = "import sys; from mindone.parallel import launch, supervise; supervise.FAILED_SECONDS = 0.5; "
    patient += "launch.launch(sys.argv[1:], 'launch')"
    script = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ready()
if rank == 0:
    sys.exit("broken")
time.sleep(600)
"""
    code, output, _ = end_of(start(tmp_path, script, launcher=[sys.executable, "-c", patient]), tmp_path)
    assert (code, output) == (1, "broken\n")


HANGS = """
from mindone.parallel.heartbeat import beat
ready()
for step in range(3):
    beat(f"update {step}")
if rank == int(os.environ.get("ONE_BEAT_MORE", "-1")):
    beat("update 3")
def waits_in_vain():
    time.sleep(600)
waits_in_vain()
"""


def test_of_ranks_that_wait_for_each_other_the_one_that_is_behind_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("ONE_BEAT_MORE", "0")
    code, _, errors = end_of(start(tmp_path, HANGS, "--hang_timeout", "1"), tmp_path)
    lines = errors.splitlines()
    assert (code, lines[1]) == (1, "launch: error: rank 1 hangs: no sign of life for 1 s since it began: update 2")
    assert lines[2] == "launch: the last lines of rank 1, logs/worker_1.log:"
    assert any("in waits_in_vain" in line for line in lines[3:])


def test_a_rank_that_was_stopped_is_named(tmp_path):
    process = start(tmp_path, HANGS, "--hang_timeout", "2")
    beats = [tmp_path / "logs" / f"heartbeat_{rank}" for rank in (0, 1)]
    wait_for(lambda: all(heartbeat.read(path) == heartbeat.Beat(3, "update 2") for path in beats))
    (stopped,) = [
        int(process.parent.name)
        for process in Path("/proc").glob("[0-9]*/environ")
        if os.access(process, os.R_OK) and f"{beats[1]}".encode() in read_bytes(process)
    ]
    os.kill(stopped, signal.SIGSTOP)
    code, _, errors = end_of(process, tmp_path)
    assert (code, "rank 1 is stopped" in errors, "rank 0" in errors.splitlines()[1]) == (1, True, False)


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_ranks_do_not_outlive_a_launcher_that_is_killed(tmp_path):
    process = start(tmp_path, "ready(); time.sleep(600)")
    wait_for(lambda: is_ready(tmp_path))
    process.kill()
    assert end_of(process, tmp_path)[0] == -signal.SIGKILL


def test_processes_share_out_the_cores_if_asked_to(tmp_path):
    script = 'ready(); open(f"cores_{rank}", "w").write(repr(sorted(os.sched_getaffinity(0))))'
    assert end_of(start(tmp_path, script, "--bind_core=True"), tmp_path)[0] == 0
    first, second = ((tmp_path / f"cores_{rank}").read_text() for rank in (0, 1))
    assert first != second or len(os.sched_getaffinity(0)) == 1


def test_a_script_is_started_with_and_without_python_and_with_the_flags_of_msrun(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("")
    for words in (["train.py"], ["python", "train.py"], ["python3.11", "train.py"], ["--", "train.py"]):
        assert python_command([*words, "--seed", "1"]) == [sys.executable, "train.py", "--seed", "1"]
    assert python_command(["/opt/python3", "train.py"]) == ["/opt/python3", "train.py"]
    assert python_command(["python", "-m", "train"]) == [sys.executable, "-m", "train"]
    assert python_command(["true", "x"])[0].endswith("/true")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--nproc 2", "give the script to start behind the options"),
        ("train.py", "give the number of processes: --nproc N"),
        ("--nproc 2 absent.py", "there is no script absent.py here"),
        ("--nproc 2 absent", "absent is neither a script"),
        ("--nproc 2 --unknown 2 train.py", "unrecognized arguments: --unknown"),
        ("--nproc 0 train.py", "argument --nproc/--local_worker_num: 0 has to be at least 1"),
        ("--nproc 2 --bind_core maybe train.py", "maybe is neither True nor False"),
        ("--nproc 2 --nodes 2 train.py", "give --node_rank 0 to 1"),
        ("--nproc 2 --nodes 2 --node_rank 2 --master_addr 127.0.0.1 train.py", "--node_rank 2 is not one of 2"),
        ("--nproc 2 --nodes 2 --node_rank 0 train.py", "several machines need --master_addr"),
        ("--worker_num 5 --local_worker_num 2 train.py", "--worker_num 5 is not 2 machines times 2"),
        ("--nproc 2 --master_port 70000 train.py", "port 70000 cannot be used here"),
        ("--nproc 2 --master_addr no.such.host.invalid train.py", "the address of no.such.host.invalid is not known"),
        ("--hostfile hosts --nproc 2 train.py", "leave out --nproc"),
        ("--hostfile nowhere train.py", "hostfile nowhere cannot be read"),
        ("--hostfile empty train.py", "names no machine"),
        ("--hostfile wrong train.py", "wrong, line 2: 'b slots=x' is not of the form HOST slots=N"),
    ],
)
def test_a_job_that_cannot_be_started_is_refused_before_anything_runs(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text("raise SystemExit(9)")
    Path("hosts").write_text("a slots=2\n")
    Path("empty").write_text("# nothing\n")
    Path("wrong").write_text("a slots=2\nb slots=x\n")
    with pytest.raises(UserError, match=re.escape(message)):
        launch(arguments.split(), "launch")
    assert not Path("launch-logs").exists()


def test_a_hostfile_gives_the_command_of_every_machine(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["/usr/bin/tool"])
    Path("train.py").write_text("")
    Path("hosts").write_text("# two machines\nfirst slots=8\nsecond:4  # smaller\n\nthird\n")
    assert read_hosts("hosts") == [Host("first", 8), Host("second", 4), Host("third", 1)]
    launch(["--hostfile", "hosts", "train.py", "--caption", "a cat"], "tool launch")
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("#")]
    expected = ["--hostfile", "hosts", "train.py", "--caption", "a cat"]
    assert [shlex.split(line) for line in lines] == [
        ["tool", "launch", "--node_rank", str(number), *expected] for number in range(3)
    ]
    assert commands_of_hosts([], [Host("first", 1)], "tool launch").splitlines()[1] == "# first"


def test_a_follower_shows_progress_at_once_and_holds_back_what_may_be_chatter(tmp_path, capsys):
    path = tmp_path / "worker.log"
    path.write_bytes(b"of an earlier job\n")
    follower = Follower(path)
    shown = []
    for added in (b"\r 10%", b"\r 20%", b"\n[WARN", b"ING] ME(12,main):\nnext\xff", b"[INFO] inside", b"\n[x]"):
        with open(path, "ab") as file:
            file.write(added)
        follower.update()
        shown.append(capsys.readouterr().out)
    follower.update(last=True)
    assert shown == ["\r 10%", "\r 20%", "\n", "next\ufffd", "[INFO] inside", "\n"]
    assert capsys.readouterr().out == "[x]"
    assert last_lines(path, 2) == ["next\ufffd[INFO] inside", "[x]"]
    assert last_lines(tmp_path / "nothing") == []
