"""The VQ-VAE of the first release against the numbers of the original."""

import numpy as np
import pytest
from mindspore import nn

from mindone.errors import UserError
from mindone.testing.golden import as_tensor, loss_and_gradients
from opensora.models.vqvae import VQVAE, VQVAEConfig


def network_of(case):
    return case.load_into(VQVAE(VQVAEConfig(**case.args)))


class Loss(nn.Cell):
    def __init__(self, network):
        super().__init__(auto_prefix=False)
        self.network = network

    def construct(self, x):
        results = self.network(x)
        return (results[1] + results[2], *results)


def check_codes(case, name, codes):
    assert np.array_equal(codes.asnumpy(), case.outputs[name])


@pytest.mark.golden("v00_vqvae")
def test_codes_and_videos_match_the_original(golden_case, mode):
    network = network_of(golden_case)
    x, codes, latent = golden_case.input_tensors(("x", "codes", "latent"))
    found, vectors = network.encode(x)
    check_codes(golden_case, "eval/codes", found)
    golden_case.check_outputs("eval/embeddings", vectors)
    golden_case.check_outputs("eval/decode_of_codes", network.decode(network.codebook.vectors(codes)))
    golden_case.check_outputs("eval/decode_of_latent", network.decode(latent))
    names = ("recon", "recon_loss", "commitment_loss", "perplexity")
    *results, z, _ = network(x)
    for name, value in zip(names, results):
        golden_case.check_outputs(f"eval/{name}", value)
    golden_case.check_intermediate("eval_z", z)


@pytest.mark.golden("v00_vqvae")
def test_losses_and_gradients_match_the_original(golden_case, mode):
    network = network_of(golden_case).set_train()
    named = dict(network.parameters_and_names())
    results, gradients, _ = loss_and_gradients(
        Loss(network), [named[name] for name in golden_case.grads], golden_case.input_tensors(("x",))
    )
    loss, recon, recon_loss, commitment, perplexity, z, codes = results
    check_codes(golden_case, "train/codes", codes)
    for name, value in {
        "loss": loss,
        "recon": recon,
        "recon_loss": recon_loss,
        "commitment_loss": commitment,
        "perplexity": perplexity,
    }.items():
        golden_case.check_outputs(f"train/{name}", value)
    golden_case.check_intermediate("train_z", z)
    golden_case.check_gradients(dict(zip(golden_case.grads, gradients)))
    for name in golden_case.outputs:
        parameter = named.get(name.removeprefix("train_keep/"))
        if name.startswith("train_keep/") and parameter is not None:
            golden_case.check_outputs(name, parameter)


def check_codebook(case, network, name):
    for part in ("N", "z_avg", "embeddings"):
        case.check_outputs(f"{name}/{part}", getattr(network.codebook, part))


@pytest.mark.golden("v00_vqvae")
def test_the_codebook_follows_the_encoder_as_in_the_original(golden_case):
    inputs, network = golden_case.inputs, network_of(golden_case)
    z, codes = golden_case.intermediates["train_z"], golden_case.outputs["train/codes"]
    network.codebook.follow(z, codes, inputs["keep_perm"], inputs.get("keep_tile_noise"))
    check_codebook(golden_case, network, "train_keep")
    network = network_of(golden_case)
    for part in ("N", "z_avg"):
        getattr(network.codebook, part).set_data(as_tensor(inputs[f"restart_{part}"]))
    network.codebook.follow(z, codes, inputs["restart_perm"], inputs.get("restart_tile_noise"))
    check_codebook(golden_case, network, "train_restart")


@pytest.mark.golden("v00_vqvae")
def test_a_fresh_codebook_is_filled_from_the_first_batch_as_in_the_original(golden_case):
    inputs, network = golden_case.inputs, network_of(golden_case)
    z, codebook = golden_case.intermediates["train_z"], network.codebook
    codebook.begin(z, inputs["init_perm"], inputs.get("init_tile_noise"))
    golden_case.check_outputs("train_init/initial_embeddings", codebook.embeddings)
    codes = codebook(as_tensor(z))
    check_codes(golden_case, "train_init/codes", codes)
    distance = np.square(z - codebook.vectors(codes).asnumpy()).mean()
    golden_case.check_outputs("train_init/commitment_loss", 0.25 * distance)
    codebook.follow(z, codes.asnumpy(), inputs["init_restart_perm"], inputs.get("init_restart_tile_noise"))
    check_codebook(golden_case, network, "train_init")


@pytest.mark.parametrize(
    ("setting", "message"),
    [({"downsample": (2, 2, 2)}, "at least 4"), ({"downsample": (3, 4, 4)}, "powers of 2"), ({"n_hiddens": 6}, "by 4")],
)
def test_settings_that_cannot_be_are_refused(setting, message):
    with pytest.raises(UserError, match=message):
        VQVAEConfig(**setting)
