"""The planner's model against published numbers."""

from dataclasses import replace

import pytest
from published_times import ROWS, denoiser, encoder

from opensora.config.train import Optim
from opensora.costs.device import ASCEND_A2
from opensora.costs.memory import Sharding, training_memory
from opensora.costs.work import MicroBatch
from opensora.generate.forecast import parameters_of

TOLERANCE = 0.3
GB = 1e9


def test_four_of_five_published_times_are_predicted_within_thirty_percent():
    ratios = {name: row.predicted / row.seconds for name, row in ROWS.items()}
    near = [name for name, ratio in ratios.items() if abs(ratio - 1) <= TOLERANCE]
    table = "\n".join(
        f"{name}: {ROWS[name].seconds:.3g} s, {ratio:.2f} of it predicted" for name, ratio in ratios.items()
    )
    assert len(near) >= 0.8 * len(ratios), table


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith(("1.2", "2.0"))])
def test_no_update_of_the_networks_with_most_users_is_far_off(name):
    assert ROWS[name].predicted == pytest.approx(ROWS[name].seconds, rel=TOLERANCE)


# --- what does not fit ------------------------------------------------------------------------------------------------


def needed(version, size, samples, sharding, recomputed=1.0, optim=None):
    """GB of a card in training from cached latents."""
    family, network = denoiser(version)
    latents = encoder(family.autoencoder_preset).latent_size(size)
    batch = MicroBatch(latents, family.model_max_length, samples)
    return training_memory(network, batch, recomputed, optim or Optim(), ASCEND_A2, sharding).peak / GB


def test_the_eleven_billion_of_2_0_do_not_sample_on_24_gb():
    _, network = denoiser("v2.0")
    text = 4.76e9
    assert 2 * network.parameters / GB + ASCEND_A2.reserved_bytes / GB > 24
    assert 2 * (network.parameters + text + parameters_of(encoder("Hunyuan-VAE"))) / GB > 24


@pytest.mark.parametrize("memory", [24, 64, 80])
def test_2_0_never_trains_on_cards_that_all_hold_the_whole_network(memory):
    for stage in (0, 1):
        assert needed("v2.0", (129, 256, 256), 1, Sharding(8, stage)) > memory


def test_2_0_does_not_train_at_the_published_batches_on_a_card_of_24_gb_whatever_is_split():
    for stage in range(4):
        assert needed("v2.0", (129, 256, 256), 3, Sharding(8, stage)) > 24


def test_720p_does_not_train_without_recomputation():
    assert needed("v1.2", (51, 720, 1280), 1, Sharding(8, 0), recomputed=0.0) > 64


def test_what_was_trained_on_cards_of_64_gb_fits_there():
    assert needed("v1.2", (51, 720, 1280), 1, Sharding(8, 0), optim=replace(Optim(), use_ema=True)) < 64
    assert needed("v1.2", (408, 720, 1280), 1, Sharding(4, 0, sequence=4)) < 64
    assert needed("v1.1", (64, 576, 1024), 1, Sharding(8, 0)) < 64
    assert needed("v2.0", (129, 256, 256), 2, Sharding(8, 3)) < 64
    assert needed("v2.0", (129, 768, 768), 1, Sharding(8, 3, sequence=8)) < 64


@pytest.mark.xfail(strict=True, reason="69 GB are predicted: what blocks keep was measured in float32 on a CPU")
def test_64_frames_of_512_with_24_of_28_blocks_recomputed_fit_as_published():
    assert needed("v1", (64, 512, 512), 1, Sharding(8, 0), recomputed=24 / 28) < 64
