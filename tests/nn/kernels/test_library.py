"""Which compiled library is taken."""

import importlib.machinery
import platform
import shutil

import pytest

from mindone.errors import UserError
from mindone.nn.kernels import library


@pytest.fixture
def kernels(monkeypatch, tmp_path):
    """A folder for libraries, a processor that can do what is said, and no choice in the environment."""
    library.compiled_library.cache_clear()
    monkeypatch.delenv("MINDONE_NATIVE", raising=False)
    monkeypatch.setattr(library, "FOLDER", tmp_path)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    def prepare(names, flags):
        monkeypatch.setattr(library, "processor_flags", lambda: frozenset(flags))
        files = {name: tmp_path / f"_kernels_{name}{importlib.machinery.EXTENSION_SUFFIXES[0]}" for name in names}
        for file in files.values():
            file.touch()
        return files

    yield prepare
    library.compiled_library.cache_clear()


NARROW = library.VARIANTS["x86_64"]["avx2"]
WIDE = NARROW | library.VARIANTS["x86_64"]["avx512"]


def test_the_widest_library_that_the_processor_knows_is_taken(kernels):
    files = kernels(["avx512", "avx2"], WIDE)
    assert library.compiled_library() == files["avx512"]


def test_a_narrower_processor_gets_the_narrower_library(kernels):
    files = kernels(["avx512", "avx2"], NARROW)
    assert library.compiled_library() == files["avx2"]


def test_an_old_processor_gets_none(kernels):
    kernels(["avx512", "avx2"], [])
    assert library.compiled_library() is None


def test_an_installation_without_a_compiler_has_no_library(kernels):
    kernels([], WIDE)
    assert library.compiled_library() is None


def test_the_environment_chooses_a_library_or_none(kernels, monkeypatch):
    files = kernels(["avx512", "avx2"], WIDE)
    monkeypatch.setenv("MINDONE_NATIVE", "avx2")
    assert library.compiled_library() == files["avx2"]
    library.compiled_library.cache_clear()
    monkeypatch.setenv("MINDONE_NATIVE", "0")
    assert library.compiled_library() is None


def test_an_unknown_library_is_an_error_that_names_the_known_ones(kernels, monkeypatch):
    kernels(["avx512"], WIDE)
    monkeypatch.setenv("MINDONE_NATIVE", "sse")
    with pytest.raises(UserError, match="use 0, avx512, avx2"):
        library.compiled_library()


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler here")
def test_an_installation_with_a_compiler_has_a_library():
    if platform.machine() in library.VARIANTS:
        suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
        names = library.VARIANTS[platform.machine()]
        assert all((library.FOLDER / f"_kernels_{name}{suffix}").is_file() for name in names)
