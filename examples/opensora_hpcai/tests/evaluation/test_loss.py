"""``opensora evaluate loss``: the validation loss of checkpoints on the same samples and noise."""

import json

import numpy as np
import pytest
from cached_world import SAMPLES, WIDTH, arguments, write_cached_world
from mindspore import Tensor

from mindone.checkpoint import save_model
from mindone.errors import UserError
from mindone.testing import golden
from opensora.cli import open_door
from opensora.networks import build_denoiser, denoiser_config

WIDTHS = {"hidden_size": 16, "depth": 1, "num_heads": 2, "caption_channels": WIDTH, "model_max_length": 8}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A world of caches with two denoisers that are not alike, the first one twice."""
    root = tmp_path_factory.mktemp("world")
    write_cached_world(root)
    config = denoiser_config("STDiT3-XL/2", None, WIDTHS)
    for name, seed in (("first", 0), ("second", 1), ("again", 0)):
        network = build_denoiser(config)
        network.initialize_weights(seed)
        rng = np.random.default_rng(seed)
        weight = network.final_layer.linear.weight
        # fresh denoisers predict nothing
        weight.set_data(Tensor((0.1 * rng.normal(size=weight.shape)).astype(np.float32)))
        save_model(root / name, network, WIDTHS)
    return root


def test_checkpoints_are_compared_on_the_same_samples_and_noise(world, tmp_path, capsys):
    golden.use_mode("graph")
    names = [str(world / name) for name in ("first", "second", "again")]
    given = ["--checkpoints", *names, "--num_eval_timesteps", "3", "--val_batch_size", "3"]
    found = open_door("evaluate loss", arguments(world, *given, "--output", str(tmp_path / "l.json")), "opensora")
    (first,), (second,), (again,) = (found[name].values() for name in names)
    assert first.samples == SAMPLES and first.losses.shape == (3,)
    np.testing.assert_array_equal(first.losses, again.losses)
    assert abs(first.losses - second.losses).min() > 1e-4
    written = json.loads((tmp_path / "l.json").read_text())
    assert written["timesteps"] == [0.25, 0.5, 0.75] and list(written["checkpoints"]) == names
    assert capsys.readouterr().out.count(str(world)) == 3


def test_what_cannot_be_compared_is_refused(world):
    with pytest.raises(UserError, match="more than once"):
        twice = ["--checkpoints", str(world / "first"), str(world / "first")]
        open_door("evaluate loss", arguments(world, *twice), "opensora")
    with pytest.raises(UserError, match="give denoisers as --checkpoints|--checkpoints A B"):
        open_door("evaluate loss", arguments(world), "opensora")
