"""Training a denoiser from caches: a whole run, its inputs, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from cached_world import SAMPLES, arguments, setting, write_cached_world

from mindone.adapters import read_lora
from mindone.checkpoint import network_tensors, read_tensors, save_model, save_safetensors
from mindone.config import load
from mindone.data.write import write_video
from mindone.errors import UserError
from mindone.testing import golden
from opensora.cli import enter
from opensora.config import TrainConfig
from opensora.config.train import Data
from opensora.models.vae_v1_2 import VideoAutoencoder, VideoAutoencoderConfig
from opensora.networks import denoiser_config, load_denoiser, shapes
from opensora.toy.tiny_t5 import write_tiny_t5
from opensora.training import denoiser as training

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "opensora-v1-2" / "train").glob("*.yaml"))
LENGTH = ["--train_steps", "4", "--ckpt_save_steps", "2"]
# A few updates of such a small network take less time than its compilation.
PLAIN = ["--mode", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_cached_world(root)
    return root


def result_rows(folder):
    return [line.split("\t")[:4] for line in (folder / "result.log").read_text().splitlines()]


def run(data, folder, *more):
    enter("train", arguments(data, "--add_datetime", "False", "--output_path", str(folder), *more))


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run of four updates with a checkpoint after every other one, and samples after the third and the last."""
    golden.use_mode("graph")
    folder = tmp_path_factory.mktemp("whole")
    run(data, folder, *LENGTH, "--sample_every", "3")
    return folder


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """The same in PyNative, without samples."""
    folder = tmp_path_factory.mktemp("plain")
    run(data, folder, *LENGTH, *PLAIN)
    return folder


def half_of(whole, folder):
    """A copy of a run as it was after its second update."""
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "ckpt" / "step-00000004")
    shutil.rmtree(folder / "model")
    return folder


@pytest.fixture
def half(plain, tmp_path):
    return half_of(plain, tmp_path / "half")


def refused(capsys, data, folder, *more):
    """The one line with which a run is refused."""
    with pytest.raises(SystemExit) as ended:
        run(data, folder, *more)
    assert ended.value.code == 2
    lines = capsys.readouterr().err.strip().splitlines()
    return lines[-1]


def assert_same_result(folder, other):
    assert result_rows(folder) == result_rows(other)
    for name in ("model", "ckpt/step-00000004/model", "ckpt/step-00000004/ema"):
        a, b = read_tensors(folder / name), read_tensors(other / name)
        assert all(np.array_equal(np.asarray(a[key]), np.asarray(b[key])) for key in a)


def test_a_resumed_run_of_another_optimizer_has_the_same_numbers_with_intervals_in_epochs_and_percent(data, tmp_path):
    """Six samples in batches of two are three updates: CAME's state is a row and a column per matrix."""
    recipe = ["--train_steps", "4", "--ckpt_save_steps", "50%", "--warmup_steps", "1 epoch", "--optim", "came"]
    recipe += ["--group_strategy", "norm_and_bias", "--weight_decay", "0.1", "--log_interval", "25%", *PLAIN]
    run(data, tmp_path / "whole", *recipe)
    shutil.copytree(tmp_path / "whole", tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "ckpt" / "step-00000004")
    shutil.rmtree(tmp_path / "half" / "model")
    run(data, tmp_path / "half", *recipe, "--resume", "True")
    rates = [float(line[2]) for line in result_rows(tmp_path / "whole")[1:]]
    whole, half = (tmp_path / name / "ckpt" / "step-00000004" for name in ("whole", "half"))
    for file in ("model/model.safetensors", "optimizer.safetensors"):
        assert (whole / file).read_bytes() == (half / file).read_bytes()
    assert rates == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01], rel=1e-3)


def test_a_run_leaves_its_settings_its_numbers_samples_and_a_model(whole):
    losses = [float(row[1]) for row in result_rows(whole)[1:]]
    assert len(losses) == 4
    assert np.isfinite(losses).all()
    assert load(TrainConfig, ["--config", str(whole / "args.yaml")]).optimizer.ema_decay == 0.9
    assert json.loads((whole / "model" / "config.json").read_text())["hidden_size"] == 16
    assert not (whole / "bad_samples.csv").exists()


def test_weights_say_where_they_come_from(whole, data):
    for path, step in ((whole / "model", "4"), (whole / "ckpt" / "step-00000002" / "ema", "2")):
        metadata = read_tensors(path).metadata
        assert metadata["made_by"].startswith("mindone ") and metadata["seed"] == "5" and metadata["step"] == step
        recipe = json.loads(metadata["recipe"])
        assert recipe["ema_decay"] == 0.9 and recipe["data"].startswith("6 rows, ")
        assert str(data) not in metadata["recipe"]
        assert "equals the original in outputs and gradients, reference runs v12_stdit3*" in metadata["parity"]


def test_samples_are_made_every_few_updates_and_after_the_last_one(whole):
    folders = sorted((whole / "samples").iterdir())
    assert [folder.name for folder in folders] == ["step-00000003", "step-00000004"]
    for folder in folders:
        assert (folder / "contact_sheet.png").is_file()
        assert len(list(folder.glob("*.mp4"))) == 4


def test_a_resumed_run_ends_with_the_very_numbers_of_an_uninterrupted_one(data, whole, tmp_path):
    half = half_of(whole, tmp_path / "half")
    run(data, half, *LENGTH, "--resume", "True")
    assert_same_result(half, whole)


def test_a_validation_tells_the_loss_on_other_videos_and_changes_nothing_else(data, whole, tmp_path, capsys):
    others = ["--val_csv_path", str(data / "video_caption.csv"), "--val_text_embed_folder", str(data / "text")]
    others += ["--val_vae_latent_folder", str(data / "latents"), "--num_eval_timesteps", "2", "--val_batch_size", "4"]
    run(data, tmp_path, *LENGTH, "--sample_every", "3", "--validate", "True", "--val_interval", "3 steps", *others)
    assert_same_result(tmp_path, whole)
    header, *rows = [line.split("\t") for line in (tmp_path / "validation.log").read_text().splitlines()]
    assert header[:4] == ["step", "size", "samples", "loss"]
    assert [row[:3] for row in rows] == [["3", "5x8x8", "6"], ["4", "5x8x8", "6"]]
    assert all(0 < float(number) < 10 for row in rows for number in row[3:])
    message = refused(capsys, data, tmp_path / "other", "--validate", "True")
    assert "validate needs a table; give it as --val_csv_path" in message


@pytest.mark.parametrize("step", [1, 4])
def test_a_past_update_is_computed_again_to_the_last_bit(plain, capsys, step):
    before = sorted(path.name for path in plain.rglob("*"))
    update = enter("replay", ["--run", str(plain), "--step", str(step), *PLAIN])
    assert update.is_same and len(update.samples) == 2
    assert [str(step), update.loss] == result_rows(plain)[step][:2]
    told = capsys.readouterr().out
    assert "the same as in result.log, bit by bit" in told and f"sample {update.samples[0][0]}  clip" in told
    assert sorted(path.name for path in plain.rglob("*")) == before


def test_an_update_that_never_was_cannot_be_replayed(whole, tmp_path, capsys):
    for given, message in (
        (["--run", str(whole), "--step", "5"], "is at step 4, so there is no step 5 yet"),
        (["--run", str(tmp_path), "--step", "1"], "has no args.yaml; give the folder of a training run"),
        (["--step", "1"], "run is not set"),
        (["--run", str(whole)], "step=0 has to be at least 1"),
    ):
        with pytest.raises(SystemExit) as ended:
            enter("replay", given)
        assert ended.value.code == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_runs_are_drawn(whole, tmp_path, capsys):
    path = enter("plot", ["--runs", str(whole), "--output", str(tmp_path / "curves.png")])
    assert path.read_bytes()[:4] == b"\x89PNG" and "the curves are in" in capsys.readouterr().out


def test_a_run_from_elsewhere_goes_on_in_a_folder_of_its_own(data, plain, half, tmp_path):
    run(data, tmp_path / "new", *LENGTH, *PLAIN, "--resume", str(half))
    assert_same_result(tmp_path / "new", plain)
    assert not (half / "model").exists()


def test_a_used_folder_is_refused_unless_told_to_begin_anew(data, half, capsys):
    assert "has a training run already; go on with it by --resume True" in refused(capsys, data, half, *LENGTH)
    run(data, half, "--train_steps", "1", *PLAIN, "--overwrite", "True")
    assert len(result_rows(half)) == 2


LATE = ("--scheduler", "cosine_decay", "--warmup_steps", "5")


def test_a_start_that_is_refused_leaves_no_folder_and_the_next_one_begins(data, tmp_path, capsys):
    folder = tmp_path / "run"
    assert "warm" in refused(capsys, data, folder, "--train_steps", "2", *LATE)
    assert not folder.exists()
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    refused(capsys, data, folder, "--train_steps", "2", *LATE)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    run(data, folder, "--train_steps", "1", *PLAIN)
    assert len(result_rows(folder)) == 2


def test_a_resume_of_nothing_is_refused_and_auto_begins_a_run(data, tmp_path, capsys):
    assert "no run in" in refused(capsys, data, tmp_path, "--train_steps", "1", "--resume", "True")
    run(data, tmp_path, "--train_steps", "1", *PLAIN, "--resume", "auto")
    assert len(result_rows(tmp_path)) == 2


def test_changed_settings_are_refused_with_the_difference_unless_allowed(data, half, capsys):
    changed = [*LENGTH, *PLAIN, "--resume", "True", "--start_learning_rate", "0.02", "--ema_decay", "0.5"]
    error = refused(capsys, data, half, *changed)
    assert "start_learning_rate was 0.01 and is 0.02; ema_decay was 0.9 and is 0.5" in error
    run(data, half, *changed, "--allow_changes", "True")
    assert [row[2] for row in result_rows(half)[1:]] == ["0.01", "0.01", "0.02", "0.02"]


def test_another_table_is_refused(data, half, tmp_path, capsys):
    rows = (data / "video_caption.csv").read_text().replace("caption 1", "another caption")
    (tmp_path / "other.csv").write_text(rows)
    table = ["--csv_path", str(tmp_path / "other.csv")]
    assert "data was 6 rows, " in refused(capsys, data, half, *LENGTH, *table, "--resume", "True")


def test_filter_data_leaves_out_what_has_no_caption(data, tmp_path):
    captions = (data / "video_caption.csv").read_text().replace("caption 1", "").replace("caption 4", "NaN")
    (tmp_path / "video_caption.csv").write_text(captions)
    settings = Data(str(tmp_path / "video_caption.csv"), str(data), vae_latent_folder=str(data / "latents"))
    assert len(training.read_rows(settings)) == SAMPLES
    assert [row.caption[-1] for row in training.read_rows(replace(settings, filter_data=True))] == ["0", "2", "3", "5"]


def test_two_videos_with_one_cache_file_are_refused(data, tmp_path):
    (tmp_path / "video_caption.csv").write_text("video,caption\nclip0.mp4,a\nclip0.mov,b\n")
    with pytest.raises(UserError, match="lines 2 and 3: clip0.mp4 and clip0.mov would share the cache file clip0.npz"):
        training.read_rows(Data(str(tmp_path / "video_caption.csv"), str(data), text_embed_folder=str(data / "text")))


def test_memory_that_runs_out_is_one_line_that_says_what_to_change(data, tmp_path, capsys, monkeypatch):
    def fail(*_):
        raise RuntimeError("Memory not enough: Device(id:0) memory isn't enough and alloc failed")

    monkeypatch.setattr("opensora.training.run.fit", fail)
    error = refused(capsys, data, tmp_path, *LENGTH)
    assert error.startswith("error: there is not enough memory for training; use a smaller batch_size")


def test_more_updates_at_a_constant_rate_change_nothing(data, half):
    run(data, half, "--train_steps", "3", *PLAIN, "--resume", "True")
    assert len(result_rows(half)) == 4


def test_a_complete_run_says_that_it_is_complete(data, whole, capsys):
    error = refused(capsys, data, whole, *LENGTH, "--resume", "True")
    assert "is complete: all its 4 updates are done" in error
    error = refused(capsys, data, whole, "--train_steps", "3", "--resume", "True")
    assert "is at step 4 already, past the 3 of this command" in error


def test_a_run_that_was_killed_before_its_result_was_written_is_completed(data, plain, tmp_path):
    shutil.copytree(plain, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    run(data, tmp_path / "run", *LENGTH, *PLAIN, "--resume", "True")
    assert_same_result(tmp_path / "run", plain)


def test_a_training_without_a_finite_update_has_no_result(data, tmp_path, capsys):
    endless = ["--start_learning_rate", "1e30", "--clip_grad", "False", "--mode", "1"]
    error = refused(capsys, data, tmp_path, "--train_steps", "4", *endless)
    assert "loss or gradients were not finite in the last 3 of 4 updates, so there is no result" in error
    assert not (tmp_path / "model").exists()
    again = ["--overwrite", "True", "--train_steps", "9", "--max_skipped_updates", "2", *endless]
    assert "were not finite in 2 updates in a row" in refused(capsys, data, tmp_path, *again)
    header, first, *_ = (tmp_path / "skipped_updates.csv").read_text().splitlines()
    assert header.startswith("step,loss,grad_norm,seed")
    assert "clip" in first


def test_bad_samples_are_listed_also_when_they_end_the_run(data, tmp_path, capsys):
    shutil.copytree(data / "latents", tmp_path / "latents")
    for i in (1, 2, 3):
        (tmp_path / "latents" / f"clip{i}.npz").write_bytes(b"damaged")
    latents = ["--vae_latent_folder", str(tmp_path / "latents"), "--train_steps", "9", "--mode", "1"]
    assert "3 of 6 samples cannot be used" in refused(capsys, data, tmp_path / "run", *latents)
    assert len((tmp_path / "run" / "bad_samples.csv").read_text().splitlines()) == 4


def test_data_for_less_than_one_update_are_refused(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        enter("train", arguments(data, "--batch_size", "7", "--output_path", str(tmp_path)))
    assert ended.value.code == 2
    assert "the dataset has 6 samples, but one batch needs 7" in capsys.readouterr().err


def test_fresh_weights_depend_on_the_seed(data):
    prepared = setting(data)
    first, again, other = (training.make_denoiser(prepared, seed) for seed in (1, 1, 2))
    name = "x_embedder.proj.weight"
    first, again, other = (dict(each.parameters_and_names())[name].asnumpy() for each in (first, again, other))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_training_starts_from_an_image_model_with_its_weights_and_fresh_temporal_blocks(data, tmp_path, caplog):
    caplog.set_level("INFO")
    fresh = {name: p.asnumpy() for name, p in training.make_denoiser(setting(data), 1).parameters_and_names()}
    video_only = ("temporal_blocks.", "fps_embedder.", "rope.")
    pixart = {
        name.replace("spatial_blocks.", "blocks."): array + 1
        for name, array in fresh.items()
        if not name.startswith(video_only) and "q_norm" not in name and "k_norm" not in name
    }
    pixart["x_embedder.proj.weight"] = pixart["x_embedder.proj.weight"][:, :, 0]
    save_safetensors(tmp_path / "pixart.safetensors", pixart)
    prepared = setting(data, "--pretrained_model_path", str(tmp_path / "pixart.safetensors"))
    for name, parameter in training.make_denoiser(prepared, 1).parameters_and_names():
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
    enter("train", arguments(data, *made))
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
    enter("train", ["--config", str(recipe), *flags, *once, "--output_path", str(tmp_path)])
    (row,) = result_rows(tmp_path)[1:]
    assert np.isfinite(float(row[1]))
    assert (tmp_path / "model" / "model.safetensors").is_file()


# --- adapters ---

LORA = ["--lora_rank", "2", "--lora_alpha", "3", "--lora_dropout", "0.2", *LENGTH]


@pytest.fixture(scope="module")
def adapter(data, whole, tmp_path_factory):
    """A run of four updates that adapted the denoiser of the other run."""
    folder = tmp_path_factory.mktemp("adapter")
    run(data, folder, *LORA, "--pretrained_model_path", str(whole / "model"))
    return folder


def test_an_adapters_checkpoints_hold_nothing_else_and_its_resumed_run_has_the_same_numbers(data, whole, adapter):
    half = shutil.copytree(adapter, adapter.parent / "half_adapter")
    shutil.rmtree(half / "ckpt" / "step-00000004")
    shutil.rmtree(half / "model")
    run(data, half, *LORA, "--pretrained_model_path", str(whole / "model"), "--resume", "True")
    assert_same_result(half, adapter)
    for name in ("model", "ckpt/step-00000004/model", "ckpt/step-00000004/ema"):
        assert {file.name for file in (adapter / name).iterdir()} == {
            "adapter_config.json",
            "adapter_model.safetensors",
        }
        tensors = read_tensors(adapter / name)
        assert tensors and all(".lora_" in key and key.startswith("base_model.model.") for key in tensors)
        assert any(np.asarray(tensors[key]).any() for key in tensors if ".lora_B." in key)
    moments = read_tensors(adapter / "ckpt/step-00000004/optimizer.safetensors", "all")
    assert all(".lora_" in key or key == "step" for key in moments)


def test_an_adapter_goes_on_with_the_weights_it_was_trained_on(data, whole, adapter, tmp_path, capsys):
    other = tmp_path / "other"
    save_model(other, load_denoiser(whole / "ckpt/step-00000002", denoiser_config("STDiT3-XL/2", whole)), {})
    shutil.copyfile(whole / "model" / "config.json", other / "config.json")
    more = [*LORA, "--train_steps", "6", "--resume", str(adapter), "--pretrained_model_path", str(other)]
    assert "adapting weights" in refused(capsys, data, tmp_path / "new", *more)
    error = refused(capsys, data, tmp_path / "none", *LORA)
    assert "lora_rank adapts weights that are there; give them as --pretrained_model_path" in error


def test_an_adapted_denoiser_is_the_same_folded_and_merged_and_untouched_at_strength_zero(whole, adapter, tmp_path):
    config = denoiser_config("STDiT3-XL/2", whole)

    def weights(path, *loras):
        return network_tensors(load_denoiser(path, config, loras=loras))

    base, zero, one = weights(whole), weights(whole, (adapter, 0.0)), weights(whole, (adapter, 1.0))
    target = tmp_path / "merged"
    enter("merge-lora", ["--ckpt_path", str(whole), "--lora", str(adapter), "--target", str(target)])
    merged = weights(target)
    assert all(np.array_equal(base[name], zero[name]) for name in base)
    assert all(np.array_equal(merged[name], one[name]) for name in base)
    changed = {name for name in base if not np.array_equal(base[name], one[name])}
    assert changed == {f"{path}.weight" for path in read_lora(adapter, shapes(load_denoiser(whole, config))).modules}


def test_an_adapter_becomes_that_of_another_tool_and_comes_back(whole, adapter, tmp_path):
    known = shapes(load_denoiser(whole, denoiser_config("STDiT3-XL/2", whole)))
    target = tmp_path / "adapter.safetensors"
    model = ["--ckpt_path", str(whole), "--target", str(target)]
    enter("convert-lora", ["--src", str(adapter), "--format", "kohya", *model])
    before, after = read_lora(adapter, known).modules, read_lora(target, known).modules
    assert before.keys() == after.keys()
    for path, module in before.items():
        np.testing.assert_allclose(module.delta(), after[path].delta(), rtol=1e-6)
