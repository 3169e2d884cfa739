"""Optimizer states, gradients and weights in slices."""

import json
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops
from mindspore.ops.operations import comm_ops

from mindone import runtime
from mindone.checkpoint import read_tensors
from mindone.checkpoint.combine import combine
from mindone.checkpoint.run import verify_manifest
from mindone.checkpoint.slices import SLICES, cut_for, cut_of, part, read_slices
from mindone.checkpoint.tensors import entry_of
from mindone.errors import UserError
from mindone.models.clip import CLIPTextConfig, CLIPTextEncoder
from mindone.models.t5 import T5Config, T5Encoder
from mindone.nn.layers import Embedding, Linear
from mindone.parallel.collectives import Mean
from mindone.parallel.mesh import Mesh
from mindone.parallel.zero import Slices, held_bytes, rows_for, spread, spread_tables
from mindone.train.optim import AdamW
from mindone.train.step import TrainStep

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


@pytest.mark.msrun
def test_rows_of_a_table_in_slices_are_those_of_a_whole_one(folder):
    for rank in range(3):
        found = json.loads((folder / f"tables-{rank}.json").read_text())
        assert len(found) == 8 and set(found.values()) == {0}, found


@pytest.mark.parametrize("network", [T5Config(), CLIPTextConfig()], ids=["t5", "clip"])
def test_each_of_eight_ranks_holds_an_eighth_of_a_text_encoder(network):
    with runtime.lazy_parameters():
        encoder = (T5Encoder if isinstance(network, T5Config) else CLIPTextEncoder)(network)
    mesh = Mesh(7, 8)
    spread(encoder, mesh)
    spread_tables(encoder, mesh, together=True)
    own, whole = held_bytes(encoder.get_parameters())
    assert whole / 8 <= own <= whole / 8 * 1.01


@pytest.mark.parametrize(
    ("together", "sent"), [(True, {"AllReduce": (2 * 5 * 8 * 4,)}), (False, {"AllGather": (640,)})]
)
def test_a_table_for_ascend_sends_the_rows_that_are_asked_for_or_itself(together, sent, monkeypatch):
    monkeypatch.setattr(comm_ops, "get_group_size", lambda group: 4)
    table = Embedding(20, 8)
    with runtime.use_kernels("Ascend"):
        spread_tables(table, Mesh(1, 4), together, smallest=64)
        assert runtime.compile_front_end(table, Tensor(np.zeros((2, 5), np.int32))).sent == sent


def test_slices_of_a_table_are_whole_rows_and_the_last_ranks_may_have_none():
    cuts = [rows_for((4, 2), 3, rank) for rank in range(3)]
    assert [(cut.begin, cut.size, cut.count) for cut in cuts] == [(0, 4, 4), (4, 4, 4), (8, 4, 0)]


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
def test_a_checkpoint_of_slices_is_made_whole_and_cut_again_bit_by_bit(folder, tmp_path):
    source = checkpoint(folder, 3)
    whole = combine(source, tmp_path / "whole")
    assert sorted(path.name for path in whole.path.iterdir() if path.is_dir()) == ["ema", "model"]
    cut = combine(whole.path, tmp_path / "cut", ranks=5)
    again = combine(cut.path, tmp_path / "again")
    for name in ("optimizer.safetensors", "ema/model.safetensors", "model/model.safetensors"):
        assert (again.path / name).read_bytes() == (whole.path / name).read_bytes()
        tensors, slices = read_tensors(whole.path / name), read_slices(source / name.split("/")[0].split(".")[0])
        assert {each: tensors[each].tobytes() for each in tensors} == {each: slices[each].tobytes() for each in slices}
    assert verify_manifest(cut.path) > 15
    (source / "optimizer" / "slices-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="slices-00002-of-00003.safetensors is missing"):
        combine(source, tmp_path / "more")


def test_a_rank_has_slices_as_long_as_all_others_and_zeros_where_the_array_has_ended():
    cuts = [cut_for((3, 3), 4, rank) for rank in range(4)]
    assert [(cut.begin, cut.size, cut.count) for cut in cuts] == [(0, 3, 3), (3, 3, 3), (6, 3, 3), (9, 3, 0)]
    entry = entry_of(np.arange(9.0).reshape(3, 3))
    assert [part(entry, cut).tolist() for cut in cuts] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [0, 0, 0]]


@pytest.mark.parametrize("stage", [2, 3])
def test_an_update_for_ascend_sends_what_theory_says_to_the_byte(stage, monkeypatch):
    monkeypatch.setattr(comm_ops, "get_group_size", lambda group: 4)
    network, mesh = Steps(), Mesh(1, 4)
    with runtime.use_kernels("Ascend"):
        wide = spread(network, mesh, smallest=64) if stage == 3 else []
        slices = Slices(network.trainable_params(), mesh)
        step = TrainStep(network, AdamW(slices.parameters), max_grad_norm=1.0, mean=Mean(mesh), slices=slices)
        scalars = [Tensor(1.0, ms.float32)] * 4
        sent = runtime.compile_front_end(step.graph, *scalars, Tensor(np.zeros((2, 31), np.float32))).sent
    own, whole = held_bytes(step.state().arrays["optimizer"].values())
    assert whole / 4 <= own <= whole / 4 * 1.05
    padded = [4 * cut_of(parameter).size for parameter in slices.parameters]
    of_wide = sum(4 * cut_of(parameter).size for parameter in wide)
    # Each slice of gradients once; each whole weight once, and spread ones in both passes.
    assert sum(sent["ReduceScatter"]) * 4 == 4 * sum(padded)
    assert sum(sent["AllGather"]) == 4 * (sum(padded) - of_wide) + 2 * 4 * of_wide
    assert sent["AllReduce"] == (4, 4)  # the mean loss and the norm


class Steps(nn.Cell):
    """The first layer's input needs no gradient, but its weight is whole in the backward pass all the same."""

    def __init__(self):
        super().__init__()
        self.first, self.second = Linear(31, 33), Linear(33, 3)

    def construct(self, x):
        return ops.square(self.second(ops.tanh(self.first(x)))).mean()


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
