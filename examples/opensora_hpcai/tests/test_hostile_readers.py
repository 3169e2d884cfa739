"""Files made by chance: every one ends in a right result or in one sentence."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from mindone.data.errors import BadSample
from mindone.data.table import VideoRow, read_table, read_video_table
from mindone.errors import UserError
from opensora.data.cache import is_complete, read_latent, read_record, read_text
from opensora.embed.decode import read_latents
from opensora.text.prompts import read_prompts

COUNT = 600


@pytest.fixture(scope="module")
def hostile():
    spec = importlib.util.spec_from_file_location("opensora_hostile", Path(__file__).with_name("hostile.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def outcomes(path, files, read, error, check) -> tuple[int, int]:
    """How many of the files were read, with ``check`` on each result, and how many refused with ``error``."""
    good = bad = 0
    for name, content in files:
        path.write_bytes(content)
        try:
            result = read(path)
        except error as caught:
            assert str(path) in str(caught), f"{name}: the message does not name the file: {caught}"
            assert len(str(caught)) < 1000, f"{name}: {caught}"
            bad += 1
        except Exception as caught:
            raise AssertionError(f"{name} ({content[:200]!r}) ends in {caught!r}") from caught
        else:
            check(result)
            good += 1
    assert good > COUNT // 50 and bad > COUNT // 50, (good, bad)
    return good, bad


def test_tables_end_in_rows_or_in_a_sentence(hostile, tmp_path):
    def check(rows):
        for row in rows:
            assert isinstance(row, VideoRow) and "\0" not in row.relative and not row.relative.startswith("../")
            assert row.fps is None or 0 < row.fps < np.inf

    outcomes(tmp_path / "a.csv", hostile.tables(COUNT), read_video_table, UserError, check)


def test_whole_tables_have_as_many_cells_as_their_header(hostile, tmp_path):
    def check(table):
        assert table.rows and all(len(row) == len(table.columns) for row in table.rows)

    outcomes(tmp_path / "a.csv", hostile.tables(COUNT, seed=1), read_table, UserError, check)


def test_lists_of_prompts_end_in_prompts_or_in_a_sentence(hostile, tmp_path):
    def check(prompts):
        assert prompts and all(prompt == prompt.strip() and prompt.encode() for prompt in prompts)
        assert not any(char in prompt for prompt in prompts for char in "\0\n\r")

    outcomes(tmp_path / "a.txt", hostile.prompts(COUNT), read_prompts, UserError, check)


def test_text_caches_end_in_an_entry_or_in_a_bad_sample(hostile, tmp_path):
    def check(entry):
        assert entry.text_emb.ndim == 2 and entry.text_emb.dtype == np.float32 and np.isfinite(entry.text_emb).all()
        assert entry.mask.shape == entry.text_emb.shape[:1] and entry.mask.any() and entry.mask.max() == 1

    outcomes(tmp_path / "a.npz", hostile.archives(COUNT), read_text, BadSample, check)


def test_latent_caches_end_in_an_entry_or_in_a_bad_sample(hostile, tmp_path):
    def check(entry):
        assert entry.mean.ndim == 4 and entry.mean.dtype == entry.std.dtype == np.float32
        assert np.isfinite(entry.mean).all() and (entry.std >= 0).all() and 0 <= entry.fps < np.inf
        assert entry.num_frames is None or entry.num_frames >= 1

    outcomes(tmp_path / "a.npz", hostile.archives(COUNT), read_latent, BadSample, check)


def test_records_end_in_settings_or_in_a_bad_sample(hostile, tmp_path):
    def check(record):
        assert record is None or isinstance(record, dict)

    def read(path):
        assert isinstance(is_complete(path, ("text_emb",)), bool)
        return read_record(path)

    outcomes(tmp_path / "a.npz", hostile.archives(COUNT, seed=1), read, BadSample, check)


def test_sampled_latents_end_in_latents_or_in_a_bad_sample(hostile, tmp_path):
    def check(latents):
        assert latents.values.ndim == 5 and len(latents.values) == 1 and np.isfinite(latents.values).all()

    outcomes(tmp_path / "a.npy", hostile.arrays(COUNT), read_latents, BadSample, check)
