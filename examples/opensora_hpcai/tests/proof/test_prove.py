"""The command that compares many processes with one finds differences where there are any."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mindone.checkpoint import save_safetensors
from mindone.config import parse, save_config
from mindone.errors import UserError
from opensora.config.prove import ProveConfig, Spread
from opensora.config.train import TrainConfig
from opensora.families import settle
from opensora.proof import prove as proving
from opensora.proof.compare import compare_runs, compare_videos
from opensora.proof.recipe import BATCH, World, samples_of_update, small_network, small_training

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
    assert proof.spreads == [spread] and str(spread) == plan.replace(" ", "")
    assert spread.ranks == spread.dp * max(spread.sp, spread.dsp, spread.ring)


def test_several_plans_are_read_from_a_command_line_and_from_a_recipe(tmp_path):
    plans = ["dp=4", "dsp=2", "dp=3,accumulate=2"]
    (tmp_path / "recipe.yaml").write_text(f"proof:\n  plan: {plans}\n")
    for argv in (["--plan", *plans], ["--config", str(tmp_path / "recipe.yaml")]):
        proof = configured(*argv).proof
        assert proof.spreads == [Spread(dp=4), Spread(dsp=2), Spread(dp=3, accumulate=2)]
        assert samples_of_update(proof) == 12 * BATCH


@pytest.mark.parametrize(
    ("plans", "message"), [(["dp=2", " dp=2, sp=1"], "dp=2 more than once"), (["dp=2", "sp=1"], "sp=1 is one process")]
)
def test_several_plans_of_which_one_means_nothing_are_refused(plans, message):
    with pytest.raises(UserError, match=message):
        configured("--plan", *plans)


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
        small_training(config, family, world, spread, tmp_path / "run") for spread in (Spread(), *config.proof.spreads)
    )
    assert one.train.batch_size == 4 * BATCH and many.train.batch_size == BATCH
    assert many.optimizer.gradient_accumulation_steps == 2 and many.runtime.use_parallel
    assert one.flow == config.flow and one.optimizer.optim == config.optimizer.optim
    assert small_network(config, family)["hidden_size"] == 48
    save_config(many, tmp_path / "many.yaml")
    settle(parse(TrainConfig, ["--config", str(tmp_path / "many.yaml")]), family.name)


def write_training(folder, name, loss=1.0, weight=1.0):
    (folder / name / "model").mkdir(parents=True)
    (folder / name / "result.log").write_text(f"step\tloss\tgrad_norm\n1\t2.0\t1.0\n2\t{loss}\t1.0\n")
    save_safetensors(folder / name / "model" / "model.safetensors", {"w": np.full((2, 2), weight, np.float32)})


def write_latents(folder, name, latent=0.0):
    latents = folder / f"videos-{name}" / "denoised_latents"
    latents.mkdir(parents=True)
    np.save(latents / "000.npy", np.full((1, 1, 1, 1, 1), latent, np.float32))


def write_run(folder, name, loss=1.0, weight=1.0, latent=0.0):
    write_training(folder, name, loss, weight)
    write_latents(folder, name, latent)


def write_picture(folder, name, level=0):
    from PIL import Image

    (folder / f"videos-{name}" / "000").mkdir()
    shades = np.arange(250, dtype=np.uint8).reshape(10, 25) + np.uint8(level)
    Image.fromarray(np.stack([shades] * 3, -1)).save(folder / f"videos-{name}" / "000" / "0000.png")


def differing(folder):
    """What is not equal in the runs ``one`` and ``many``."""
    compared = [
        *compare_runs(folder / "one", folder / "many"),
        *compare_videos(folder / "videos-one", folder / "videos-many"),
    ]
    return [each.name for each in compared if not each.holds]


@pytest.mark.parametrize(
    ("changed", "found"),
    [({}, []), ({"loss": 1.001}, ["loss"]), ({"weight": 1.001}, ["weights"]), ({"latent": 0.01}, ["latents"])],
)
def test_a_difference_is_found_where_it_is(tmp_path, changed, found):
    write_run(tmp_path, "one")
    write_run(tmp_path, "many", **changed)
    for name in ("one", "many"):
        write_picture(tmp_path, name)
    assert differing(tmp_path) == found


@pytest.mark.parametrize(("level", "found"), [(1, ["pixels"]), (2, ["pixels", "levels"])])
def test_videos_whose_every_pixel_is_off_by_a_level_are_not_equal(tmp_path, level, found):
    write_run(tmp_path, "one")
    write_run(tmp_path, "many")
    write_picture(tmp_path, "one")
    write_picture(tmp_path, "many", level)
    assert differing(tmp_path) == found


def test_runs_that_wrote_other_files_are_not_equal(tmp_path):
    write_run(tmp_path, "one")
    write_run(tmp_path, "many")
    np.save(tmp_path / "videos-many" / "denoised_latents" / "001.npy", np.zeros(1, np.float32))
    assert differing(tmp_path) == ["latents", "pixels", "levels"]


@pytest.fixture
def written(monkeypatch):
    """Runs that are written instead of computed: their commands, and which fail or have another loss."""
    runs = SimpleNamespace(commands=[], failing=None, apart=None)

    def run(folder, spread, commands):
        name = str(spread) or "one"
        for command in commands:
            runs.commands.append((command.door, name))
            if (command.door, name) == runs.failing:
                raise UserError("a rank was lost")
            if command.door == "train":
                write_training(folder, name, 1.001 if name == runs.apart else 1.0)
            else:
                write_latents(folder, name)
                write_picture(folder, name)
            Path(f"{command.report}.0").write_text("1e9")

    monkeypatch.setattr(proving, "_run", run)
    monkeypatch.setattr(proving, "make_world", lambda config, family, folder: World(folder, (17, 48, 32), 16))
    return runs


RECIPE = ("--config", str(CONFIGS / "opensora-v1-2" / "train" / "train_stage2.yaml"))


def test_one_process_runs_once_for_all_plans_and_plans_that_sample_alike_sample_once(written, capsys):
    proved = proving.prove(configured(*RECIPE, "--plan", "dp=2", "dp=2,zero=2", "dsp=2", "accumulate=2"))
    assert [str(each.spread) for each in proved] == ["dp=2", "dp=2,zero=2", "dsp=2", "accumulate=2"]
    trained, generated = ([name for done, name in written.commands if done == kind] for kind in ("train", "generate"))
    assert trained == ["one", "dp=2", "dp=2,zero=2", "dsp=2", "accumulate=2"]
    assert generated == ["one", "dp=2", "dsp=2"]
    rows = [line for line in capsys.readouterr().out.splitlines() if line.endswith("| equal |")]
    assert [row.split(" | ")[:2] for row in rows] == [
        ["| dp=2", "2"],
        ["| dp=2,zero=2", "2"],
        ["| dsp=2", "2"],
        ["| accumulate=2", "1"],
    ]


@pytest.mark.parametrize("failing", ["train", "generate"])
def test_plans_that_fail_or_differ_are_named_after_all_have_run(written, capsys, failing):
    written.failing, written.apart = (failing, "dp=2"), "sp=2"
    with pytest.raises(UserError, match=r"one process: dp=2 \(a run failed\); sp=2 \(loss\)$"):
        proving.prove(configured(*RECIPE, "--plan", "dp=2", "sp=2", "dsp=2"))
    output = capsys.readouterr().out
    assert "a rank was lost" in output
    verdicts = [line.split(" | ")[-1] for line in output.splitlines() if line.startswith("| ")]
    assert verdicts[1:] == ["NOT EQUAL |", "NOT EQUAL |", "equal |"]


def test_a_folder_that_is_in_use_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    config = configured("--plan", "dp=2", "--proof_path", str(tmp_path))
    with pytest.raises(UserError, match="is not empty"):
        proving.prove(config)


def test_who_compares_in_half_precision_is_told_to_compare_in_single_precision(written):
    written.apart = "dp=2"
    with pytest.raises(UserError, match=r"dp=2 \(loss\); fp16 rounds .* compare with --dtype fp32$"):
        proving.prove(configured(*RECIPE, "--dtype", "fp16", "--plan", "dp=2"))


@pytest.mark.msrun
def test_a_training_and_videos_that_ranks_share_are_those_of_one_process(capsys):
    argv = [*RECIPE, "--plan", "dsp=2,zero=3", "dp=2,accumulate=2", "--proof_steps", "2", "--proof_layers", "1"]
    proved = proving.prove(configured(*argv))
    assert [each.wrong for each in proved] == [[], []] and [len(each.memory) for each in proved] == [2, 2]
    output = capsys.readouterr().out
    assert "dsp=2,zero=3: 2 processes against one" in output and "| dp=2,accumulate=2 | 2 |" in output
