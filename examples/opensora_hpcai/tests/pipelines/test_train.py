"""Training a denoiser from caches: a whole run, its inputs, and what it refuses."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest

from mindone.checkpoint import read_tensors, save_model, save_safetensors
from mindone.config import load, parse
from mindone.data.loader import collate
from mindone.data.write import write_video
from mindone.errors import UserError
from mindone.models.autoencoder_kl import AutoencoderKLConfig
from mindone.runtime import stream
from mindone.train.loop import Place
from opensora.config import TrainConfig
from opensora.data.cache import LatentEntry, write_latent, write_text
from opensora.models.vae_temporal import TemporalAutoencoderConfig
from opensora.models.vae_v1_2 import VideoAutoencoder, VideoAutoencoderConfig
from opensora.pipelines import doors, train
from opensora.toy.tiny_t5 import write_tiny_t5

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "opensora-v1-2" / "train").glob("*.yaml"))
SAMPLES, TOKENS, WIDTH = 6, 8, 16
SHIFT, SCALE = (0.1, -0.2, 0.3, 0.0), (2.0, 1.0, 0.5, 1.5)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A table of six videos that exist as caches only: 5 frames of 8 x 8 pixels are 2 latent frames of 4 x 4."""
    root = tmp_path_factory.mktemp("data")
    with open(root / "video_caption.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption"])
        writer.writerows([f"clip{i}.mp4", f"caption {i}"] for i in range(SAMPLES))
    for i in range(SAMPLES):
        rng = np.random.default_rng(i)
        mean = rng.normal(size=(2, 4, 4, 4)).astype(np.float32)
        latent = root / "latents" / f"clip{i}.npz"
        write_latent(latent, LatentEntry(mean, np.full_like(mean, 0.1), 8.0, (8, 8), 5, (8, 8)))
        embedding, mask = rng.normal(size=(TOKENS, WIDTH)), np.arange(TOKENS) < 4 + i % 3
        write_text(root / "text" / f"clip{i}.npz", embedding, mask, np.zeros(TOKENS, np.int32))
    image = AutoencoderKLConfig(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        layers_per_block=1,
        norm_num_groups=2,
    )
    temporal = TemporalAutoencoderConfig(filters=4, num_res_blocks=1, num_groups=2)
    config = VideoAutoencoderConfig(autoencoder_kl=image, vae_temporal=temporal, shift=SHIFT, scale=SCALE)
    save_model(root / "vae", VideoAutoencoder(config), config.to_dict())
    return root


def arguments(data, *more):
    recipe = {
        "csv_path": data / "video_caption.csv",
        "vae_latent_folder": data / "latents",
        "text_embed_folder": data / "text",
        "vae_checkpoint": data / "vae",
        "image_size": 8,
        "num_frames": 5,
        "denoiser": json.dumps({"hidden_size": 16, "depth": 1, "num_heads": 2, "caption_channels": WIDTH}),
        "model_max_length": TOKENS,
        "mask_ratios": json.dumps({"image_head": 0.5}),
        "scheduler": "constant",
        "start_learning_rate": 0.01,
        "warmup_steps": 0,
        "clip_grad": True,
        "use_ema": True,
        "ema_decay": 0.9,
        "batch_size": 2,
        "num_parallel_workers": 0,
        "seed": 5,
        "device_target": "CPU",
    }
    given = [token for name, value in recipe.items() for token in (f"--{name}", str(value))]
    return [*given, *more]


def setting(data, *more):
    return train.make_setting(parse(TrainConfig, arguments(data, *more)))


def result_rows(folder):
    return [line.split("\t")[:4] for line in (folder / "result.log").read_text().splitlines()]


def test_a_run_from_caches_trains_samples_saves_and_resumes_to_the_same_numbers(data, tmp_path, caplog):
    caplog.set_level("INFO")
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    length = ["--train_steps", "4", "--ckpt_save_steps", "2", "--add_datetime", "False"]
    doors.train_main(arguments(data, *length, "--output_path", str(whole), "--sample_every", "4"))
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "ckpt" / "step-00000004")
    shutil.rmtree(resumed / "model")
    doors.train_main(arguments(data, *length, "--output_path", str(resumed), "--resume", "True"))

    assert len(result_rows(whole)) == 5
    assert result_rows(resumed) == result_rows(whole)
    for name in ("model", "ckpt/step-00000004/model"):
        a, b = read_tensors(whole / name), read_tensors(resumed / name)
        assert all(np.array_equal(np.asarray(a[key]), np.asarray(b[key])) for key in a)
    assert np.isfinite([float(row[1]) for row in result_rows(whole)[1:]]).all()
    samples = whole / "samples" / "step-00000004"
    assert (samples / "contact_sheet.png").is_file()
    assert len(list(samples.glob("*.mp4"))) == 4
    assert load(TrainConfig, ["--config", str(whole / "args.yaml")]).ema_decay == 0.9
    assert json.loads((whole / "model" / "config.json").read_text())["hidden_size"] == 16
    assert "bad samples: 0" in (whole / "log_0.txt").read_text()


def batch_of(prepared, indices):
    dataset = train.make_dataset(prepared)
    return collate([dataset.get(i, stream(0, "data", i)) for i in indices])


def prepared_inputs(prepared, indices, positions):
    prepare = train.Preparation(prepared, train.Texts(prepared))
    return prepare(batch_of(prepared, indices), Place(5, 3, positions))


def test_cached_latents_are_sampled_from_their_posterior_and_normalised(data):
    place = Place(5, 3, range(2))
    latents = prepared_inputs(setting(data), [0, 1], place.positions)[0].asnumpy()
    mean = np.stack([np.random.default_rng(i).normal(size=(2, 4, 4, 4)).transpose(1, 0, 2, 3) for i in (0, 1)])
    shift, scale = (np.array(values).reshape(1, 4, 1, 1, 1) for values in (SHIFT, SCALE))
    expected = (mean + 0.1 * place.normal("posterior", (4, 2, 4, 4)) - shift) / scale
    np.testing.assert_allclose(latents, expected, rtol=1e-4, atol=1e-5)


def test_the_inputs_of_a_sample_depend_on_its_position_and_not_on_its_batch(data):
    prepared = setting(data)
    whole = prepared_inputs(prepared, [0, 1, 2, 3], range(4))
    halves = [prepared_inputs(prepared, [i, i + 1], range(i, i + 2)) for i in (0, 2)]
    for full, first, second in zip(whole, *halves):
        np.testing.assert_array_equal(full.asnumpy(), np.concatenate([first.asnumpy(), second.asnumpy()]))


def test_masks_time_steps_and_caption_dropout_differ_between_samples(data):
    prepared = setting(data)
    prepared = replace(prepared, denoiser_config=replace(prepared.denoiser_config, class_dropout_prob=0.5))
    _, _, t, _, _, drop, frames_mask, *_ = (x.asnumpy() for x in prepared_inputs(prepared, [0, 1, 2, 3], range(4)))
    assert len(set(t)) == 4
    assert set(drop) == {0, 1}
    assert set(frames_mask[:, 0]) == {True, False}
    assert frames_mask[:, 1].all()


def test_without_mask_ratios_there_is_no_frames_mask(data):
    prepared = setting(data, "--mask_ratios", "None")
    assert prepared_inputs(prepared, [0], range(1))[6] is None


def test_short_text_is_padded_and_text_that_does_not_fit_is_refused(data):
    texts = train.Texts(setting(data))
    embeddings, mask = texts.fitted(np.ones((1, 3, WIDTH), np.float32), np.ones((1, 3), np.uint8))
    assert embeddings.shape == (1, TOKENS, WIDTH)
    assert mask.tolist() == [[1] * 3 + [0] * 5]
    with pytest.raises(UserError, match="width 3, but the denoiser takes caption_channels=16"):
        texts.fitted(np.ones((1, 3, 3), np.float32), np.ones((1, 3), np.uint8))
    with pytest.raises(UserError, match="up to 9 tokens, but the denoiser takes model_max_length=8"):
        texts.fitted(np.ones((1, 9, WIDTH), np.float32), np.ones((1, 9), np.uint8))


def test_latents_of_another_size_are_refused(data):
    prepared = setting(data, "--image_size", "16")
    with pytest.raises(UserError, match="cache them again with the same image_size"):
        prepared_inputs(prepared, [0], range(1))


def test_data_for_less_than_one_update_are_refused(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        doors.train_main(arguments(data, "--batch_size", "7", "--output_path", str(tmp_path)))
    assert ended.value.code == 2
    assert "the dataset has 6 samples, but one batch needs 7" in capsys.readouterr().err


def test_fresh_weights_depend_on_the_seed(data):
    prepared = setting(data)
    first, again, other = (train.build_denoiser(prepared, seed) for seed in (1, 1, 2))
    name = "x_embedder.proj.weight"
    first, again, other = (dict(each.parameters_and_names())[name].asnumpy() for each in (first, again, other))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_training_starts_from_an_image_model_with_its_weights_and_fresh_temporal_blocks(data, tmp_path, caplog):
    caplog.set_level("INFO")
    fresh = {name: p.asnumpy() for name, p in train.build_denoiser(setting(data), 1).parameters_and_names()}
    video_only = ("temporal_blocks.", "fps_embedder.", "rope.")
    pixart = {
        name.replace("spatial_blocks.", "blocks."): array + 1
        for name, array in fresh.items()
        if not name.startswith(video_only) and "q_norm" not in name and "k_norm" not in name
    }
    pixart["x_embedder.proj.weight"] = pixart["x_embedder.proj.weight"][:, :, 0]
    save_safetensors(tmp_path / "pixart.safetensors", pixart)
    prepared = setting(data, "--pretrained_model_path", str(tmp_path / "pixart.safetensors"))
    for name, parameter in train.build_denoiser(prepared, 1).parameters_and_names():
        taken = name.replace("spatial_blocks.", "blocks.") in pixart
        np.testing.assert_array_equal(parameter.asnumpy(), fresh[name] + taken, err_msg=name)
    assert "training starts from PixArt" in caplog.text


def test_normalisation_comes_from_the_weights_and_not_from_config_json(data, tmp_path):
    config = VideoAutoencoderConfig.from_dict(json.loads((data / "vae" / "config.json").read_text()))
    network = VideoAutoencoder(config)
    network.shift.set_data(ms.Tensor(np.full((1, 4, 1, 1, 1), 7.0, np.float32)))
    save_model(tmp_path, network, config.to_dict())
    assert (setting(data, "--vae_checkpoint", str(tmp_path)).autoencoder.shift.asnumpy() == 7).all()


def test_videos_and_captions_train_without_caches(data, tmp_path):
    """Decoded, encoded by the autoencoder and by T5 on the way, with accumulation."""
    rng = np.random.default_rng(0)
    for i in range(SAMPLES):
        write_video(tmp_path / f"clip{i}.mp4", rng.integers(0, 255, (6, 16, 12, 3), np.uint8), fps=8)
    write_tiny_t5(tmp_path / "t5")
    widths = json.dumps({"hidden_size": 16, "depth": 1, "num_heads": 2, "caption_channels": 64})
    made = [
        *("--denoiser", widths, "--model_max_length", "16"),
        *("--video_folder", str(tmp_path), "--vae_latent_folder", "", "--text_embed_folder", ""),
        *("--t5_model_name_or_path", str(tmp_path / "t5"), "--frame_stride", "1", "--mode", "1"),
        *("--gradient_accumulation_steps", "2", "--train_steps", "2"),
        *("--output_path", str(tmp_path / "run"), "--add_datetime", "False"),
    ]
    doors.train_main(arguments(data, *made))
    losses = [float(row[1]) for row in result_rows(tmp_path / "run")[1:]]
    assert len(losses) == 2
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_trains_at_toy_size(data, tmp_path, recipe):
    """Its flow, masks, optimizer, precision, recompute and EMA, with a small network and small videos."""
    toy = arguments(data)
    sizes = ("csv_path", "vae_latent_folder", "text_embed_folder", "vae_checkpoint", "image_size", "num_frames")
    kept = (*sizes, "denoiser", "model_max_length", "batch_size", "num_parallel_workers", "seed", "device_target")
    flags = [token for name in kept for token in toy[toy.index(f"--{name}") :][:2]]
    once = ["--pretrained_model_path", "", "--train_steps", "1", "--mode", "1", "--add_datetime", "False"]
    doors.train_main(["--config", str(recipe), *flags, *once, "--output_path", str(tmp_path)])
    (row,) = result_rows(tmp_path)[1:]
    assert np.isfinite(float(row[1]))
    assert (tmp_path / "model" / "model.safetensors").is_file()
