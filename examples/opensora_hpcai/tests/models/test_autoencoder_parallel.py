"""Autoencoders whose chunks, micro batches and tiles are shared out over ranks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindone.parallel.pieces import Pieces

SCRIPT = Path(__file__).parent / "shared_autoencoders.py"


@pytest.mark.msrun
def test_ranks_that_share_a_video_have_the_latents_and_pixels_of_one_process(tmp_path):
    subprocess.run([sys.executable, SCRIPT, tmp_path], check=True)
    launch = [sys.executable, "-m", "mindone.parallel.launch", "--nproc", "2", "--log_dir", tmp_path / "logs"]
    subprocess.run([*launch, SCRIPT, tmp_path, "2"], check=True)
    expected = np.load(tmp_path / "whole.npz")
    for rank in range(2):
        found = np.load(tmp_path / f"rank_{rank}.npz")
        assert sorted(found) == sorted(expected)
        for name in expected:
            assert np.array_equal(found[name], expected[name]), name


def test_one_rank_computes_one_piece_after_the_other():
    done = []
    results = iter(Pieces().map(lambda piece: done.append(piece) or (piece,), [np.zeros(1), np.ones(1)]))
    next(results)
    assert len(done) == 1
