import mindspore as ms
import numpy as np
import pytest

from mindone.checkpoint import read_tensors, save_ckpt, save_safetensors
from mindone.checkpoint.convert import convert, convert_autoencoder, to_mindspore
from mindone.checkpoint.describe import differences, guess_network, summary, table
from mindone.checkpoint.tensors import as_tensor_file
from mindone.errors import UserError


def kernel(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("names", [("keep", "keep"), ("mindspore", "published")])
def test_there_and_back_again_is_equal_bit_by_bit(tmp_path, torch_save, arrays, assert_same, names):
    arrays |= {"blocks.0.norm1.weight": kernel(4), "blocks.0.norm1.bias": kernel(4)}
    source = torch_save(tmp_path / "a.pth", arrays)
    convert(source, tmp_path / "b.ckpt", names[0])
    convert(tmp_path / "b.ckpt", tmp_path / "c.safetensors", names[1])
    assert_same(read_tensors(tmp_path / "c.safetensors"), arrays)
    assert differences(read_tensors(source), read_tensors(tmp_path / "c.safetensors")) == []


def test_norms_get_the_names_of_the_earlier_port_on_request(tmp_path):
    save_safetensors(tmp_path / "a.safetensors", {"norm1.weight": kernel(4), "fc.weight": kernel(4, 4)})
    convert(tmp_path / "a.safetensors", tmp_path / "a.ckpt", "mindspore")
    assert set(ms.load_checkpoint(str(tmp_path / "a.ckpt"))) == {"norm1.gamma", "fc.weight"}
    assert to_mindspore("bias") == "beta"


def test_only_floating_tensors_change_their_dtype(tmp_path, arrays):
    save_safetensors(tmp_path / "a.safetensors", arrays)
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype="bf16")
    found = read_tensors(tmp_path / "b.safetensors")
    kinds = {name: found.dtype(name).name for name in found}
    assert kinds == {
        **dict.fromkeys(("block.weight", "block.half", "block.brain", "scalar"), "bfloat16"),
        "ids": "int64",
        "mask": "bool",
    }
    assert found["scalar"] == 2.5


@pytest.mark.parametrize("target", ["out.pth", "out", "out.npz"])
def test_an_unknown_target_is_refused_before_anything_is_read(tmp_path, target):
    with pytest.raises(UserError, match="has to end in"):
        convert(tmp_path / "missing", tmp_path / target)


def test_two_tensors_that_would_get_one_name_are_refused_and_nothing_is_left(tmp_path):
    save_safetensors(tmp_path / "a.safetensors", {"norm.gamma": kernel(2), "norm.weight": kernel(2)})
    with pytest.raises(UserError, match="two tensors for norm.weight"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.ckpt", "published")
    with pytest.raises(UserError, match="names=other"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.ckpt", "other")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize(
    "generation",
    [
        {"encoder.mid_block.attentions.0.query.weight": (8, 8, 1, 1), "decoder.conv_in.bias": (8,)},
        {"encoder.mid_block.attentions.0.to_q.weight": (8, 8), "decoder.conv_in.bias": (8,)},
        {"first_stage_model.encoder.mid.attn_1.q.weight": (8, 8, 1, 1), "first_stage_model.decoder.conv_in.bias": (8,)},
    ],
    ids=["first diffusers", "diffusers", "latent diffusion"],
)
def test_a_2d_autoencoder_of_any_generation_gets_its_published_names(tmp_path, generation):
    arrays = {name: kernel(*shape) for name, shape in generation.items()}
    save_safetensors(tmp_path / "a.safetensors", arrays)
    convert_autoencoder(tmp_path / "a.safetensors", tmp_path / "b.ckpt")
    convert(tmp_path / "b.ckpt", tmp_path / "c.safetensors")
    found = read_tensors(tmp_path / "c.safetensors")
    assert list(found) == ["encoder.mid_block.attentions.0.to_q.weight", "decoder.conv_in.bias"]
    for (name, array), published in zip(arrays.items(), found):
        assert np.array_equal(found[published].ravel(), array.ravel()), name


def test_another_network_is_not_taken_for_an_autoencoder(tmp_path):
    save_safetensors(tmp_path / "a.safetensors", {"blocks.0.weight": kernel(2)})
    with pytest.raises(UserError, match="is not such an autoencoder"):
        convert_autoencoder(tmp_path / "a.safetensors", tmp_path / "c.ckpt")


@pytest.mark.parametrize(
    ("names", "network"),
    [
        (["module.encoder.block.0.layer.0.SelfAttention.q.weight"], "T5 encoder"),
        (["encoder.down_blocks.0.a", "decoder.up_blocks.0.a"], "AutoencoderKL"),
        (["blocks.0.attn.qkv.weight", "blocks.1.attn.qkv.weight"], "one of the example"),
        (["something"], "unknown"),
    ],
)
def test_the_network_is_guessed_from_its_names(names, network):
    signatures = {"one of the example": ("blocks.*.attn.*",)}
    assert guess_network(as_tensor_file(dict.fromkeys(names, np.zeros(1))), signatures) == network


def test_a_checkpoint_is_described_with_its_totals_and_every_tensor(arrays):
    file = as_tensor_file(arrays)
    assert "values    31" in summary(file)
    assert "float32 x 2" in summary(file)
    assert "bfloat16  [2, 3]  block.brain" in table(file)


def test_differences_are_named():
    first = as_tensor_file(
        {"same": np.ones(2), "value": np.zeros(2), "shape": np.zeros(2), "dtype": np.zeros(2), "a": np.ones(1)}
    )
    second = as_tensor_file(
        {"same": np.ones(2), "value": -np.zeros(2), "shape": np.zeros(3), "dtype": np.zeros(2, "f4")}
    )
    found = [line.split(":")[0] for line in differences(first, second)]
    assert sorted(found) == ["a", "dtype", "shape", "value"]


def test_a_file_that_cannot_prove_to_be_whole_is_converted_with_a_warning(tmp_path, arrays, caplog):
    save_ckpt(tmp_path / "a.ckpt", arrays)
    whole = (tmp_path / "a.ckpt").read_bytes()
    convert(tmp_path / "a.ckpt", tmp_path / "a.safetensors")
    assert not caplog.text
    assert "complete" not in summary(read_tensors(tmp_path / "a.ckpt"))
    (tmp_path / "b.ckpt").write_bytes(whole[:-17])
    convert(tmp_path / "b.ckpt", tmp_path / "b.safetensors")
    assert "b.ckpt has no checksum, and its format no count of tensors: 6 were found" in caplog.text
    assert "complete  not known" in summary(read_tensors(tmp_path / "b.ckpt"))
    (tmp_path / "c.ckpt").write_bytes(whole[:-18])
    with pytest.raises(UserError, match=r"c\.ckpt is not a sound MindSpore checkpoint"):
        convert(tmp_path / "c.ckpt", tmp_path / "c.safetensors")


def test_a_value_that_half_precision_cannot_hold_is_not_converted(tmp_path):
    save_safetensors(tmp_path / "a.safetensors", {"w": np.array([1, -1e6, np.inf], np.float32)})
    with pytest.raises(UserError, match=r"1e\+06 is too large for float16"):
        convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype="fp16")
    assert not (tmp_path / "b.safetensors").exists()


def test_averages_are_converted_on_request(tmp_path, torch_save):
    weights = {"model": {"w": np.zeros(2, np.float32)}, "ema": {"w": np.ones(2, np.float32)}}
    torch_save(tmp_path / "a.pth", weights)
    for choice, value in (("model", 0), ("ema", 1)):
        convert(tmp_path / "a.pth", tmp_path / "b.safetensors", weights=choice)
        assert read_tensors(tmp_path / "b.safetensors")["w"].tolist() == [value, value]
