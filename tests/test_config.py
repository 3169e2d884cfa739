"""Settings from defaults, recipes and the command line."""

import logging
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from mindone.config import Settings, check, leaves, load, parse, require_at_least, save_config, to_yaml
from mindone.errors import UserError


@dataclass
class Machine:
    """Where it runs."""

    mode: Literal[0, 1] = 0
    """0 is 100% graph"""
    device: Literal["auto", "CPU", "Ascend"] = "auto"
    use_parallel: bool = False
    resume: bool | str = False


@dataclass
class Loop:
    """How long it runs."""

    batch_size: int = 10
    """samples per batch"""
    rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    image_size: int | list[int] | None = None
    num_frames: int | str = 16
    captions: list[str] | None = None
    weights: str | None = "hub/model"
    ratio: str | None = None
    mask_ratios: dict[str, float] | None = None
    buckets: dict[str, dict[int, Any]] | None = None
    network: dict[str, Any] = field(default_factory=dict)

    def check(self):
        require_at_least(self, batch_size=1)


@dataclass
class Command(Settings):
    """An example."""

    machine: Machine = field(default_factory=Machine)
    loop: Loop = field(default_factory=Loop)

    aliases: ClassVar[dict[str, str]] = {"prompt": "captions"}
    accepted_but_unused: ClassVar[dict[str, str]] = {"patchify": "there is one form of it"}

    def check(self):
        if self.use_parallel and self.mode == 1:
            raise UserError("use_parallel=True needs mode=0")


@pytest.fixture
def recipe(tmp_path):
    def write(text, name="recipe.yaml"):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def read(*argv):
    return load(Command, [str(token) for token in argv])


@pytest.mark.parametrize(
    "argv",
    [
        ["--batch_size", "4"],
        ["--batch-size", "4"],
        ["--batch_size=4"],
        ["--loop.batch_size", "4"],
        ["--loop.batch-size=4"],
    ],
)
def test_every_spelling_of_a_flag_sets_it(argv):
    assert read(*argv).loop.batch_size == 4


@pytest.mark.parametrize(
    "text", ["batch_size: 4", "loop.batch_size: 4", "loop: {batch_size: 4}", "loop:\n  batch_size: 4"]
)
def test_recipe_keys_may_be_flat_dotted_or_nested(recipe, text):
    assert read("-c", recipe(text)).loop.batch_size == 4


def test_settings_can_be_read_without_their_group():
    config = read("--batch_size", "4")
    assert config.batch_size == 4
    with pytest.raises(AttributeError, match="no setting batchsize"):
        _ = config.batchsize


def test_command_line_beats_later_recipe_beats_earlier_recipe_beats_default(recipe):
    first = recipe("batch_size: 1\nrate: 1\nnum_frames: 1", "first.yaml")
    second = recipe("batch_size: 2\nrate: 2", "second.yaml")
    config = read("--batch_size", "3", "--config", first, "-c", second)
    assert (config.batch_size, config.rate, config.num_frames, config.mode) == (3, 2.0, 1, 0)
    assert read("--config", first, second, "--batch_size", "3") == config


@pytest.mark.parametrize("argv, value", [(["--use_parallel"], True), (["--use_parallel", "True"], True)])
def test_a_bare_or_published_boolean_turns_it_on(argv, value):
    assert read(*argv, "--mode", "1").use_parallel is value


def test_published_false_turns_it_off(recipe):
    assert read("-c", recipe("use_parallel: True"), "--use_parallel", "False").use_parallel is False


@pytest.mark.parametrize("text, value", [("True", True), ("False", False), ("runs/7", "runs/7")])
def test_resume_is_a_boolean_or_a_path(text, value):
    assert read("--resume", text).resume == value


def test_numbers_that_pyyaml_reads_as_text_are_numbers(recipe):
    config = read("-c", recipe("rate: 1e-15\nnetwork: {eps: 1e-6, depth: 4}"))
    assert config.rate == 1e-15
    assert config.network == {"eps": 1e-6, "depth": 4}


def test_ratio_that_yaml_reads_as_a_base_60_number_stays_text(recipe):
    assert read("-c", recipe("ratio: 9:16")).ratio == "9:16"


@pytest.mark.parametrize("argv, value", [(["256"], 256), (["256", "384"], [256, 384]), (["[256, 384]"], [256, 384])])
def test_image_size_is_one_number_or_two(argv, value):
    assert read("--image_size", *argv).image_size == value


@pytest.mark.parametrize("text, value", [("51", 51), ("4s", "4s")])
def test_number_of_frames_is_a_number_or_a_name(recipe, text, value):
    assert read("--num_frames", text).num_frames == value
    assert read("-c", recipe(f"num_frames: {text}")).num_frames == value


def test_list_flags_take_several_words_and_keep_them_as_text():
    assert read("--captions", "a red circle", "12").captions == ["a red circle", "12"]
    assert read("--prompt", "[a, b]").captions == ["[a, b]"]
    assert read("--betas", "0.9", "0.95").betas == (0.9, 0.95)


def test_dict_is_given_whole_or_by_entry(recipe):
    assert read("--mask_ratios", "{head: 0.25, tail: 1e-1}").mask_ratios == {"head": 0.25, "tail": 0.1}
    path = recipe("buckets:\n  256: {1: [0.5, 8], 51: [1.0, 2]}\nmask_ratios: {head: 0.5}")
    config = read("-c", path, "--buckets.256.51", "[[1.0, 0.3], 4]", "--mask_ratios.tail", "0.25")
    assert config.buckets == {"256": {1: [0.5, 8], 51: [[1.0, 0.3], 4]}}
    assert config.mask_ratios == {"head": 0.5, "tail": 0.25}


def test_entries_of_a_dict_do_not_change_the_default():
    read("--network.depth", "2")
    assert read().network == {}


def test_none_takes_a_setting_back():
    assert read("--weights", "None").weights is None


def test_dotted_paths_are_relative_to_the_recipe_and_others_stay(recipe, tmp_path, monkeypatch):
    path = recipe("weights: ./model\ncaptions: [../a.png;./b.png, x/../y]")
    monkeypatch.chdir("/")
    config = read("-c", path)
    assert config.weights == str(tmp_path / "model")
    assert config.captions == [f"{tmp_path.parent / 'a.png'};{tmp_path / 'b.png'}", "x/../y"]
    assert read("--weights", "./model").weights == "/model"
    assert read("--weights", "hpcai-tech/OpenSora-STDiT-v3").weights == "hpcai-tech/OpenSora-STDiT-v3"
    assert read("--weights", "models/vae").weights == "models/vae"


def test_tilde_is_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert read("--weights", "~/vae").weights == "/home/somebody/vae"


def test_saved_settings_give_the_same_settings(tmp_path, recipe):
    argv = ["--captions", "9:16", "it's: #1", "ünï", "--betas", "0.5", "0.7", "--rate", "1e-15", "--resume", "./runs"]
    config = read(*argv, "-c", recipe("buckets: {256: {51: [[1, 0.3], 4]}}\nratio: 9:16\nnum_frames: 2x"))
    saved = tmp_path / "run" / "config.yaml"
    save_config(config, saved)
    assert read("--config", saved) == config
    assert [path.name for path in saved.parent.iterdir()] == ["config.yaml"]


def test_print_config_prints_a_recipe_and_leaves(capsys, recipe):
    with pytest.raises(SystemExit) as leaving:
        parse(Command, ["--rate", "1e-15", "--print_config"])
    assert leaving.value.code == 0
    printed = capsys.readouterr().out
    assert read("-c", recipe(printed)) == read("--rate", "1e-15")


def test_help_shows_groups_docstrings_and_defaults(capsys):
    with pytest.raises(SystemExit) as leaving:
        parse(Command, ["--help"], prog="example")
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    for part in ("usage: example", "An example.", "How long it runs.", "samples per batch (default: 10)", "100% graph"):
        assert part in text
    for name in leaves(Command):
        assert f"--{name} " in text


def test_unused_name_is_said_once_and_ignored(recipe, caplog):
    with caplog.at_level(logging.WARNING):
        config = read("-c", recipe("patchify: conv3d"), "--patchify", "linear")
    assert config == read()
    assert [record.getMessage() for record in caplog.records] == ["patchify has no effect: there is one form of it"]


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--batchsize", "4"], "unknown option '--batchsize'; did you mean --batch_size?"),
        (["--machine.batch_size", "4"], "unknown option '--machine.batch_size'; did you mean --batch_size?"),
        (["--qqq", "4"], "unknown option '--qqq'; --help lists all of them"),
        (["-x"], "unknown option '-x'"),
        (["--batch_size.a", "4"], "unknown option '--batch_size.a'"),
        (["--loop", "4"], "'loop' is a group of settings"),
        (["recipe.yaml"], "unexpected argument 'recipe.yaml'; give a recipe as --config recipe.yaml"),
        (["--batch_size"], "--batch_size needs a value: int"),
        (["--batch_size", "4", "5"], "--batch_size takes one value, not 2: 4 5"),
        (["--batch_size", "many"], "batch_size='many' (on the command line) has to be int"),
        (["--batch_size", "4.5"], "batch_size='4.5' (on the command line) has to be int"),
        (["--rate", "fast"], "rate='fast' (on the command line) has to be float"),
        (["--use_parallel", "maybe"], "use_parallel='maybe' (on the command line) has to be bool"),
        (["--betas", "0.9"], "has to be tuple[float, float]"),
        (["--mode", "2"], "mode='2' (on the command line) has to be one of 0, 1"),
        (["--device", "ascend"], "has to be one of auto, CPU, Ascend; did you mean Ascend?"),
        (["--mask_ratios", "{head"], "mask_ratios='{head' (on the command line) is not valid YAML"),
        (["--mask_ratios", "0.5"], "mask_ratios=0.5 (on the command line) has to be dict[str, float] or None"),
        (["--mask_ratios.head", "much"], "has to be dict[str, float] or None"),
        (["--config", "nowhere.yaml"], "the recipe nowhere.yaml is not a file"),
        (["--config"], "--config needs the path of a recipe"),
        (["--config", "/"], "the recipe / is not a file"),
    ],
)
def test_wrong_command_line_is_refused_in_one_sentence(argv, message):
    with pytest.raises(UserError) as refusal:
        read(*argv)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("rate: 1\nbatchsize: 4", "unknown key 'batchsize' ({path}, line 2); did you mean batch_size?"),
        ("loop:\n  batch_sze: 4", "unknown key 'loop.batch_sze' ({path}, line 2); did you mean batch_size?"),
        ("rate: 1\n\nbatch_size: many", "batch_size='many' ({path}, line 3) has to be int"),
        ("use_parallel: 1", "use_parallel=1 ({path}, line 1) has to be bool"),
        ("batch_size:", "batch_size=None ({path}, line 1) has to be int"),
        ("device: cpu", "did you mean CPU?"),
        ("batch_size: 4\nloop: {batch_size: 5}", "{path}, line 2 gives batch_size again; it stands on line 1"),
        ("- 1\n- 2", "the recipe {path} has to hold 'key: value' lines"),
        ("just text", "the recipe {path} has to hold 'key: value' lines"),
        ("loop: 4", "{path}, line 1: 'loop' is a group of settings"),
        ("rate: 1\n  batch_size: 4", "the recipe {path}, line 2 is not valid YAML"),
        ("rate: [1", "is not valid YAML"),
        ("<<: 3", "{path}, line 1 is not valid YAML: expected a mapping"),
        ("network: &a {depth: *a}", "{path}, line 1 is not valid YAML"),
        ("captions: " + "[" * 3000, "is not valid YAML"),
        ("network: {a: !!int x}", "{path}, line 1 is not valid YAML"),
        ("rate: \0", "the recipe {path} is not valid YAML: unacceptable character"),
        ("rate: 1\n---\nrate: 2", "is not valid YAML"),
        ("weights: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("weights: !!python/name:os.system x", "is not valid YAML"),
        ("network: {a: !!python/name:os.system x}", "is not valid YAML"),
        ("[1, 2]: 3", "{path}, line 1: a key has to be a plain name"),
    ],
)
def test_wrong_recipe_is_refused_with_its_line(recipe, text, message):
    path = recipe(text)
    with pytest.raises(UserError) as refusal:
        read("-c", path)
    assert message.format(path=path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_recipe_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "weights.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="is not UTF-8 text"):
        read("-c", path)


def test_empty_recipe_gives_the_defaults(recipe):
    assert read("-c", recipe("# nothing\n")) == read() == Command()


def test_anchors_and_merges_of_yaml_work(recipe):
    assert read("-c", recipe("network: &n {depth: 2}\nloop: {mask_ratios: {<<: *n, width: 3}}")).mask_ratios == {
        "depth": 2.0,
        "width": 3.0,
    }


def test_checks_of_groups_and_of_the_whole_are_made():
    with pytest.raises(UserError, match="batch_size=0 has to be at least 1"):
        parse(Command, ["--batch_size", "0"])
    with pytest.raises(UserError, match="use_parallel=True needs mode=0"):
        parse(Command, ["--use_parallel", "True", "--mode", "1"])
    check(Command())


def test_defaults_of_a_caller_replace_those_of_the_schema():
    assert parse(Command, [], defaults={"batch_size": 3}).batch_size == 3
    assert parse(Command, ["--batch_size", "5"], defaults={"batch_size": 3}).batch_size == 5


def test_settings_are_plain_values_in_yaml():
    assert "betas:\n  - 0.9\n  - 0.999\n" in to_yaml(Command())


def test_schema_with_a_name_in_two_groups_is_a_mistake():
    @dataclass
    class Twice:
        loop: Loop = field(default_factory=Loop)
        other: Loop = field(default_factory=Loop)

    Twice.__annotations__ = {"loop": Loop, "other": Loop}
    with pytest.raises(TypeError, match="two settings or groups called .*batch_size"):
        leaves(Twice)
