"""The threads of the compiled kernels, by a small program: their number, and calls within and beside one another."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import mindone

SOURCES = next(Path(mindone.__file__).parent.rglob("csrc"))
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler here")


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    file = tmp_path_factory.mktemp("threads") / "threads"
    sources = [str(Path(__file__).with_name("threads.cc")), str(SOURCES / "threads.cc")]
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", f"-I{SOURCES}"]
    subprocess.run(["g++", *flags, *sources, "-o", str(file)], check=True)

    def run(*arguments, wanted=None):
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        if wanted is not None:
            environment["OMP_NUM_THREADS"] = wanted
        done = subprocess.run(
            [file, *map(str, arguments)], env=environment, capture_output=True, check=True, timeout=60
        )
        return int(done.stdout)

    return run


def written(root, files):
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    "wanted,count",
    [(None, 8), ("3", 3), ("4,2", 4), ("1", 1), ("99", 8), ("0", 8), ("-2", 8), ("many", 8), ("3x", 8), ("", 8)],
)
def test_as_many_threads_as_asked_for_but_not_more_than_cores(program, tmp_path, wanted, count):
    assert program("count", 8, tmp_path, wanted=wanted) == count


@pytest.mark.parametrize(
    "quota,count", [("max 100000", 8), ("200000 100000", 2), ("150000 100000", 2), ("10000 100000", 1), ("rubbish", 8)]
)
def test_the_quota_of_a_second_version_cgroup_counts(program, tmp_path, quota, count):
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": quota + "\n"}
    assert program("count", 8, written(tmp_path, files)) == count


def test_the_least_quota_of_a_group_and_those_above_it_counts(program, tmp_path):
    files = {
        "proc/self/cgroup": "0::/pods/one/box\n",
        "sys/fs/cgroup/pods/cpu.max": "300000 100000",
        "sys/fs/cgroup/pods/one/cpu.max": "max 100000",
        "sys/fs/cgroup/pods/one/box/cpu.max": "500000 100000",
    }
    assert program("count", 8, written(tmp_path, files)) == 3
    assert program("count", 8, tmp_path, wanted="2") == 2


@pytest.mark.parametrize("folder", ["cpu", "cpu,cpuacct"])
@pytest.mark.parametrize("group", ["", "/docker/box"])
def test_the_quota_of_a_first_version_cgroup_counts(program, tmp_path, folder, group):
    files = {
        "proc/self/cgroup": f"5:cpuset:/\n4:cpu,cpuacct:{group or '/'}\n0::/\n",
        f"sys/fs/cgroup/{folder}{group}/cpu.cfs_quota_us": "400000\n",
        f"sys/fs/cgroup/{folder}{group}/cpu.cfs_period_us": "100000\n",
    }
    assert program("count", 8, written(tmp_path, files)) == 4


def test_a_first_version_cgroup_without_a_quota_is_no_limit(program, tmp_path):
    files = {"proc/self/cgroup": "4:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n"}
    assert program("count", 8, written(tmp_path, files)) == 8


def test_the_pool_has_as_many_threads_as_asked_for(program):
    assert program("pool", wanted="1") == 1
    assert program("pool") <= os.cpu_count()


@pytest.mark.parametrize("what", ["nested", "threads", "fork", "exception"])
def test_loops_in_loops_threads_and_forked_processes_end_and_are_right(program, what):
    assert program(what)
