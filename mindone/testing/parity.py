"""Runs the parity tests of one reference run without pytest, which only those who change the code need to install.

A parity test is a function marked ``@pytest.mark.golden("prefix_", ...)`` that takes the fixture ``golden_case`` and,
if it is to run in both modes of MindSpore, ``mode``; see ``conftest.py``.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from mindone.testing import golden

MARK = "pytest.mark.golden"
MODES = ("graph", "pynative")


def run_case(path: Path, folders: Iterable[Path], say: Callable[[str], None] = print) -> tuple[int, int]:
    """Runs every parity test in ``folders`` that belongs to the reference run at ``path``.

    Returns:
        How many comparisons were made, and how many of them failed.
    """
    case = golden.GoldenCase(path)
    made = failed = 0
    for name, function in parity_tests(case.stem, folders):
        takes_mode = "mode" in inspect.signature(function).parameters
        for mode in MODES if takes_mode else (None,):
            start, reason = time.perf_counter(), _failure(function, case, mode)
            made, failed = made + 1, failed + bool(reason)
            what = f"{name} [{mode}]" if mode else name
            say(f"{'FAILED' if reason else 'passed'}  {time.perf_counter() - start:5.1f} s  {what}{reason}")
    return made, failed


def parity_tests(stem: str, folders: Iterable[Path]) -> Iterator[tuple[str, Callable]]:
    """Name and function of every parity test of a reference run."""
    for folder in folders:
        for file in sorted(folder.rglob("test_*.py")):
            if MARK not in file.read_text(encoding="utf-8"):
                continue
            for name, function in list(vars(_loaded(file)).items()):
                marks = getattr(function, "pytestmark", [])
                if any(mark.name == "golden" and golden.matching(stem, mark.args) for mark in marks):
                    yield f"{file.name}: {name}", function


def _failure(function: Callable, case: golden.GoldenCase, mode: str | None) -> str:
    """Why a comparison failed; empty if it did not."""
    golden.use_mode(mode or MODES[0])
    try:
        function(case, mode) if mode else function(case)
    except Exception as error:
        traceback.print_exc()
        return f": {next(iter(str(error).strip().splitlines()), type(error).__name__)}"
    return ""


def _loaded(file: Path) -> ModuleType:
    """A file of tests as a module, with `_marks_only` in the place of pytest."""
    spec = importlib.util.spec_from_file_location(f"parity_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    # MindSpore's compiler looks up the module of what it compiles.
    sys.modules[spec.name] = module
    before = sys.modules.get("pytest")
    sys.modules["pytest"] = _marks_only()
    try:
        spec.loader.exec_module(module)
    finally:
        del sys.modules["pytest"]
        if before:
            sys.modules["pytest"] = before
    return module


def _marks_only() -> ModuleType:
    """What a file of tests needs of pytest while it is imported."""
    module = ModuleType("pytest")
    module.mark = _Marks()
    module.param = lambda *values, **_: values
    module.fixture = lambda *arguments, **_: arguments[0] if arguments else (lambda function: function)
    return module


class _Marks:
    """``mark.NAME(...)``: notes name and arguments at the function, as pytest does."""

    def __getattr__(self, name: str) -> Callable:
        def mark(*arguments: Any, **_: Any) -> Callable:
            if len(arguments) == 1 and inspect.isfunction(arguments[0]):
                return arguments[0]

            def noted(function: Callable) -> Callable:
                function.pytestmark = [*getattr(function, "pytestmark", []), SimpleNamespace(name=name, args=arguments)]
                return function

            return noted

        return mark
