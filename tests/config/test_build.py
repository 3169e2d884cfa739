"""Settings from defaults, recipes and the command line, and back to a recipe."""

import subprocess
import sys

import pytest

from mindone.config import SettingError, leaves, load, parse, resolve, save_config, to_yaml
from mindone.errors import UserError


def test_command_line_beats_later_recipe_beats_earlier_recipe_beats_default(recipe, read):
    first = recipe("batch_size: 1\nrate: 1\nnum_frames: 1", "first.yaml")
    second = recipe("batch_size: 2\nrate: 2", "second.yaml")
    config = read("--batch_size", "3", "--config", first, "-c", second)
    assert (config.loop.batch_size, config.loop.rate, config.loop.num_frames, config.machine.mode) == (3, 2.0, 1, 0)
    assert read("--config", first, second, "--batch_size", "3") == config


def test_dict_is_given_whole_or_by_entry(recipe, read):
    assert read("--mask_ratios", "{head: 0.25, tail: 1e-1}").loop.mask_ratios == {"head": 0.25, "tail": 0.1}
    path = recipe("buckets:\n  256: {1: [0.5, 8], 51: [1.0, 2]}\nmask_ratios: {head: 0.5}")
    config = read("-c", path, "--buckets.256.51", "[[1.0, 0.3], 4]", "--mask_ratios.tail", "0.25")
    assert config.loop.buckets == {"256": {1: [0.5, 8], 51: [[1.0, 0.3], 4]}}
    assert config.loop.mask_ratios == {"head": 0.5, "tail": 0.25}


def test_entries_of_a_dict_do_not_change_the_default(read):
    read("--network.depth", "2")
    assert read().loop.network == {}


def test_saved_settings_give_the_same_settings(tmp_path, recipe, read):
    argv = ["--captions", "9:16", "it's: #1", "ünï", "1e-4", "--betas", "0.5", "0.7", "--rate", "1e-15"]
    text = "buckets: {256: {51: [[1, 0.3], 4]}}\nratio: 9:16\nnum_frames: 2x\nnetwork: {a: '1e-4', b: '010', c: 'no'}"
    config = read(*argv, "--resume", "./runs", "-c", recipe(text))
    saved = tmp_path / "run" / "config.yaml"
    save_config(config, saved)
    assert read("--config", saved) == config
    assert config.loop.network == {"a": "1e-4", "b": "010", "c": "no"}
    assert [path.name for path in saved.parent.iterdir()] == ["config.yaml"]


def test_print_config_prints_a_recipe_and_leaves(capsys, recipe, command, read):
    with pytest.raises(SystemExit) as leaving:
        parse(command, ["--rate", "1e-15", "--print_config"])
    assert leaving.value.code == 0
    printed = capsys.readouterr().out
    assert read("-c", recipe(printed)) == read("--rate", "1e-15")


def test_settings_are_plain_values_in_yaml(command):
    assert "betas:\n  - 0.9\n  - 0.999\n" in to_yaml(command())


@pytest.mark.parametrize("name", ["batch_size", "loop.batch_size"])
def test_defaults_of_a_caller_replace_those_of_the_schema(command, name):
    assert parse(command, [], defaults={name: 3}).loop.batch_size == 3
    assert parse(command, ["--batch_size", "5"], defaults={name: 3}).loop.batch_size == 5


def test_defaults_with_an_unknown_name_are_a_mistake_in_the_code(command):
    with pytest.raises(TypeError, match="no setting 'batchsize'"):
        load(command, [], defaults={"batchsize": 3})


def test_what_is_none_takes_another_value_and_what_is_given_stays(read):
    config = read("--ratio", "9:16", "--weights", "None")
    resolved = resolve(
        config, {"loop.ratio": "1:1", "weights": "a/b", "captions": ("x",), "loop.mask_ratios": {"a": 1}}
    )
    assert (resolved.loop.ratio, resolved.loop.weights) == ("9:16", "a/b")
    assert resolved.loop.captions == ["x"]
    assert resolved.loop.mask_ratios == {"a": 1.0}
    assert (config.loop.weights, config.loop.captions) == (None, None)
    assert type(resolved) is type(config)


def test_resolved_settings_share_nothing_that_can_change(read):
    config = read("--network", "{depth: 2}")
    resolved = resolve(config, {})
    assert resolved == config
    resolved.loop.network["depth"] = 3
    assert config.loop.network == {"depth": 2}


def test_resolved_values_are_checked_by_their_types(read):
    with pytest.raises(SettingError, match="mask_ratios.head='much' has to be float"):
        resolve(read(), {"mask_ratios": {"head": "much"}})
    with pytest.raises(TypeError, match="no setting 'loop.rates'"):
        resolve(read(), {"loop.rates": 1})


def test_checks_of_groups_and_of_the_whole_are_made(command):
    with pytest.raises(UserError, match="batch_size=0 has to be at least 1"):
        parse(command, ["--batch_size", "0"])
    with pytest.raises(UserError, match="use_parallel=True needs mode=0"):
        parse(command, ["--use_parallel", "True", "--mode", "1"])


def test_help_shows_groups_docstrings_and_defaults(capsys, command):
    with pytest.raises(SystemExit) as leaving:
        parse(command, ["--help"], prog="example", defaults={"mode": 1})
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    for part in ("usage: example", "An example.", "How long it runs.", "samples per batch (default: 10)", "100% graph"):
        assert part in text
    assert "0 is 100% graph (default: 1)" in text
    assert "--weights path" in text
    for name in leaves(command):
        assert f"--{name} " in text


def test_package_is_imported_without_mindspore_and_numpy():
    code = "import sys, mindone.config; sys.exit('mindspore' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
