"""What names mean: dotted paths, flat names, aliases, and published names without a meaning."""

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from mindone.config import Settings, leaves, load, parse, to_yaml
from mindone.errors import UserError


@dataclass
class Model:
    """A network."""

    from_pretrained: str | None = None
    dtype: str = "fp32"
    depth: int | None = None


@dataclass
class Sampling:
    """How it is sampled."""

    num_steps: int = 50
    model: dict[str, Any] = field(default_factory=dict)
    loop: int = 1


@dataclass
class Repeated:
    """Further settings under a group's name."""

    steps: int = 1
    inner: Model = field(default_factory=Model)


@dataclass
class Generate(Settings):
    """Groups that share their field names."""

    model: Model = field(default_factory=Model)
    ae: Model = field(default_factory=Model)
    sampling: Sampling = field(default_factory=Sampling)
    loop: Repeated = field(default_factory=Repeated)

    aliases: ClassVar[dict[str, str]] = {
        "vae_dtype": "ae.dtype",
        "dtype": "model.dtype",
        "steps_of": "num_steps",
        "option.num_steps": "sampling.num_steps",
    }
    accepted_but_unused: ClassVar[dict[str, str]] = {"env.cache": "nothing is cached", "patchify": "there is one form"}


def generate(*argv):
    return load(Generate, argv)


@pytest.mark.parametrize(
    "argv",
    [
        ["--batch_size", "4"],
        ["--batch-size", "4"],
        ["--batch_size=4"],
        ["--loop.batch_size", "4"],
        ["--loop.batch-size=4"],
        ["batch_size=4"],
        ["loop.batch_size=4"],
        ["loop.batch-size=4"],
    ],
)
def test_every_spelling_of_a_flag_sets_it(argv, read):
    assert read(*argv).loop.batch_size == 4


@pytest.mark.parametrize(
    "text", ["batch_size: 4", "loop.batch_size: 4", "loop: {batch_size: 4}", "loop:\n  batch-size: 4"]
)
def test_recipe_keys_may_be_flat_dotted_or_nested(recipe, read, text):
    assert read("-c", recipe(text)).loop.batch_size == 4


def test_groups_may_share_field_names(recipe):
    path = recipe("model: {from_pretrained: a, depth: 2}\nae: {from_pretrained: b}\nae.depth: 3")
    config = generate("-c", path, "--loop.inner.depth", "4", "loop.inner.from_pretrained=c")
    assert [config.model.from_pretrained, config.ae.from_pretrained, config.loop.inner.from_pretrained] == list("abc")
    assert [config.model.depth, config.ae.depth, config.loop.inner.depth] == [2, 3, 4]


def test_settings_with_shared_names_survive_a_recipe(recipe):
    config = generate("--model.depth", "1", "--ae.depth", "2", "--loop.inner.depth", "3", "--sampling.loop", "4")
    assert generate("-c", recipe(to_yaml(config))) == config


def test_flat_name_of_several_settings_is_refused_with_their_paths(recipe):
    with pytest.raises(UserError) as refusal:
        generate("--depth", "2")
    assert str(refusal.value) == (
        "'depth' (on the command line) is the name of several settings: model.depth, ae.depth, loop.inner.depth; "
        "say which, as in --model.depth VALUE"
    )
    path = recipe("depth: 2")
    with pytest.raises(UserError, match="line 1. is the name of several settings: .*; say which, as in model.depth:"):
        generate("-c", path)


def test_leaf_is_labelled_by_its_shortest_name():
    labels = leaves(Generate)
    assert list(labels)[:4] == ["model.from_pretrained", "model.dtype", "model.depth", "ae.from_pretrained"]
    assert labels["num_steps"].path == "sampling.num_steps"
    with pytest.raises(UserError, match="^model.depth='x' .on the command line. has to be int or None$"):
        generate("--model.depth", "x")


def test_alias_is_flat_or_dotted_and_so_is_its_target(recipe):
    assert generate("--vae_dtype", "bf16").ae.dtype == "bf16"
    assert generate("--ae.vae_dtype", "bf16").ae.dtype == "bf16"
    assert generate("--dtype", "bf16") == generate("--model.dtype", "bf16")
    assert generate("--steps-of", "3").sampling.num_steps == 3
    for argv in (["option.num_steps=3"], ["-c", recipe("option: {num_steps: 3}")]):
        assert generate(*argv).sampling.num_steps == 3
    with pytest.raises(UserError, match="unknown option '--model.vae_dtype'"):
        generate("--model.vae_dtype", "bf16")


def test_flat_name_that_a_group_has_too_is_the_setting_where_a_value_is_given(recipe):
    assert generate("--loop", "3").sampling.loop == 3
    assert generate("-c", recipe("loop: 3")).sampling.loop == 3
    config = generate("-c", recipe("loop: {steps: 3}\nmodel: {depth: 2}"), "--model.from_pretrained", "a")
    assert (config.loop.steps, config.sampling.loop, config.model.depth, config.sampling.model) == (3, 1, 2, {})
    assert generate("--sampling.model.depth", "3").sampling.model == {"depth": 3}


@pytest.mark.parametrize("argv", [["--env.cache", "x"], ["env.cache=x"], ["--model.patchify", "x"]])
def test_unused_name_may_be_dotted_or_carry_a_group(argv, caplog):
    with caplog.at_level(logging.WARNING):
        assert generate(*argv) == Generate()
    assert len(caplog.records) == 1
    assert "has no effect: " in caplog.records[0].getMessage()


def test_unused_name_is_said_once_and_ignored(recipe, read, caplog):
    with caplog.at_level(logging.WARNING):
        config = read("-c", recipe("patchify: conv3d\nloop: {batch_size: 10}"), "--patchify", "linear")
    assert config == read()
    assert [record.getMessage() for record in caplog.records] == ["patchify has no effect: there is one form of it"]


@pytest.mark.parametrize(
    "text, near",
    [
        ("machin: {mode: 1}", "machine"),
        ("lop:\n  rate: 1", "loop"),
        ("batchsize: 4", "batch_size"),
        ("loop: {batch_sze: 4}", "batch_size"),
        ("machine: {batch_size: 4}", "batch_size"),
        ("prompd: x", "prompt"),
        ("loop: {denoiser: {depht: 1}}", "depth"),
        ("denoiser.depht: 1", "depth"),
    ],
)
def test_unknown_key_suggests_the_nearest_setting_group_or_entry(recipe, read, text, near):
    with pytest.raises(UserError, match=rf"unknown key '.*' \(.*recipe.yaml, line \d\); did you mean {near}\?$"):
        read("-c", recipe(text))


def test_suggestion_is_dotted_where_the_flat_name_would_be_ambiguous():
    with pytest.raises(UserError, match="did you mean --ae.from_pretrained?"):
        generate("--ae.from_pretraned", "x")
    with pytest.raises(UserError, match="did you mean --sampling.NAME?"):
        generate("--samplin", "x")


@pytest.mark.parametrize(
    "aliases, unused, message",
    [
        ({"steps_of": "missing"}, {}, "no setting 'missing'"),
        ({"x": "depth"}, {}, "'depth' is the name of several settings: model.depth, ae.depth"),
        ({"num_steps": "steps"}, {}, "gives two meanings to num_steps"),
        ({}, {"num_steps": "no"}, "gives two meanings to num_steps"),
        ({}, {"ae.depth": "no"}, "gives two meanings to ae.depth"),
        ({"x": "num_steps"}, {"x": "no"}, "gives two meanings to x"),
    ],
)
def test_schema_whose_names_contradict_is_a_mistake(aliases, unused, message):
    mistaken = type("Mistaken", (Generate,), {"aliases": aliases, "accepted_but_unused": unused})
    with pytest.raises(TypeError, match=message):
        load(mistaken, [])


def test_help_names_settings_by_their_shortest_name(capsys):
    with pytest.raises(SystemExit):
        parse(Generate, ["--help"])
    text = capsys.readouterr().out
    assert "--model.depth int" in text
    assert "--num_steps int" in text


@dataclass
class Short(Settings):
    """A command with options of one letter."""

    model: str = "S"
    compressor: list[str] = field(default_factory=list)
    recompute: bool = False

    aliases: ClassVar[dict[str, str]] = {"m": "model", "c": "compressor", "g": "recompute"}
    accepted_but_unused: ClassVar[dict[str, str]] = {}


def test_an_alias_of_one_letter_is_an_option_with_one_dash(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text("model: L")
    config = load(Short, ["--config", str(tmp_path / "recipe.yaml"), "-c", "raw", "vae", "-g", "-m=XL"])
    assert (config.model, config.compressor, config.recompute) == ("XL", ["raw", "vae"], True)
    with pytest.raises(UserError, match="unknown option '-x'"):
        load(Short, ["-x", "1"])
    with pytest.raises(SystemExit):
        parse(Short, ["--help"], "short")
    listed = capsys.readouterr().out
    assert listed.startswith("usage: short [--config RECIPE.yaml ...]") and "-m str, --model str" in listed
