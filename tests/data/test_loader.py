import importlib
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mindone.data.errors import BadSample
from mindone.data.loader import Loader, collate
from mindone.data.plan import FixedPlan, Planned
from mindone.errors import UserError
from mindone.parallel.mesh import Mesh

# Worker processes import the dataset by name, so it lives in a module of its own.
DATASET = """
import os, time
import numpy as np
from mindone.data.errors import BadSample

class Numbers:
    def __init__(self, length, bad=(), die_at=None, slow=0.0, hang_at=None):
        self.length, self.bad, self.die_at, self.slow, self.hang_at = length, set(bad), die_at, slow, hang_at

    def __len__(self):
        return self.length

    def name(self, index):
        return f"clip{index}.mp4"

    def get(self, index, rng, size=None):
        time.sleep(self.slow)
        if index == self.hang_at:
            time.sleep(60)
        if index == self.die_at:
            os._exit(9)
        if index in self.bad:
            raise BadSample(f"clip{index}.mp4 is truncated at frame {index}")
        return {"index": index, "draw": rng.random(3, np.float32), "caption": f"clip {index}"}
"""


@pytest.fixture(scope="module")
def module_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("module")
    (folder / "numbers_dataset.py").write_text(DATASET)
    return folder


@pytest.fixture
def numbers(module_folder, monkeypatch):
    monkeypatch.syspath_prepend(str(module_folder))
    return importlib.import_module("numbers_dataset").Numbers


def loader_of(dataset, batch_size, mesh=None, shuffle=True, seed=0, drop_last=True, **settings) -> Loader:
    mesh = mesh or Mesh()
    plan = FixedPlan(len(dataset), batch_size, mesh.data, seed, shuffle, drop_last)
    return Loader(dataset, plan, mesh=mesh, **settings)


def indices(batches) -> list[list[int]]:
    for_sure = list(batches)
    assert all(batch.arrays["index"].tolist() == list(batch.indices) for batch in for_sure)
    return [list(batch.indices) for batch in for_sure]


def test_an_epoch_visits_each_sample_once_in_an_order_of_its_own(numbers):
    loader = loader_of(numbers(12), 3, seed=1)
    first, second = (np.concatenate(indices(loader.epoch(epoch))).tolist() for epoch in (0, 1))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second and first != list(range(12))
    assert indices(loader_of(numbers(12), 3, seed=2).epoch(0)) != indices(loader.epoch(0))


def test_without_shuffling_the_last_batch_may_be_smaller(numbers):
    loader = loader_of(numbers(5), 2, shuffle=False, drop_last=False)
    assert indices(loader.epoch(0)) == [[0, 1], [2, 3], [4]] and len(loader) == 3


def test_two_ranks_see_what_one_rank_with_the_doubled_batch_sees(numbers):
    dataset = numbers(18, bad=[3, 4, 11])
    whole = list(loader_of(dataset, 4, seed=5, max_bad_fraction=0.5).epoch(0))
    ranks = [list(loader_of(dataset, 2, Mesh(rank, 2), seed=5, max_bad_fraction=0.5).epoch(0)) for rank in (0, 1)]
    assert len(whole) == len(ranks[0]) == len(ranks[1]) == 4
    for both, left, right in zip(whole, *ranks):
        assert both.indices == left.indices + right.indices
        assert both.positions == left.positions + right.positions
        assert (left.start, right.start, left.total, right.total) == (0, 2, 4, 4)
        assert (both.arrays["draw"] == np.concatenate([left.arrays["draw"], right.arrays["draw"]])).all()


def test_worker_processes_change_nothing(numbers):
    dataset = numbers(14, bad=[2, 9])
    inline = loader_of(dataset, 3, seed=3)
    with loader_of(dataset, 3, seed=3, num_workers=2) as workers:
        for epoch in (0, 1):
            pairs = list(zip(inline.epoch(epoch), workers.epoch(epoch), strict=True))
            assert len(pairs) == 4
            for one, other in pairs:
                assert (one.arrays["index"] == other.arrays["index"]).all() and (
                    one.arrays["draw"] == other.arrays["draw"]
                ).all()
                assert one.arrays["caption"] == other.arrays["caption"]
    assert sorted(inline.bad_samples) == sorted(workers.bad_samples)


def test_a_resumed_run_continues_exactly(numbers):
    dataset = numbers(9)
    batches = iter(loader_of(dataset, 2, seed=7))
    expected = [next(batches) for _ in range(11)]
    first = loader_of(dataset, 2, seed=7)
    stopped = iter(first)
    for _ in range(6):
        next(stopped)
    assert first.state == {"epoch": 1, "batch": 2}
    second = loader_of(dataset, 2, seed=7)
    second.state = first.state
    for batch, resumed in zip(expected[6:], second):
        assert (batch.arrays["index"] == resumed.arrays["index"]).all() and (
            batch.arrays["draw"] == resumed.arrays["draw"]
        ).all()


def test_a_state_of_other_data_is_refused(numbers):
    loader = loader_of(numbers(4), 2)
    loader.state = {"epoch": 0, "batch": 5}
    with pytest.raises(UserError, match="an epoch has 2 batches, so it cannot continue at batch 5"):
        next(iter(loader))


def test_state_points_to_the_next_epoch_after_the_last_batch(numbers):
    loader = loader_of(numbers(4), 2)
    list(loader.epoch(3))
    assert loader.state == {"epoch": 4, "batch": 0}


def test_a_bad_sample_is_reported_and_replaced_by_the_next_good_one(numbers, caplog, tmp_path):
    loader = loader_of(numbers(30, bad=[5, 6]), 5, shuffle=False)
    assert indices(loader.epoch(0))[1] == [7, 7, 7, 8, 9]
    assert [record.name for record in loader.bad_samples] == ["clip5.mp4", "clip6.mp4"]
    assert "clip5.mp4 is truncated at frame 5" in caplog.text and "replaced" in caplog.text
    loader.bad_samples.save(tmp_path / "bad.csv")
    assert (tmp_path / "bad.csv").read_text().splitlines()[1] == "5,clip5.mp4,clip5.mp4 is truncated at frame 5"


def test_the_end_of_the_order_takes_its_replacement_from_the_start(numbers):
    loader = loader_of(numbers(25, bad=[24]), 5, shuffle=False)
    assert indices(loader.epoch(0))[-1] == [20, 21, 22, 23, 0]


def test_bad_samples_can_be_left_out(numbers):
    loader = loader_of(numbers(24, bad=[1, 4, 5]), 2, shuffle=False, drop_last=False, replace_bad=False)
    assert indices(loader.epoch(0))[:4] == [[0], [2, 3], [6, 7], [8, 9]]
    assert len(loader.bad_samples) == 3


def test_too_many_bad_samples_stop_the_run_with_the_reasons(numbers):
    loader = loader_of(numbers(100, bad=range(0, 100, 2)), 4, seed=1)
    with pytest.raises(UserError, match=r"more than max_bad_fraction=0.2 allows; \d+x clip\d+.mp4 is truncated"):
        list(loader.epoch(0))


def test_a_few_bad_samples_at_the_start_do_not_stop_it(numbers):
    assert len(list(loader_of(numbers(100, bad=[0, 1, 2]), 4, shuffle=False).epoch(0))) == 25


def test_a_small_dataset_is_judged_at_its_end(numbers):
    with pytest.raises(UserError, match="2 of 4 samples cannot be used"):
        list(loader_of(numbers(4, bad=[0, 1]), 2, shuffle=False).epoch(0))


def test_a_dataset_without_a_good_sample_is_an_error(numbers):
    with pytest.raises(UserError, match="none of 64 samples that were tried can be used; 64x clip0.mp4 is truncated"):
        next(iter(loader_of(numbers(500, bad=range(500)), 1, shuffle=False)))


def test_no_sample_of_a_small_dataset_is_counted_twice_when_none_can_be_used(numbers):
    with pytest.raises(UserError, match="none of 48 samples that were tried can be used; 48x clip"):
        next(iter(loader_of(numbers(48, bad=range(48)), 4)))


def test_a_sample_that_hangs_is_a_bad_one(module_folder, numbers):
    for workers in (0, 1):
        with loader_of(numbers(6, hang_at=2), 2, shuffle=False, num_workers=workers, sample_timeout=0.5) as loader:
            assert indices(loader.epoch(0)) == [[0, 1], [3, 3], [4, 5]]
            (bad,) = loader.bad_samples
            assert bad.reason == "clip2.mp4 was not read within 0.5 seconds"


def test_a_sample_that_hung_is_not_waited_for_again(numbers):
    loader = loader_of(numbers(6, hang_at=2), 2, shuffle=False, sample_timeout=0.5)
    list(loader.epoch(0))
    before = time.monotonic()
    list(loader.epoch(1))
    assert time.monotonic() - before < 0.5


def test_the_planned_size_reaches_the_dataset_and_the_batch(numbers):
    class Sized:
        def __len__(self):
            return 4

        def get(self, index, rng, size=None):
            return {"video": np.zeros(size)}

    (batch, _) = Loader(Sized(), FixedPlan(4, 2, size=(3, 5))).epoch(0)
    assert batch.size == (3, 5) and batch.arrays["video"].shape == (2, 3, 5)


def test_ranks_that_share_samples_get_the_same_part(numbers):
    parts = [indices(loader_of(numbers(16), 2, Mesh(rank, 4, sequence=2), seed=5).epoch(0)) for rank in range(4)]
    assert parts[0] == parts[1] and parts[2] == parts[3]
    assert [a + b for a, b in zip(parts[0], parts[2])] == indices(loader_of(numbers(16), 4, seed=5).epoch(0))


def test_batches_are_planned_without_touching_the_dataset():
    plan = FixedPlan(7, 2, seed=3, shuffle=False, size="240p")
    assert list(plan.epoch(0)) == [Planned((i, i + 1), (i, i + 1), "240p") for i in (0, 2, 4)]
    assert list(plan.epoch(0).stand_ins(5)) == [6, 0, 1, 2, 3, 4]


def test_a_dataset_smaller_than_a_batch_is_an_error(numbers):
    with pytest.raises(UserError, match=r"has 3 samples, but one batch needs 8 \(2 ranks x batch_size=4\)"):
        loader_of(numbers(3), 4, Mesh(0, 2))
    with pytest.raises(UserError, match="has 0 samples"):
        loader_of(numbers(0), 1, drop_last=False)


def test_settings_that_cannot_work_are_refused(numbers):
    with pytest.raises(UserError, match="batch_size=0"):
        loader_of(numbers(3), 0)
    with pytest.raises(UserError, match="use drop_last=True"):
        loader_of(numbers(3), 1, Mesh(0, 2), drop_last=False)


def test_a_worker_that_dies_is_a_clear_error(numbers):
    with (
        loader_of(numbers(10, die_at=4), 2, shuffle=False, num_workers=1) as loader,
        pytest.raises(UserError, match="a data worker was killed or crashed"),
    ):
        list(loader.epoch(0))


RUN = """
import multiprocessing
import signal
from numbers_dataset import Numbers
from mindone.data.loader import Loader
from mindone.data.plan import FixedPlan

stop = []
if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    loader = Loader(Numbers(1000, slow=0.02), FixedPlan(1000), num_workers=2)
    for number, _ in enumerate(loader):
        if number == 0:
            print(*[child.pid for child in multiprocessing.active_children()], flush=True)
        if stop:
            stop.append(True)
        if len(stop) == 20:
            raise SystemExit(7)
"""


def start_run(module_folder, tmp_path) -> tuple[subprocess.Popen, list[int]]:
    """A process that loads without an end, and its workers; told to stop, it takes 18 batches more."""
    (tmp_path / "run.py").write_text(RUN)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(module_folder), os.environ.get("PYTHONPATH", "")])}
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
        start_new_session=True,
    )
    workers = [int(pid) for pid in run.stdout.readline().split()]
    assert len(workers) == 2
    return run, workers


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_run(module_folder, tmp_path, signal_number):
    run, workers = start_run(module_folder, tmp_path)
    run.send_signal(signal_number)
    assert run.wait(timeout=20) != 0
    _wait_for_end(workers)


def test_workers_leave_it_to_the_main_process_when_to_stop(module_folder, tmp_path):
    run, workers = start_run(module_folder, tmp_path)
    os.killpg(run.pid, signal.SIGTERM)
    assert run.wait(timeout=20) == 7
    _wait_for_end(workers)


def _wait_for_end(workers: list[int]) -> None:
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker is still there"
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as file:
        return file.read().split()[2] != "Z"


def test_collate_stacks_numbers_and_arrays_and_lists_the_rest():
    samples = [{"a": np.ones((2, 3), np.float32), "fps": 24.0, "index": 3, "caption": "x"} for _ in range(4)]
    batch = collate(samples)
    assert batch["a"].shape == (4, 2, 3) and batch["a"].dtype == np.float32
    assert batch["fps"].dtype == np.float32 and batch["index"].tolist() == [3] * 4 and batch["caption"] == ["x"] * 4


def test_samples_of_different_shapes_name_what_differs():
    with pytest.raises(UserError, match=r"the shape of video: \(3,\) and \(4,\); use batch_size=1"):
        collate([{"video": np.zeros(3)}, {"video": np.zeros(4)}])


def test_bad_samples_survive_the_way_between_processes():
    import pickle

    from mindone.data.video import MissingFrames

    error = pickle.loads(pickle.dumps(MissingFrames("short", 7)))
    assert isinstance(error, BadSample) and error.num_frames == 7 and str(error) == "short"


def test_data_workers_do_not_need_mindspore():
    modules = "mindone.data.loader, mindone.data.video, mindone.data.table, mindone.data.transforms"
    code = f"import sys, {modules}; sys.exit('mindspore' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
