"""What signals do to a command, whoever else installs handlers."""

import signal
import subprocess
import sys

import pytest

# A command that goes through the phase named by its argument. MindSpore runs a graph first, and installs its handlers.
SCRIPT = """
import hashlib, sys, time
from mindone.errors import guarded

@guarded
def main():
    import numpy as np
    from mindone import runtime, signals

    ms = runtime.quiet_mindspore()
    ms.set_context(mode=ms.GRAPH_MODE)

    class Net(ms.nn.Cell):
        def construct(self, x):
            return ms.ops.tanh(x)

    run = lambda net=Net: net()(ms.Tensor(np.ones((2, 3), np.float32)))
    run()
    if "compile" in sys.argv[1]:
        signals.GRACE_SECONDS = 0.5 if "long" in sys.argv[1] else 30.0

        @ms.ops.constexpr
        def one():
            print("ready", flush=True)
            time.sleep(60 if "long" in sys.argv[1] else 0.5)
            return 1.0

        class Slow(ms.nn.Cell):
            def construct(self, x):
                return x + one()

        run(Slow)
        time.sleep(60)
    if sys.argv[1] != "requests":
        print("ready", flush=True)
    if sys.argv[1] == "swallowed":
        try:
            time.sleep(60)
        except BaseException:
            return
    if sys.argv[1] == "python":
        time.sleep(60)
    elif sys.argv[1] == "native":
        signals.GRACE_SECONDS = 0.5
        hashlib.pbkdf2_hmac("sha256", b"", b"", (1 << 31) - 1)
    with signals.requests() as asked:
        print("ready", flush=True)
        while not asked.stop:
            run()
        print(asked.stop.name, flush=True)
        time.sleep(60)

main()
"""


def run(tmp_path, phase: str) -> subprocess.Popen:
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), phase]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("phase", ["python", "native", "swallowed", "compile", "long compile"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_whatever_it_is_doing(tmp_path, phase, number, code):
    process = run(tmp_path, phase)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors
    assert "KeyboardInterrupt" not in errors
    assert "SystemExit" not in errors


def test_a_second_signal_ends_a_command_at_once_that_is_compiling(tmp_path):
    process = run(tmp_path, "compile")
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors.splitlines()[-1]) == (130, "interrupted")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_that_is_importing_mindspore(tmp_path, number, code):
    importing = """
import sys, threading, time
from mindone.errors import guarded

def tell():
    while not getattr(getattr(sys.modules.get("mindspore"), "__spec__", None), "_initializing", False):
        time.sleep(0.001)
    print("importing", flush=True)

@guarded
def main():
    threading.Thread(target=tell, daemon=True).start()
    import mindspore
    time.sleep(60)

main()
"""
    (tmp_path / "script.py").write_text(importing)
    command = [sys.executable, str(tmp_path / "script.py")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "importing\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == code
    assert "Traceback" not in errors


def test_the_first_signal_is_a_request_and_the_second_ctrl_c_aborts(tmp_path):
    process = run(tmp_path, "requests")
    process.send_signal(signal.SIGUSR1)
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT\n"
    process.send_signal(signal.SIGTERM)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


AFTERWARDS = """
import os, signal, threading, time
from mindone import signals

before = signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGINT)
with signals.watched(), signals.requests() as asked:
    os.kill(os.getpid(), signal.SIGUSR1)
    while not asked.save:
        time.sleep(0.01)
assert (signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGINT)) == before
assert threading.active_count() == 1
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""


def test_afterwards_signals_are_as_they_were():
    ended = subprocess.run([sys.executable, "-c", AFTERWARDS], capture_output=True, text=True, timeout=30)
    assert ended.returncode == -signal.SIGTERM, ended.stderr


WORKERS = """
import os, signal, time
from mindone.errors import guarded

class Numbers:
    def __len__(self):
        return 4

    def get(self, index, rng, size=None):
        return {"index": index}

@guarded
def main():
    from mindone import signals
    from mindone.data.loader import Loader
    from mindone.data.plan import FixedPlan

    with signals.requests() as asked, Loader(Numbers(), FixedPlan(4), num_workers=1) as loader:
        next(iter(loader))
        for number in (signal.SIGTERM, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        while not (asked.stop and asked.save):
            time.sleep(0.01)
    print(asked.stop.name)

if __name__ == "__main__":
    main()
"""


def test_worker_processes_do_not_let_signals_through(tmp_path):
    (tmp_path / "script.py").write_text(WORKERS)
    ended = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "SIGTERM\n"), ended.stderr
