"""Denoisers by name: their sizes, and what is refused."""

import json
import math

import pytest

from mindone import runtime
from mindone.adapters import LoraConfig, add_lora
from mindone.errors import UserError
from mindone.parallel.mesh import Mesh
from mindone.parallel.zero import held_bytes
from opensora.networks import build_denoiser, denoiser_config, denoiser_presets, spread_denoiser

STDITS = [name for name in denoiser_presets() if name.startswith("STDiT")]

PARAMETERS = {
    "STDiT-XL/2": (759_620_768, 120),
    "STDiT2-XL/2": (767_452_100, 200),
    "STDiT3-XL/2": (1_207_643_972, 300),
    "STDiT3-3B/2": (3_182_211_572, 300),
}


@pytest.mark.parametrize("preset", STDITS)
def test_published_sizes_have_the_published_number_of_parameters(preset):
    with runtime.lazy_parameters():
        denoiser = build_denoiser(denoiser_config(preset))
    sizes = {name: math.prod(parameter.shape) for name, parameter in denoiser.parameters_and_names()}
    null_caption = sizes.pop("y_embedder.y_embedding")
    total, tokens = PARAMETERS[preset]
    assert (sum(sizes.values()), null_caption) == (total, tokens * 4096)
    assert all(parameter.has_init for name, parameter in denoiser.parameters_and_names() if name != "rope.freqs")


@pytest.mark.parametrize("preset", [*STDITS, "DiT-XL/2", "PixArt-XL/2", "MMDiT-11B"])
def test_each_of_eight_ranks_that_sample_holds_an_eighth_of_a_denoiser(preset):
    with runtime.lazy_parameters():
        denoiser = build_denoiser(denoiser_config(preset))
    spread_denoiser(denoiser, Mesh(7, 8))
    own, whole = held_bytes(denoiser.get_parameters())
    assert whole / 8 <= own <= whole / 8 * 1.01


@pytest.mark.parametrize("preset", denoiser_presets())
def test_an_adapter_of_every_denoiser_changes_the_linears_of_its_blocks(preset):
    with runtime.lazy_parameters():
        denoiser = build_denoiser(denoiser_config(preset))
        lora = add_lora(denoiser, LoraConfig(rank=4))
    known = {name for name, parameter in denoiser.parameters_and_names() if ".adapter." not in name}
    assert len(lora.branches) >= 5 * denoiser.config.depth
    assert all("blocks." in path and f"{path}.weight" in known for path in lora.branches)
    assert len(denoiser.trainable_params()) == 2 * len(lora.branches)


def test_a_config_is_the_preset_then_the_published_one_then_the_overrides(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"depth": 2, "qk_norm": False, "_class": "STDiT2"}))
    config = denoiser_config("STDiT2-XL/2", tmp_path, {"depth": 1})
    assert (config.depth, config.qk_norm, config.hidden_size) == (1, False, 1152)


def test_position_scales_are_those_of_1_0_and_have_no_effect_elsewhere(tmp_path, caplog):
    (tmp_path / "config.json").write_text(json.dumps({"space_scale": 1.0, "time_scale": 2.0}))
    scales = {"space_scale": 0.5, "time_scale": None}
    config = denoiser_config("STDiT-XL/2", tmp_path, scales)
    assert (config.space_scale, config.time_scale) == (0.5, 2.0)
    assert caplog.messages == []
    for preset in ("STDiT2-XL/2", "STDiT3-XL/2", "MMDiT-11B"):
        assert denoiser_config(preset, None, scales) == denoiser_presets()[preset]
    assert caplog.messages[0] == "space_scale=0.5 has no effect: the denoiser STDiT2-XL/2 has no such scale"
    assert len(caplog.messages) == 3


def test_unknown_names_and_settings_are_refused():
    with pytest.raises(UserError, match="STDiT2-XL/2"):
        denoiser_config("STDiT-XXL")
    with pytest.raises(UserError, match="unknown key 'denoiser.input_sq_size'"):
        denoiser_config("STDiT-XL/2", None, {"input_sq_size": 512})


@pytest.mark.parametrize(
    ("preset", "sizes", "message"),
    [
        ("STDiT3-XL/2", {"depth": "x"}, "model.denoiser.depth='x' has to be int"),
        ("STDiT3-XL/2", {"depht": 1}, "unknown key 'model.denoiser.depht'; did you mean depth?"),
        ("STDiT3-XL/2", {"num_heads": 0}, "num_heads=0 has to be more than 0"),
        ("STDiT3-XL/2", {"mlp_ratio": -4}, "mlp_ratio=-4.0 has to be more than 0"),
        ("STDiT3-XL/2", {"depth": 0}, "depth=0 has to be more than 0"),
        ("STDiT-XL/2", {"patch_size": [1, 2, 0]}, r"patch_size=\[1, 2, 0\] has to be more than 0"),
        ("MMDiT-11B", {"depth": 0, "depth_single_blocks": 0}, "make no network"),
        ("MMDiT-11B", {"vec_in_dim": -1}, "vec_in_dim=-1 has to be more than 0"),
    ],
)
def test_sizes_that_no_network_can_have_are_refused_in_one_sentence(preset, sizes, message):
    with pytest.raises(UserError, match=message) as refusal:
        denoiser_config(preset, None, sizes, "model.denoiser")
    assert "\n" not in str(refusal.value)
