"""Options and fixtures of all tests: both modes of MindSpore, and the reference runs of the original networks.

``pytest --golden DIR`` takes the reference runs from another folder than ``tests/golden``. A test marked
``@pytest.mark.golden("prefix_", ...)`` runs once for every case whose stem begins with a prefix (fixture
``golden_case``), and in both modes if it takes the fixture ``mode``.
"""

from __future__ import annotations

import gc
from pathlib import Path

import pytest

from mindone.testing import golden
from mindone.testing.pytest_plugin import NOT_YET_COVERED

DEFAULT_GOLDEN = Path(__file__).parent / "tests" / "golden"
MODES = ("graph", "pynative")
# Files that take the longest, the longest first. They start first: two processes share the tests by files, and one of
# them would work alone at the end if the other still had such a file.
SLOW_FILES = (
    "tests/parallel/test_killed_save.py",
    "examples/opensora_hpcai/tests/training/test_sequence_parallel.py",
    "examples/opensora_hpcai/tests/proof/test_prove.py",
    "examples/opensora_hpcai/tests/training/test_denoiser_v2.py",
    "tests/train/test_loop.py",
    "examples/opensora_hpcai/tests/training/test_older_networks.py",
    "examples/opensora_hpcai/tests/training/test_denoiser_rows.py",
    "tests/parallel/test_zero.py",
    "examples/opensora_hpcai/tests/training/test_denoiser_buckets.py",
    "examples/opensora_hpcai/tests/toy/test_benchmark.py",
)


def golden_folder(config: pytest.Config) -> Path:
    return Path(config.getoption("--golden") or DEFAULT_GOLDEN)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_case" in metafunc.fixturenames:
        prefixes = [prefix for mark in metafunc.definition.iter_markers("golden") for prefix in mark.args]
        folder = golden_folder(metafunc.config)
        found = [stem for stem in golden.stems(folder) if golden.matching(stem, prefixes)]
        metafunc.parametrize("golden_case", [folder / f"{stem}.json" for stem in found], ids=found, indirect=True)
    if "mode" in metafunc.fixturenames:
        metafunc.parametrize("mode", MODES, indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drops the placeholder of a parity test without any case in the chosen folder, and puts slow files first."""
    empty = [item for item in items if "golden_case" in getattr(item, "fixturenames", ()) and _has_no_case(item)]
    if empty:
        config.hook.pytest_deselected(items=empty)
        items[:] = [item for item in items if item not in empty]
    places = {Path(__file__).parent / name: place for place, name in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Takes what is imported out of the garbage collector, which MindSpore calls before every compilation."""
    gc.collect()
    gc.freeze()


def _has_no_case(item: pytest.Item) -> bool:
    return not isinstance(getattr(item, "callspec", None) and item.callspec.params.get("golden_case"), Path)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    stems = golden.stems(golden_folder(config))
    waiting = [stem for stem in stems if golden.matching(stem, config.getini(NOT_YET_COVERED))]
    if waiting:
        terminalreporter.write_sep("-", "reference runs not yet covered")
        terminalreporter.write_line(", ".join(waiting))


@pytest.fixture
def golden_case(request: pytest.FixtureRequest) -> golden.GoldenCase:
    """The reference run of this test."""
    return golden.GoldenCase(request.param)


@pytest.fixture
def mode(request: pytest.FixtureRequest) -> str:
    """``graph`` or ``pynative``; MindSpore is in that mode while the test runs."""
    golden.use_mode(request.param)
    return request.param


@pytest.fixture
def golden_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of reference runs."""
    return golden_folder(request.config)
