"""While networks run: numbers that are not finite, memory that is not there, progress, previews, forecasts."""

import json
import logging
import shutil

import numpy as np
import pytest
from generate_inputs import PROMPTS
from PIL import Image

from mindone.errors import UserError
from opensora import networks
from opensora.failures import within_memory
from opensora.families import settle
from opensora.generate import forecast, pixels, shapes
from opensora.generate.plan import make_plan
from opensora.generate.previews import latents_to_rgb
from opensora.generate.progress import Steps
from opensora.generate.run import generate


class Broken:
    """A sampler whose second step is not finite."""

    num_steps = 3

    def steps(self, request):
        yield request.noise
        yield np.full_like(request.noise, np.nan)
        raise AssertionError("it went on")


def test_sampling_stops_at_the_first_step_that_is_not_finite(settings, monkeypatch, tmp_path):
    config = settings(num_frames=1)
    family = settle(config, "v1.2")[0]
    monkeypatch.setattr(type(family), "sampler", lambda *_: Broken())
    with pytest.raises(UserError, match=r"at step 2 of 3 \(fp32\) 100% of the numbers are not finite.*try dtype"):
        generate(config)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix in (".mp4", ".png")]


def test_a_decoded_video_that_is_not_finite_is_no_video(settings, monkeypatch, tmp_path):
    load = pixels.load_autoencoder

    def broken(plan):
        autoencoder = load(plan)
        decode = autoencoder.decode
        autoencoder.decode = lambda *given: decode(*given) * float("nan")
        return autoencoder

    monkeypatch.setattr(pixels, "load_autoencoder", broken)
    with pytest.raises(UserError, match="in the decoded video 000-.*not finite.*vae_dtype fp32.*denoised_latents"):
        generate(settings(num_frames=1))
    assert not list((tmp_path / "samples").glob("*.png"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("Memory not enough: Device(id:0) memory isn't enough and alloc failed, kernel name: MatMul"),
        RuntimeError("Malloc for kernel output failed"),
    ],
)
def test_memory_that_is_not_there_becomes_a_line_that_says_what_to_change(error, settings, monkeypatch):
    def fail(*_):
        raise error

    config = settings(num_frames=1)
    family = settle(config, "v1.2")[0]

    class Hungry:
        num_steps = 2

        def steps(self, request):
            fail()
            yield request.noise

    monkeypatch.setattr(type(family), "sampler", lambda *_: Hungry())
    with pytest.raises(UserError, match="not enough memory for denoising 1 videos of 1x8x8 at once; use a batch_size"):
        generate(config)


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="of another kind"), within_memory("this", "that"):
        raise RuntimeError("of another kind")


def test_the_time_left_does_not_count_the_steps_that_compile():
    now = [0.0]
    progress = Steps(6, shown=False, clock=lambda: now[0])
    left = []
    for _ in range(2):
        progress.begin()
        for seconds in (100.0, 2.0, 2.0):
            now[0] += seconds
            progress.tick()
            left.append(progress.seconds_left)
    assert left == [None, 8.0, 6.0, 4.0, 2.0, 0.0]


def test_previews_are_written_every_so_many_steps_without_decoding(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(pixels.networks, "load_autoencoder", None)
    config = settings(sampling_steps=4, preview_every=2, captions=PROMPTS[:2], use_vae_decode=False, save_latent=True)
    generate(config)
    found = sorted(path.name for path in (tmp_path / "samples" / "previews").iterdir())
    stems = ("000-a-red-circle-moves-left", "001-a-blue-circle")
    assert found == [f"{stem}-step00{step}.png" for stem in stems for step in (2, 4)]
    with Image.open(tmp_path / "samples" / "previews" / found[0]) as picture:
        assert picture.size == (4 * 128, 128)


def test_colours_of_a_preview_do_not_depend_on_scale():
    latents = np.random.default_rng(0).normal(size=(4, 2, 3, 5)).astype(np.float32)
    colours = latents_to_rgb(latents)
    assert colours.shape == (2, 3, 5, 3)
    assert colours.std() > 20
    assert np.abs(colours.astype(int) - latents_to_rgb(7 * latents + 3)).max() <= 1


def test_a_run_says_what_it_will_need_and_what_it_took(settings, caplog):
    caplog.set_level(logging.INFO)
    generate(settings(num_frames=1))
    said = [record.message for record in caplog.records]
    before = next(line for line in said if "one network at a time" in line)
    assert "latents up to 4x1x4x4" in before
    assert all(f"{name} " in before for name in ("text encoder", "denoiser", "autoencoder"))
    assert said[-1].startswith("1 video, seed 7, in ")
    assert "denoise" in said[-1]
    assert "decode" in said[-1]


@pytest.mark.parametrize("version", ["v1", "v1.1", "v1.2", "v2.0"])
def test_forecasts_count_the_parameters_that_there_are(version, settings):
    family, config = settle(settings(version=version), version)
    plan = make_plan(config, family)
    stages = {stage.name: stage for stage in forecast.needed(plan)}
    denoiser = networks.load_denoiser(config.denoiser.ckpt_path, plan.denoiser_config)
    assert stages["denoiser"].parameters == forecast.parameters_of(denoiser)
    encoder = plan.family.conditioner(config.text, plan.denoiser_config)
    encoder.encode(["a"])
    network = encoder._encoder.network if hasattr(encoder, "_encoder") else encoder._encoders[0].network
    assert stages["text encoder"].parameters == pytest.approx(forecast.parameters_of(network), rel=0.15)
    assert all(stage.peak_bytes >= 4 * stage.parameters for stage in stages.values())


def test_sizes_that_a_network_was_not_trained_on_are_named_with_the_nearest(caplog):
    known = {"sizes": [[64, 64], [256, 256]], "num_frames": [17, 51], "fps": 8}
    shapes.warn_if_untrained(known, [(17, 64, 64)], 8)
    assert not caplog.records
    shapes.warn_if_untrained(known, [(18, 96, 96)], 24)
    assert "96x96 pixels (the nearest it knows is 64x64) and 18 frames (the nearest it knows is 17)" in caplog.text
    assert "fps=24 (the nearest it knows is 8)" in caplog.text
    caplog.clear()
    for odd in (3, {"sizes": 4}, {"sizes": [["a"]]}, {"num_frames": [None]}, {"sizes": [[0, 1]]}):
        shapes.warn_if_untrained(odd, [(1, 8, 8)], 8)
    assert len(caplog.records) == 5
    assert all("is not understood" in record.message for record in caplog.records)


def test_a_model_folder_says_what_it_was_trained_on(settings, folders, tmp_path, caplog):
    folder = shutil.copytree(folders / "v1.2", tmp_path / "trained")
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**values, "trained_on": {"sizes": [[8, 8]], "num_frames": [17]}}))
    generate(settings(ckpt_path=folder, num_frames=1, use_vae_decode=False, save_latent=True))
    assert "was not trained on 1 frames (the nearest it knows is 17)" in caplog.text
