"""Flags: their spellings, their values, and wrong ones."""

import pytest

from mindone.config import arguments, parse
from mindone.errors import UserError, guarded


def test_values_become_the_words_of_their_flags():
    values = {"mode": 1, "size": [64, 96], "sizes": {"depth": 2}, "on": False}
    assert arguments(values) == ["--mode", "1", "--size", "64", "96", "--sizes", '{"depth": 2}', "--on", "False"]


@pytest.mark.parametrize("argv, value", [(["--use_parallel"], True), (["--use_parallel", "True"], True)])
def test_a_bare_or_published_boolean_turns_it_on(argv, value, read):
    assert read(*argv, "--mode", "1").machine.use_parallel is value


def test_published_false_turns_it_off(recipe, read):
    assert read("-c", recipe("use_parallel: True"), "--use_parallel", "False").machine.use_parallel is False


@pytest.mark.parametrize(
    "text, value", [("yes", True), ("1", True), ("on", True), ("TRUE", True), ("no", False), ("0", False)]
)
def test_booleans_have_many_spellings(text, value, read):
    assert read(f"--use_parallel={text}").machine.use_parallel is value


@pytest.mark.parametrize("text, value", [("True", True), ("False", False), ("runs/7", "runs/7"), ("1", "1")])
def test_resume_is_a_boolean_or_a_path(text, value, read):
    assert read("--resume", text).machine.resume == value


@pytest.mark.parametrize("argv, value", [(["256"], 256), (["256", "384"], [256, 384]), (["[256, 384]"], [256, 384])])
def test_image_size_is_one_number_or_two(argv, value, read):
    assert read("--image_size", *argv).loop.image_size == value


def test_list_flags_take_several_words_and_keep_them_as_text(read):
    assert read("--captions", "a red circle", "12").loop.captions == ["a red circle", "12"]
    assert read("--prompt", "[a, b]").loop.captions == ["[a, b]"]
    assert read("--betas", "0.9", "0.95").loop.betas == (0.9, 0.95)


@pytest.mark.parametrize("name", ["weights", "captions", "mask_ratios"])
def test_none_takes_a_setting_back(name, recipe, read):
    given = recipe("weights: a\ncaptions: [a]\nmask_ratios: {a: 1}")
    assert getattr(read("-c", given, f"--{name}", "None").loop, name) is None


def test_published_commands_of_2_0_write_flags_without_dashes(recipe, read):
    path = recipe("num_frames: 129")
    config = read(f"--config={path}", "loop.weights=a/b=c", "loop.rate=1e-3", "--loop.batch_size", "2", "mode=1")
    assert (config.loop.weights, config.loop.rate, config.loop.batch_size) == ("a/b=c", 1e-3, 2)
    assert (config.loop.num_frames, config.machine.mode) == (129, 1)
    assert read("--config", path, "loop.rate=1e-3").loop.rate == 1e-3
    assert read("-c", path, "loop.image_size=256", "384").loop.image_size == [256, 384]


def test_text_with_an_equals_sign_stays_a_value_where_it_can_be_one(read):
    assert read("--weights", "rate=3").loop.weights == "rate=3"
    assert read("--captions", "rate=3", "e=mc2", "batch_size=4").loop.captions == ["rate=3", "e=mc2", "batch_size=4"]
    config = read("--captions", "a", "loop.rate=3")
    assert (config.loop.captions, config.loop.rate) == (["a"], 3.0)
    config = read("captions=a", "e=mc2", "rate=3")
    assert (config.loop.captions, config.loop.rate) == (["a", "e=mc2"], 3.0)
    config = read("--image_size", "8", "9", "rate=3")
    assert (config.loop.image_size, config.loop.rate) == ([8, 9], 3.0)


@pytest.mark.parametrize("argv", [["rat=3"], ["--rate", "3", "rat=3"], ["-c", "{recipe}", "loop.rat=3"]])
def test_unknown_name_without_dashes_is_refused_like_a_flag(argv, recipe, read):
    with pytest.raises(UserError, match=r"unknown option '--(loop.)?rat'; did you mean --rate\?"):
        read(*(token.format(recipe=recipe("")) for token in argv))


@pytest.mark.parametrize("argv", [["--captions", "caf\udce9"], ["--weights", "a\udcff"], ["-c", "a\udcff.yaml"]])
def test_bytes_that_are_no_text_end_in_one_line(argv, command, capsys):
    with pytest.raises(SystemExit) as leaving:
        guarded(parse)(command, argv)
    assert leaving.value.code == 2
    assert capsys.readouterr().err == f"error: the argument {argv[-1]!r} is not UTF-8 text\n"


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--batchsize", "4"], "unknown option '--batchsize'; did you mean --batch_size?"),
        (["--machine.batch_size", "4"], "unknown option '--machine.batch_size'; did you mean --batch_size?"),
        (["--machine.moed", "4"], "unknown option '--machine.moed'; did you mean --mode?"),
        (["--qqq", "4"], "unknown option '--qqq'; --help lists all of them"),
        (["-x"], "unknown option '-x'"),
        (["--batch_size.a", "4"], "unknown option '--batch_size.a'"),
        (["--loop", "4"], "'loop' is a group of settings (on the command line); give one of them, as in --loop.NAME"),
        (["recipe.yaml"], "unexpected argument 'recipe.yaml'; give a recipe as --config recipe.yaml"),
        (["--batch_size"], "--batch_size needs a value: int"),
        (["--batch_size", "4", "5"], "--batch_size takes one value, not 2: 4 5"),
        (["--batch_size", "many"], "batch_size='many' (on the command line) has to be int"),
        (["--batch_size", "4.5"], "batch_size='4.5' (on the command line) has to be int"),
        (["--batch_size", "9" * 5000], "... (on the command line) has to be int"),
        (["--rate", "fast"], "rate='fast' (on the command line) has to be float"),
        (["--rate", "1e999"], "rate='1e999' (on the command line) has to be a finite float"),
        (["--rate", "nan"], "rate='nan' (on the command line) has to be a finite float"),
        (["--mask_ratios", "{a: .inf}"], "mask_ratios.a=inf (on the command line) has to be a finite float"),
        (["--network.eps", ".nan"], "network.eps=nan (on the command line) has to be a finite float"),
        (["--use_parallel", "maybe"], "use_parallel='maybe' (on the command line) has to be bool"),
        (["--betas", "0.9"], "has to be tuple[float, float]"),
        (["--betas", "0.9", "x"], "betas[1]='x' (on the command line) has to be float"),
        (["--mode", "2"], "mode='2' (on the command line) has to be one of 0, 1"),
        (["--device", "ascend"], "has to be one of auto, CPU, Ascend; did you mean Ascend?"),
        (["--mask_ratios", "{head"], "mask_ratios='{head' (on the command line) is not valid YAML"),
        (["--mask_ratios", "{a: 1, a: 2}"], "mask_ratios='{a: 1, a: 2}' (on the command line) gives a again"),
        (["--mask_ratios", "0.5"], "mask_ratios=0.5 (on the command line) has to be dict[str, float] or None"),
        (["--mask_ratios.head", "much"], "mask_ratios.head='much' (on the command line) has to be float"),
        (["--buckets.256.many", "1"], "buckets.256='many' (on the command line) has to be int, as a key"),
        (["--denoiser.depth", "x"], "denoiser.depth='x' (on the command line) has to be int"),
        (["--denoiser.depht", "1"], "unknown key 'denoiser.depht' (on the command line); did you mean depth?"),
        (["--denoiser", "{patch_size: [1, 2]}"], "denoiser.patch_size=[1, 2] (on the command line) has to be tuple"),
        (["--config", "nowhere.yaml"], "the recipe nowhere.yaml is not a file"),
        (["--config"], "--config needs the path of a recipe"),
        (["--config="], "--config needs the path of a recipe"),
        (["--config", "/"], "the recipe / is a folder"),
    ],
)
def test_wrong_command_line_is_refused_in_one_sentence(argv, message, read):
    with pytest.raises(UserError) as refusal:
        read(*argv)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
