import json

import numpy as np
import pytest

from mindone.checkpoint import read_tensors, save_ckpt, save_safetensors
from mindone.checkpoint.tensors import TensorFile, as_tensor_file
from mindone.errors import UserError


def shards(folder, weight_map=None):
    save_safetensors(folder / "model-1.safetensors", {"a": np.zeros(2)}, {"format": "pt", "made_by": "a training"})
    save_safetensors(folder / "model-2.safetensors", {"b": np.ones(3), "unlisted": np.ones(1)})
    weight_map = {"a": "model-1.safetensors", "b": "model-2.safetensors"} if weight_map is None else weight_map
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def test_shards_are_one_mapping_by_their_index_or_by_their_folder(tmp_path):
    index = shards(tmp_path)
    for place in (index, tmp_path):
        found = read_tensors(place)
        assert {name: array.tolist() for name, array in found.items()} == {"a": [0, 0], "b": [1, 1, 1]}
        assert found.metadata == {"format": "pt", "made_by": "a training"}


@pytest.mark.parametrize("name", ["../model-1.safetensors", "/etc/passwd", "..", "", "sub/model-1.safetensors", "a\\b"])
def test_an_index_may_not_lead_out_of_its_folder(tmp_path, name):
    with pytest.raises(UserError, match="in the folder of their index"):
        read_tensors(shards(tmp_path, {"a": name}))


def test_a_missing_shard_and_a_tensor_that_is_not_in_its_shard_are_named(tmp_path):
    with pytest.raises(UserError, match="model-9.safetensors, which is not in its folder"):
        read_tensors(shards(tmp_path, {"a": "model-9.safetensors"}))
    with pytest.raises(UserError, match="says that b is in model-1.safetensors"):
        read_tensors(shards(tmp_path, {"b": "model-1.safetensors"}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": [1]}', '{"weight_map": {"a": 1}}'])
def test_a_damaged_index_is_refused(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(UserError, match="index"):
        read_tensors(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "diffusion_pytorch_model.safetensors", "other.safetensors"])
def test_a_folder_stands_for_the_model_in_it(tmp_path, name):
    save_safetensors(tmp_path / name, {"a": np.zeros(1)})
    (tmp_path / "config.json").write_text("{}")
    assert list(read_tensors(tmp_path)) == ["a"]


def test_a_folder_with_several_candidates_or_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no checkpoint"):
        read_tensors(tmp_path)
    for name in ("a.ckpt", "b.ckpt"):
        save_ckpt(tmp_path / name, {"a": np.zeros(1)})
    with pytest.raises(UserError, match="several checkpoints .a.ckpt, b.ckpt."):
        read_tensors(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.pth", "a.ckpt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", bytes(100)])
def test_what_is_no_checkpoint_is_refused_whatever_its_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        read_tensors(tmp_path / name)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at .*nothing.pth"):
        read_tensors(tmp_path / "nothing.pth")


def test_a_part_of_a_file_can_be_taken_and_renamed():
    file = as_tensor_file({"vae.a": np.zeros(1), "vae.b": np.ones(1), "c": np.ones(2)})
    part = file.under("vae.").renamed({"a": "x"})
    assert sorted(part) == ["b", "x"]
    assert part.nbytes == 16
    with pytest.raises(UserError, match="two tensors for b"):
        part.renamed({"x": "b"})
    assert isinstance(part, TensorFile)


@pytest.mark.parametrize("name", ["model.safetensors", "a.pth", "a.ckpt", "a.bin", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4194304\n", "pointer of Git LFS"),
        (b"/annex/objects/SHA256E-s1--4d7a.safetensors\n", "pointer of git-annex"),
        (b"\n<!DOCTYPE html>\n<html>...", "web page"),
    ],
)
def test_what_only_stands_in_for_a_checkpoint_is_called_that(tmp_path, name, content, what):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is .*{what}"):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "tool"), [("__0_0.distcp", "dcp|format_utils"), ("zero_to_fp32.py", "zero_to_fp32.py . OUTPUT")]
)
def test_a_folder_of_shards_that_only_their_trainer_merges_is_named_with_its_tool(tmp_path, name, tool):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=tool):
        read_tensors(tmp_path)
