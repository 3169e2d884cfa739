"""MMDiT weights in the layouts of Open-Sora 2.0, Flux, ComfyUI and diffusers."""

import dataclasses

import mindspore as ms
import numpy as np
import pytest

from mindone.checkpoint import load_into, network_tensors, read_tensors, save_safetensors
from mindone.errors import UserError
from opensora.models.flux_weights import convert_flux, in_layout
from opensora.models.mmdit import MMDiT, MMDiTConfig
from opensora.models.mmdit_layouts import LAYOUTS, Layout

FLUX = MMDiTConfig(
    in_channels=8,
    vec_in_dim=6,
    context_in_dim=10,
    hidden_size=24,
    num_heads=2,
    depth=1,
    depth_single_blocks=1,
    axes_dim=(2, 4, 6),
    patch_size=2,
    guidance_embed=True,
    cond_embed=False,
    fused_qkv=True,
    use_liger_rope=False,
)


def _network(config):
    network, rng = MMDiT(config), np.random.default_rng(0)
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(rng.normal(0.5, 0.3, parameter.shape).astype(np.float32)))
    return network.set_train(False)


def _inputs(rng, batch=2, tokens=6, words=3):
    ids = np.stack(np.meshgrid(np.arange(1), np.arange(2), np.arange(3), indexing="ij"), -1).reshape(1, tokens, 3)
    shapes = ((batch, tokens, 8), ids, (batch, words, 10), np.zeros((1, words, 3)), (batch,), (batch, 6))
    arrays = [rng.normal(size=s) if isinstance(s, tuple) else s for s in shapes]
    return [*(ms.Tensor(a.astype(np.float32)) for a in arrays), None, ms.Tensor([3.5, 1.0], ms.float32)]


@pytest.mark.parametrize("layout", [Layout(False, True), Layout(False, False), Layout(True, True)], ids=str)
def test_a_network_and_its_twin_in_another_layout_agree(layout):
    ms.set_context(mode=ms.PYNATIVE_MODE)
    flux, inputs = _network(FLUX), _inputs(np.random.default_rng(1))
    config = dataclasses.replace(FLUX, fused_qkv=layout.fused_qkv, use_liger_rope=layout.half_rope)
    twin = MMDiT(config).set_train(False)
    load_into(twin, in_layout(network_tensors(flux), LAYOUTS["flux"], layout))
    expected = flux(*inputs).asnumpy()
    np.testing.assert_allclose(twin(*inputs).asnumpy(), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_there_and_back_again_is_exact(tmp_path, dtype, tool):
    first, there, back = (tmp_path / f"{name}.safetensors" for name in ("first", "there", "back"))
    save_safetensors(first, network_tensors(_network(FLUX), dtype))
    tool("convert_flux")("--src", first, "--target", there)
    tool("convert_flux")("--src", there, "--target", back, "--src_layout", "open-sora", "--layout", "flux")
    before, between, after = read_tensors(first), read_tensors(there), read_tensors(back)
    assert set(before) == set(after)
    assert "single_blocks.0.v_mlp.weight" in between
    assert not np.array_equal(_bits(before["double_blocks.0.img_attn.qkv.bias"])[:12], _bits(between["img_in.bias"]))
    for name in before:
        assert before.dtype(name) == after.dtype(name)
        assert np.array_equal(_bits(before[name]), _bits(after[name])), name


def _bits(array):
    return array.view(np.uint8)


def test_reading_one_converted_tensor_reads_only_what_it_is_made_of():
    read = []
    source = network_tensors(_network(FLUX))
    for name, entry in source.entries.items():
        watched = dataclasses.replace(entry, read=lambda name=name, entry=entry: read.append(name) or entry.read())
        source.entries[name] = watched
    converted = in_layout(source, LAYOUTS["flux"], LAYOUTS["open-sora"])
    assert read == []
    assert converted["single_blocks.0.q_proj.weight"].shape == (24, 24)
    assert read == ["single_blocks.0.linear1.weight"]


def test_other_files_and_layouts_are_refused(tmp_path):
    file = tmp_path / "flux.safetensors"
    save_safetensors(file, network_tensors(_network(FLUX)))
    with pytest.raises(UserError, match="one matrix"):
        convert_flux(file, tmp_path / "out.safetensors", "open-sora", "flux")
    for layouts in (("other", "flux"), ("flux", "other")):
        with pytest.raises(UserError, match="layout other is not known; use one of original, open-sora"):
            convert_flux(file, tmp_path / "out.safetensors", *layouts)
    save_safetensors(file, {"a": np.zeros(2, np.float32)})
    with pytest.raises(UserError, match="no MMDiT"):
        convert_flux(file, tmp_path / "out.safetensors", "flux", "open-sora")
    assert not (tmp_path / "out.safetensors").exists()
