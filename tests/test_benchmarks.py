"""The benchmarks of sampling measure what they say, at sizes of no interest. No time and no memory is looked at."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

from mindone.config import check, load
from mindone.errors import UserError
from mindone.testing.golden import use_mode
from opensora.cli import DOORS
from opensora.cli import load as load_object
from opensora.data_tools.files import open_table

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """A module of the benchmarks, by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ("activations", "bench", "curation", "loops", "memory", "staged"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("version", ["v1", "v1.1", "v1.2", "v2.0"])
def test_the_calls_of_a_loop_are_repeated_as_they_were(version, benchmark, monkeypatch):
    loops = benchmark("loops")
    sizes, (channels, *_), _ = loops.LOOPS[version]
    heads = {"axes_dim": [4, 4, 4]} if "axes_dim" in sizes else {}
    small = {**sizes, "hidden_size": 24, "num_heads": 2, **heads}
    monkeypatch.setitem(loops.LOOPS, version, (small, (channels, 3, 4, 4), (3, 32, 32)))
    monkeypatch.setattr(loops, "STEPS", 3)
    case = loops.loop_case(version)
    assert case.what.startswith("3 guided calls")
    first, again = case.theirs(), case.theirs()
    assert len(first) == 3
    for one, other in zip(first, again):
        assert one.shape[:2] == (2, first[0].shape[1])
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(case.ours(), case.ours())


@pytest.mark.parametrize("name", ["index", "index_tiny", "scenes", "scenes_films", "score"])
def test_a_verb_finds_what_its_library_finds(name, benchmark, monkeypatch, tmp_path):
    verb = name.partition("_")[0]
    if verb == "scenes":
        pytest.importorskip("scenedetect")
    curation = benchmark("curation")
    monkeypatch.setitem(curation.FILMS, name, (2, (24, 48, 64)))
    case = curation.verb_case(name, tmp_path)
    rows = list(open_table(case.ours()))
    if verb == "index":
        assert case.theirs() == [(24, 48, 64)] * 2
        assert [(row["num_frames"], row["height"], row["width"]) for row in rows] == [("24", "48", "64")] * 2
    elif verb == "scenes":
        assert case.theirs() == [[12], [12]] and [row["start_frame"] for row in rows] == ["0", "12"] * 2
    else:
        np.testing.assert_allclose([float(row["flow"]) for row in rows], case.theirs(), rtol=0.05)
    assert case.ours() != case.ours()


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_either_clock_is_read_before_and_after_a_call(clock, benchmark, monkeypatch):
    bench, now = benchmark("bench"), [0.0]

    def work(seconds):
        now[0] += seconds

    monkeypatch.setitem(bench.CLOCKS, clock, lambda: now[0])
    timing = bench.measure(bench.Case("waits", "half", lambda: work(2), lambda: work(1)), 0, 3, 3, clock)
    assert (timing.ours_ms, timing.theirs_ms, timing.ratio) == (2000, 1000, 2)


def test_a_family_that_there_is_not_is_refused(benchmark):
    with pytest.raises(UserError, match="there is no family v3"):
        check(load(benchmark("loops").LoopsConfig, ["--families", "v3"]))


def test_the_stages_are_measured_by_commands_that_are_understood(benchmark, tmp_path):
    commands = benchmark("staged").commands(tmp_path)
    assert set(commands) == {*benchmark("staged").STAGES, "whole"}
    for door, flags in commands.values():
        check(load(load_object(DOORS[door].schema), flags))


@pytest.mark.parametrize("version", ["v1.2", "v2.0"])
def test_the_video_whose_memory_is_measured_is_one_that_the_denoiser_takes(version, benchmark, monkeypatch):
    activations = benchmark("activations")
    for name, value in {"WIDTH": 144, "DEPTH": 1}.items():
        monkeypatch.setattr(activations, name, value)
    monkeypatch.setattr(activations, "MMDIT_AXES", (4, 16, 16))
    build, inputs = activations.NETWORKS[version]
    arrays = activations.tensors(inputs((2, 2, 2), np.random.default_rng(0)))
    use_mode("pynative")
    assert build(None)(*arrays).size == 8 * {"v1.2": 4 * 8, "v2.0": 64}[version]


@pytest.mark.parametrize(("largest", "code"), [(52.0, 0), (56.0, 1)])
def test_a_rank_with_more_than_its_share_and_a_tenth_is_told_by_the_exit_code(largest, code, benchmark, monkeypatch):
    activations = benchmark("activations")
    monkeypatch.setattr(activations, "measured", lambda way, ranks: 100.0 if ranks == 1 else largest)
    assert activations.main(["--ranks", "2", "--ways", "dsp"]) == code
