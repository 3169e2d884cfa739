import logging

import ml_dtypes
import numpy as np
import pytest

from mindone.checkpoint import read_tensors, save_ckpt, save_safetensors
from mindone.checkpoint.selection import select_flat
from mindone.checkpoint.tensors import is_finite
from mindone.errors import UserError

W, AVERAGE, OTHER = (np.full(2, value, np.float32) for value in (1, 2, 3))
STEP = np.array(7)


@pytest.mark.parametrize(
    "content",
    [
        {"model": {"w": W}, "ema": {"w": AVERAGE}, "opt": {"m": OTHER}},
        {"state_dict": {"w": W}, "ema_state_dict": {"w": AVERAGE}},
        {"state_dict": {"w": W}, "state_dict_ema": {"w": AVERAGE}},
        {"params": {"w": W}, "params_ema": {"w": AVERAGE}},
        {"model": {"w": W}, "model_ema": {"decay": None, "num_updates": STEP, "module": {"w": AVERAGE}}},
        {"g": {"w": W}, "d": {"w": OTHER}, "g_ema": {"w": AVERAGE}},
        {"student": {"w": W}, "teacher": {"w": AVERAGE}},
        {"state_dict": {"model": {"w": W}, "ema": {"w": AVERAGE}}},
        {"state_dict": {"w": W, "ema.w": AVERAGE}},
        {"w": W, "ema": {"w": AVERAGE}},
        {"model": {"w": W}, "ema": {"initted": STEP, "step": STEP, "online_model.w": W, "ema_model.w": AVERAGE}},
        {"model": {"w": W}, "ema": {"n_averaged": STEP, "w": AVERAGE}},
    ],
)
def test_averages_are_taken_only_when_they_are_asked_for(tmp_path, torch_save, caplog, content):
    path = torch_save(tmp_path / "a.pth", content)
    with caplog.at_level(logging.WARNING):
        assert {name: array.tolist() for name, array in read_tensors(path).items()} == {"w": [1, 1]}
    assert caplog.text.count("left out: ") == 1
    assert "weights=ema (of the tools: --weights ema) takes the averaged ones" in caplog.text
    if "online_model.w" not in content.get("ema", {}):
        assert {name: array.tolist() for name, array in read_tensors(path, "ema").items()} == {"w": [2, 2]}
    assert len(read_tensors(path, "all")) >= 2


def test_what_is_left_out_is_one_line(tmp_path, torch_save, caplog):
    content = {"state_dict": {"a.w": W, "a.v": W}, "loss": STEP, "optimizer": {"state": {"0": {"m": W, "v": W}}}}
    with caplog.at_level(logging.WARNING):
        assert list(read_tensors(torch_save(tmp_path / "a.pth", content))) == ["a.w", "a.v"]
    assert [record.message for record in caplog.records] == [
        f"{tmp_path / 'a.pth'}: taking the weights in state_dict; left out: loss, optimizer (2 tensors)"
    ]


def test_averages_alone_are_taken_and_it_is_said(tmp_path, torch_save, caplog):
    path = torch_save(tmp_path / "a.pth", {"ema_state_dict": {"w": AVERAGE}})
    with caplog.at_level(logging.WARNING):
        assert read_tensors(path)["w"].tolist() == [2, 2]
    assert "taking the averaged weights in ema_state_dict, as there are no others" in caplog.text


def test_averages_that_are_not_there_or_have_no_names_are_refused(tmp_path, torch_save, opcodes):
    path = torch_save(tmp_path / "a.pth", {"state_dict": {"w": W}})
    with pytest.raises(UserError, match=r"a\.pth holds no averaged weights"):
        read_tensors(path, "ema")
    with pytest.raises(UserError, match="weights=best is not known; use one of model, ema, all"):
        read_tensors(path, "best")
    path = torch_save(tmp_path / "b.pth", {"model": {"w": W}, "ema": {"decay": 1, "shadow_params": (AVERAGE,)}})
    with pytest.raises(UserError, match=r"averaged weights .ema. have no names"):
        read_tensors(path, "ema")
    assert list(read_tensors(path)) == ["w"]


def test_the_state_of_an_optimizer_is_not_taken_for_weights(tmp_path, torch_save):
    path = torch_save(tmp_path / "a.bin", {"optimizer": {"state": {"0": {"m": W}}, "param_groups": ()}})
    with pytest.raises(UserError, match=r"holds no tensors of a network, only optimizer .1 tensors."):
        read_tensors(path)


def test_empty_tensors_are_called_a_shard(tmp_path, torch_save):
    empty = np.zeros(0, np.float32)
    with pytest.raises(UserError, match="all 2 tensors .* are empty: .*zero_to_fp32.py"):
        read_tensors(torch_save(tmp_path / "mp_rank_00_model_states.pt", {"module": {"a": empty, "b": empty}}))


def test_one_mapping_is_taken_apart_by_its_prefixes(tmp_path, caplog):
    content = {"network.a.w": W, "moment1.network.a.w": OTHER, "ema.network.a.w": AVERAGE, "global_step": STEP}
    save_ckpt(tmp_path / "a.ckpt", content)
    with caplog.at_level(logging.WARNING):
        assert list(read_tensors(tmp_path / "a.ckpt")) == ["network.a.w"]
    assert "1 tensors averaged (such as ema.network.a.w)" in caplog.text
    assert "1 tensors of an optimizer (such as moment1.network.a.w), global_step" in caplog.text
    found = read_tensors(tmp_path / "a.ckpt", "ema")
    assert {name: array[0] for name, array in found.items()} == {"network.a.w": 2}


def test_names_that_only_look_like_a_trainers_are_left_as_they_are(tmp_path):
    """An optimizer's own file, a file of averages alone, and a network with a part that is called ema."""
    for content in ({"exp_avg.w": W, "step": STEP}, {"ema.w": W}, {"ema.w": W, "v": W}):
        save_safetensors(tmp_path / "a.safetensors", content)
        assert set(read_tensors(tmp_path / "a.safetensors")) == set(content)


def test_averages_whose_names_lost_their_dots_get_them_back():
    sizes = {"model.diffusion.in.0.weight": 4, "model_ema.diffusionin0weight": 4, "model_ema.decay": 1, "vae.w": 2}
    assert set(select_flat(sizes).leaves) == {"model.diffusion.in.0.weight", "vae.w"}
    taken = select_flat(sizes, "ema")
    assert taken.leaves == {"vae.w": "vae.w", "model.diffusion.in.0.weight": "model_ema.diffusionin0weight"}
    assert taken.is_average


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, ml_dtypes.float8_e4m3fn])
def test_values_that_are_not_finite_are_found_wherever_they_are(dtype):
    array = np.random.default_rng(0).standard_normal(700_001).astype(dtype)
    array[:4] = [0, -0.0, float(ml_dtypes.finfo(dtype).max), float(ml_dtypes.finfo(dtype).min)]
    assert is_finite(array)
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        if dtype == ml_dtypes.float8_e4m3fn and not np.isnan(value):
            continue
        for place in (0, 262_144, 700_000):
            changed = array.copy()
            changed[place] = value
            assert not is_finite(changed)
            assert not is_finite(changed[::-1])
    assert is_finite(np.zeros(0, dtype))
    assert is_finite(np.arange(4))
