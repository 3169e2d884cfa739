"""The autoencoders of Open-Sora 2.0 against the numbers of the originals."""

import numpy as np
import pytest
from mindspore import Tensor

from mindone import runtime
from mindone.testing import golden
from opensora.models.vae_dc_ae import DCAE, DCAEConfig
from opensora.models.vae_flux import FluxAutoencoder, FluxAutoencoderConfig
from opensora.models.vae_hunyuan import AutoencoderKLCausal3D, HunyuanAutoencoderConfig


@pytest.mark.golden("v20_flux_ae")
def test_flux_autoencoder_matches_the_original(golden_case, mode):
    autoencoder = golden_case.load_into(FluxAutoencoder(FluxAutoencoderConfig.from_dict(golden_case.args)))
    x = Tensor(golden_case.inputs["x"])
    _, mean, logvar = golden_case.check_loss_and_gradients(autoencoder, golden.mean_square(autoencoder), [x])
    golden_case.check_outputs("encode_mode", autoencoder.normalize(mean))
    golden_case.check_outputs("logvar", logvar)
    if mode == "pynative":
        golden_case.check_outputs("encode_mode", autoencoder.encode(x))
        golden_case.check_outputs("decode", autoencoder.decode(golden_case.inputs["z"]))


TAGS = {(False, False): "plain", (True, False): "spatial", (False, True): "temporal", (True, True): "both"}


def check_tiling(case, autoencoder, moments) -> None:
    """Encodes and decodes every case of the sidecar with every switch that it lists."""
    for name, switches in case.sidecar["tiling"].items():
        for spatial, temporal in switches:
            autoencoder.set_tiling(spatial, temporal)
            tag = f"{TAGS[spatial, temporal]}_{name}"
            for output, value in moments(autoencoder, case.inputs[f"x_{name}"]).items():
                case.check_outputs(f"{output}_{tag}", value)
            case.check_outputs(f"decode_{tag}", autoencoder.decode(case.inputs[f"z_{name}"]))


def hunyuan_moments(autoencoder, x) -> dict:
    mean, logvar = autoencoder.host_posterior(x)
    return {"encode": autoencoder.normalize(Tensor(np.ascontiguousarray(mean))), "logvar": logvar}


@pytest.mark.golden("v20_hunyuan_vae")
def test_causal_autoencoder_matches_the_original(golden_case, mode):
    autoencoder = AutoencoderKLCausal3D(HunyuanAutoencoderConfig.from_dict(golden_case.args))
    golden_case.load_into(autoencoder)
    name = golden_case.sidecar["grad_case"]
    x = Tensor(golden_case.inputs[f"x_{name}"])
    _, mean, logvar = golden_case.check_loss_and_gradients(autoencoder, golden.mean_square(autoencoder), [x])
    golden_case.check_outputs(f"encode_plain_{name}", autoencoder.normalize(mean))
    golden_case.check_outputs(f"logvar_plain_{name}", logvar)
    # Every size would be a compilation of its own; the graph itself is the one just checked.
    if mode == "pynative":
        check_tiling(golden_case, autoencoder, hunyuan_moments)


@pytest.mark.golden("v20_hunyuan_vae", "v20_dcae")
def test_latent_sizes_are_those_of_the_original(golden_case):
    for size, latent in golden_case.sidecar["get_latent_size"]:
        assert autoencoder_of(golden_case).latent_size(tuple(size)) == tuple(latent), size


@pytest.mark.golden("v20_dcae")
def test_deep_compression_autoencoder_matches_the_original(golden_case, mode):
    autoencoder = golden_case.load_into(DCAE(DCAEConfig.from_dict(golden_case.args)))
    name = golden_case.sidecar["grad_case"]
    x = Tensor(golden_case.inputs[f"x_{name}"])
    _, z = golden_case.check_loss_and_gradients(autoencoder, golden.mean_square(autoencoder), [x])
    golden_case.check_outputs(f"encode_plain_{name}", autoencoder.normalize(z))
    if mode == "pynative":
        check_tiling(golden_case, autoencoder, lambda network, x: {"encode": network.encode(x)})


def autoencoder_of(case):
    """The case's network without weights."""
    cells = {"AutoencoderKLCausal3D": AutoencoderKLCausal3D, "DCAE": DCAE}
    configs = {"AutoencoderKLCausal3D": HunyuanAutoencoderConfig, "DCAE": DCAEConfig}
    name = case.sidecar["class"]
    with runtime.lazy_parameters():
        return cells[name](configs[name].from_dict(case.args))
