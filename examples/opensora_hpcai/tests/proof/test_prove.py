"""The command that compares many processes with one finds differences where there are any."""

from pathlib import Path

import numpy as np
import pytest

from mindone.checkpoint import save_safetensors
from mindone.config import parse, save_config
from mindone.errors import UserError
from opensora.config.prove import ProveConfig, Spread
from opensora.config.train import TrainConfig
from opensora.families import settle
from opensora.proof import prove as proving
from opensora.proof.recipe import BATCH, World, small_network, small_training

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(
    path for path in CONFIGS.glob("opensora*/train/*.yaml") if not path.stem.startswith(("image", "high_compression"))
)


def configured(*argv):
    return parse(ProveConfig, list(argv))


@pytest.mark.parametrize(
    ("plan", "spread"),
    [
        ("dp=2", Spread(dp=2)),
        ("dp=2,sp=2,zero=2", Spread(dp=2, sp=2, zero=2)),
        ("dsp=3, accumulate=2", Spread(dsp=3, accumulate=2)),
        ("dp=2,ring=3", Spread(dp=2, ring=3)),
    ],
)
def test_a_plan_is_read_in_words(plan, spread):
    proof = configured("--plan", plan).proof
    assert proof.spread == spread
    assert spread.ranks == spread.dp * max(spread.sp, spread.dsp, spread.ring)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("dp=1", "is one process"),
        ("zero=1", "is one process"),
        ("tp=2", "tp=2 is not one of dp=N, sp=N"),
        ("dp=two", "dp=two is not one of"),
        ("dp=2,dp=3", "dp=3 is not one of"),
        ("dp=2,zero=4", "zero is 0 to 3"),
        ("sp=2,dsp=2", "share a video in different ways"),
        ("dsp=2,ring=3", "share a video in different ways"),
    ],
)
def test_a_plan_that_means_nothing_is_refused(plan, message):
    with pytest.raises(UserError, match=message):
        configured("--plan", plan)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: f"{path.parts[-3]}-{path.stem}")
def test_every_recipe_can_be_made_small(recipe, tmp_path):
    config = configured("--config", str(recipe), "--plan", "dp=2,accumulate=2")
    family, _ = settle(config, config.model.model_version, config.model.model_name, config.autoencoder.vae_type)
    for name in ("videos.csv",):
        (tmp_path / name).touch()
    world = World(tmp_path, (17, 48, 32), 16)
    one, many = (
        small_training(config, family, world, spread, tmp_path / "run") for spread in (Spread(), config.proof.spread)
    )
    assert one.train.batch_size == 4 * BATCH and many.train.batch_size == BATCH
    assert many.optimizer.gradient_accumulation_steps == 2 and many.runtime.use_parallel
    assert one.flow == config.flow and one.optimizer.optim == config.optimizer.optim
    assert small_network(config, family)["hidden_size"] == 48
    save_config(many, tmp_path / "many.yaml")
    settle(parse(TrainConfig, ["--config", str(tmp_path / "many.yaml")]), family.name)


def write_run(folder, name, loss=1.0, weight=1.0, latent=0.0):
    (folder / name / "model").mkdir(parents=True)
    (folder / name / "result.log").write_text(f"step\tloss\tgrad_norm\n1\t2.0\t1.0\n2\t{loss}\t1.0\n")
    save_safetensors(folder / name / "model" / "model.safetensors", {"w": np.full((2, 2), weight, np.float32)})
    latents = folder / f"videos-{name}" / "denoised_latents"
    latents.mkdir(parents=True)
    np.save(latents / "000.npy", np.full((1, 1, 1, 1, 1), latent, np.float32))


@pytest.mark.parametrize(
    ("changed", "found"),
    [({}, []), ({"loss": 1.001}, ["loss"]), ({"weight": 1.001}, ["weights"]), ({"latent": 0.01}, ["latents"])],
)
def test_a_difference_is_found_where_it_is(tmp_path, monkeypatch, changed, found):
    write_run(tmp_path, "one")
    write_run(tmp_path, "many", **changed)
    for name in ("one", "many"):
        pictures = tmp_path / f"videos-{name}" / "000"
        pictures.mkdir()
        from PIL import Image

        Image.new("RGB", (2, 2)).save(pictures / "0000.png")
    assert [each.name for each in proving._compare(tmp_path) if not each.holds] == found


def test_runs_that_wrote_other_files_are_not_equal(tmp_path):
    write_run(tmp_path, "one")
    write_run(tmp_path, "many")
    np.save(tmp_path / "videos-many" / "denoised_latents" / "001.npy", np.zeros(1, np.float32))
    assert [each.name for each in proving._compare(tmp_path) if not each.holds] == ["latents", "pixels"]


def test_a_folder_that_is_in_use_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    config = configured("--plan", "dp=2", "--proof_path", str(tmp_path))
    with pytest.raises(UserError, match="is not empty"):
        proving.prove(config)


@pytest.mark.msrun
def test_a_training_and_videos_that_ranks_share_are_those_of_one_process(capsys):
    recipe = CONFIGS / "opensora-v1-2" / "train" / "train_stage2.yaml"
    config = configured("--config", str(recipe), "--plan", "dsp=2,zero=3", "--proof_steps", "2", "--proof_layers", "1")
    proved = proving.prove(config)
    assert proved.holds and [len(peaks) for peaks in proved.memory.values()] == [1, 2]
    assert "dsp=2,zero=3: 2 processes against one" in capsys.readouterr().out
