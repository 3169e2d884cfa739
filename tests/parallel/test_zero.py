"""Optimizer states, gradients and weights in slices."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mindone.checkpoint import read_tensors
from mindone.checkpoint.slices import SLICES, cut_for, part, read_slices
from mindone.errors import UserError

PATIENCE = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero")
    script = Path(__file__).with_name("zero_script.py")
    command = [sys.executable, "-m", "mindone.parallel.launch", "--nproc", "3", "--log_dir", str(folder / "logs")]
    done = subprocess.run([*command, str(script), str(folder)], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder


@pytest.mark.msrun
def test_training_in_slices_that_is_resumed_has_the_numbers_of_one_process(folder):
    found = json.loads((folder / "found.json").read_text())
    assert len(found) == 3 and max(found.values()) < 1e-5, found
    for stage, accumulation in {1: 2, 2: 2, 3: 1}.items():
        one, many = (read_tensors(folder / run / "model") for run in (f"one-{accumulation}", f"stage-{stage}"))
        assert list(many) == list(one)
        for name in one:
            np.testing.assert_allclose(many[name], one[name], atol=2e-6, err_msg=name)


def checkpoint(folder, stage):
    return folder / f"stage-{stage}" / "ckpt" / "step-00000002"


@pytest.mark.msrun
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_each_rank_has_saved_its_slices_which_any_number_of_ranks_reads(folder, stage):
    groups = ["optimizer", "ema"] + (["model"] if stage == 3 else [])
    assert (checkpoint(folder, stage) / "model" / "model.safetensors").exists() == (stage != 3)
    for group in groups:
        names = sorted(path.name for path in (checkpoint(folder, stage) / group).glob("*.safetensors"))
        assert names == [f"slices-{rank:05d}-of-00003.safetensors" for rank in range(3)]
        whole = read_slices(checkpoint(folder, stage) / group)
        for name, entry in whole.entries.items():
            for ranks in (1, 2, 4):
                cuts = [cut_for(entry.shape, ranks, rank) for rank in range(ranks)]
                together = np.concatenate([part(entry, cut) for cut in cuts])
                assert together[: entry.size].tobytes() == whole[name].tobytes(), name
                assert not together[entry.size :].any()
    assert whole.shape("first.weight") == (7, 5)


@pytest.mark.msrun
def test_a_folder_that_lacks_a_slice_is_refused_with_its_name(folder, tmp_path):
    source = checkpoint(folder, 3) / "ema"
    for path in source.iterdir():
        if "00001-of" not in path.name:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match="lacks slices-00001-of-00003.safetensors, which slices.json names"):
        read_tensors(tmp_path)
    (tmp_path / SLICES).write_text("{}")
    with pytest.raises(UserError, match="not a readable index of slices"):
        read_tensors(tmp_path)
