"""The presets of the shared models, in the checkout and in an installed package."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from mindone import runtime
from mindone.errors import UserError
from mindone.models.autoencoder_kl import AutoencoderKL, AutoencoderKLConfig
from mindone.models.clip import CLIPTextConfig, CLIPTextEncoder
from mindone.models.presets import config_of, load_preset, preset_names, preset_values
from mindone.models.t5 import T5Config, T5Encoder

ROOT = Path(__file__).parents[2]
NETWORKS = {T5Config: T5Encoder, CLIPTextConfig: CLIPTextEncoder, AutoencoderKLConfig: AutoencoderKL}
PARAMETERS = {
    "clip-vit-large-patch14-text": 123_060_480,
    "sd-vae-ft-ema": 83_653_863,
    "sdxl-vae": 83_653_863,
    "t5-v1_1-small": 35_332_800,
    "t5-v1_1-base": 109_628_544,
    "t5-v1_1-large": 341_231_104,
    "t5-v1_1-xl": 1_223_527_424,
    "t5-v1_1-xxl": 4_762_310_656,
}


def test_every_preset_has_a_known_number_of_parameters():
    assert set(preset_names()) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_preset_builds_the_network_with_its_published_number_of_parameters(name):
    config = load_preset(name)
    with runtime.lazy_parameters():
        model = NETWORKS[type(config)](config)
    assert all(parameter.has_init for parameter in model.get_parameters())
    assert sum(math.prod(parameter.shape) for parameter in model.get_parameters()) == PARAMETERS[name]


def test_configs_without_sizes_are_those_of_the_published_models():
    assert load_preset("t5-v1_1-xxl") == T5Config()
    assert load_preset("clip-vit-large-patch14-text") == CLIPTextConfig()


def test_a_recipe_may_name_a_preset_or_give_the_sizes():
    assert config_of(T5Config, "t5-v1_1-small").d_model == 512
    assert config_of(T5Config, {"d_model": 8}).d_model == 8
    assert config_of(AutoencoderKLConfig, "sdxl-vae").scaling_factor == preset_values("sdxl-vae")["scaling_factor"]


def test_unknown_presets_and_those_of_other_networks_are_refused():
    with pytest.raises(UserError, match="no preset t6.*t5-v1_1-xxl"):
        load_preset("t6")
    with pytest.raises(UserError, match="no preset ../setup"):
        load_preset("../setup")
    with pytest.raises(UserError, match="sdxl-vae gives AutoencoderKLConfig"):
        config_of(T5Config, "sdxl-vae")


def test_presets_travel_with_the_package(tmp_path):
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib"]  # without compiling kernels
    subprocess.run([*command, tmp_path / "lib"], cwd=ROOT, check=True, capture_output=True)
    show = "from mindone.models import presets; print(presets.preset_folder(), *presets.preset_names())"
    shown = subprocess.run(
        [sys.executable, "-c", show], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "lib")}, capture_output=True
    )
    folder, *names = shown.stdout.decode().split()
    assert Path(folder) == tmp_path / "lib" / "mindone" / "configs"
    assert names == preset_names()
