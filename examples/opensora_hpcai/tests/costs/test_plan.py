"""``opensora plan``: what a recipe takes on so many cards."""

import pytest

from mindone.config import parse
from mindone.errors import UserError
from opensora.cli import open_door
from opensora.config import PlanConfig
from opensora.costs.device import ASCEND_A2
from opensora.costs.plan import read_plan
from opensora.costs.step import Spread, forecast, spreads
from opensora.costs.work import encoder_flops
from opensora.networks import autoencoder_skeleton

SMALL = ["--denoiser", "{hidden_size: 96, depth: 2, num_heads: 4}", "--device_target", "CPU"]
FIXED = [*SMALL, "--image_size", "64", "--num_frames", "17", "--batch_size", "2"]


def plan(*flags):
    return open_door("plan", [*FIXED, *flags], "opensora plan")


def read(*flags):
    return read_plan(parse(PlanConfig, [*FIXED, *flags], "opensora plan"))


def test_a_small_training_fits_and_the_fastest_way_that_runs_is_returned(capsys):
    found = plan("--cards", "2")
    assert found.spread == Spread(2, 1, 0)
    text = capsys.readouterr().out
    assert "fastest: dp=2,sp=1,zero=0 (--use_recompute False --use_parallel True)" in text
    assert "64x64" in text


def test_what_fits_nowhere_is_refused_with_the_smallest_need():
    with pytest.raises(UserError, match=r"nothing fits into 0.5 GB on 1 cards; the smallest way .* needs 4.*GB"):
        plan("--memory", "0.5")


def test_buckets_are_listed_by_resolution_and_length(capsys):
    open_door(
        "plan",
        [*SMALL, "--bucket_config", "{144p: {1: [1.0, 4], 51: [1.0, 2]}, 240p: {51: [0.5, 1]}}"],
        "opensora plan",
    )
    lines = [line.split()[:3] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line and line[0] in ("144p", "240p")] == [
        ["240p", "51", "1"],
        ["144p", "51", "2"],
        ["144p", "1", "4"],
    ]


def test_an_adapter_has_few_gradients():
    whole, adapter = read(), read("--lora_rank", "2", "--pretrained_model_path", "absent")
    assert adapter.job.network.trained < 0.1 * whole.job.network.trained
    assert adapter.job.network.parameters == whole.job.network.parameters


def test_every_way_uses_all_cards_and_shares_heads():
    ways = list(spreads(8, 16))
    assert {way.cards for way in ways} == {8}
    assert {way.sequence for way in ways} == {1, 2, 4, 8}
    assert {way.sequence for way in spreads(3, 2)} == {1}


def test_splitting_more_needs_less_memory():
    job = read().job
    peaks = [forecast(job, Spread(4, 1, stage), 0.0, ASCEND_A2).memory.peak for stage in range(4)]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == 4
    assert forecast(job, Spread(2, 2, 0), 0.0, ASCEND_A2).memory.activations == pytest.approx(
        forecast(job, Spread(4, 1, 0), 0.0, ASCEND_A2).memory.activations / 2
    )


def test_an_encoder_takes_what_its_convolutions_take():
    # The encoder of AutoencoderKL, as profilers count it: 0.54 T multiplications and additions for 512x512.
    flops = encoder_flops(autoencoder_skeleton("SD-VAE"), (1, 512, 512))
    assert flops == pytest.approx(2 * 0.54e12, rel=0.2)
