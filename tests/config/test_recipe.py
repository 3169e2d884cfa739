"""Recipes: what YAML may say, and the lines of what it may not."""

import time

import pytest

from mindone.errors import UserError

BOMB = "".join(f"{name}: &{name} [{', '.join([f'*{below}'] * 10)}]\n" for below, name in zip("abcdefgh", "bcdefghi"))


def test_numbers_that_pyyaml_reads_as_text_are_numbers(recipe, read):
    config = read("-c", recipe("rate: 1e-15\nnetwork: {eps: 1e-6, depth: 4}"))
    assert config.loop.rate == 1e-15
    assert config.loop.network == {"eps": 1e-6, "depth": 4}


@pytest.mark.parametrize("text", ["9:16", "512", "010", "2024-01-01", "1e3", "yes"])
def test_what_looks_like_a_number_stays_text_where_text_is_due(recipe, read, text):
    config = read("-c", recipe(f"ratio: {text}\ncaptions: [{text}]\ndenoiser: {{name: {text}}}"))
    assert (config.loop.ratio, config.loop.captions, config.loop.denoiser["name"]) == (text, [text], text)
    assert read("--denoiser.name", text).loop.denoiser == {"name": text}


def test_no_text_becomes_a_number_of_another_kind(recipe, read):
    network = read("-c", recipe("network: {ratio: 9:16, day: 2024-01-01, code: 010}")).loop.network
    assert network == {"ratio": "9:16", "day": "2024-01-01", "code": "010"}


@pytest.mark.parametrize("text, value", [("51", 51), ("4s", "4s")])
def test_number_of_frames_is_a_number_or_a_name(recipe, read, text, value):
    assert read("--num_frames", text).loop.num_frames == value
    assert read("-c", recipe(f"num_frames: {text}")).loop.num_frames == value


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "null\n", "\ufeff", "{}", "loop:\n", "loop: {}"])
def test_empty_recipe_gives_the_defaults(recipe, command, read, text):
    assert read("-c", recipe(text)) == read() == command()


def test_anchors_and_merges_of_yaml_work(recipe, read):
    text = "network: &n {depth: 2}\nloop: {mask_ratios: {<<: *n, width: 3}}"
    assert read("-c", recipe(text)).loop.mask_ratios == {"depth": 2.0, "width": 3.0}


def test_own_keys_win_over_merged_ones(recipe, read):
    text = "network: &n {batch_size: 2, rate: 3}\nloop: {batch_size: 4, <<: *n}"
    config = read("-c", recipe(text))
    assert (config.loop.batch_size, config.loop.rate) == (4, 3.0)


@pytest.mark.parametrize("first", ["a: &a [x, x, x, x, x, x, x, x, x, x]\n", "a: &a {x: 1, y: 2}\n"])
def test_aliases_of_aliases_are_refused_before_they_grow(recipe, read, first):
    text = "network:\n" + "".join(f"  {line}\n" for line in (first + BOMB).splitlines())
    started = time.monotonic()
    with pytest.raises(UserError, match=r"recipe.yaml, line \d+: with its aliases this has more than 200000 values"):
        read("-c", recipe(text))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "text, message",
    [
        ("rate: 1\nbatchsize: 4", "unknown key 'batchsize' ({path}, line 2); did you mean batch_size?"),
        ("loop:\n  batch_sze: 4", "unknown key 'loop.batch_sze' ({path}, line 2); did you mean batch_size?"),
        ("rate: 1\n\nbatch_size: many", "batch_size='many' ({path}, line 3) has to be int"),
        ("use_parallel: 1", "use_parallel=1 ({path}, line 1) has to be bool"),
        ("batch_size: true", "batch_size=True ({path}, line 1) has to be int"),
        ("batch_size:", "batch_size=None ({path}, line 1) has to be int"),
        ("batch_size: 4.0", "batch_size=4.0 ({path}, line 1) has to be int"),
        ("rate: .inf", "rate=inf ({path}, line 1) has to be a finite float"),
        ("rate: 1e999", "rate=inf ({path}, line 1) has to be a finite float"),
        ("network:\n  eps: [1, -.inf]", "network.eps[1]=-inf ({path}, line 2) has to be a finite float"),
        ("denoiser:\n  depth: 4\n  mlp_ratio: x", "denoiser.mlp_ratio='x' ({path}, line 3) has to be float"),
        ("denoiser:\n  depht: 4", "unknown key 'denoiser.depht' ({path}, line 2); did you mean depth?"),
        ("denoiser: {qqq: 4}", "it is one of depth, mlp_ratio, name, weights, patch_size"),
        ('captions: [a, \'b\\"\']\nratio: "\\uD800"', "ratio='\\ud800' ({path}, line 2) has to be valid text"),
        ("network: {a: !!binary aGk=}", "network.a=b'hi' ({path}, line 1) has to be a number, text, list or mapping"),
        ("buckets: {256: {1: a, 01: b}}", "buckets.256='01' ({path}, line 1) has to be given once"),
        ("batch_size: 0x" + "f" * 17, "({path}, line 1) has to be int of at most 64 bits"),
        ("network: {a: [0x" + "f" * 5000 + "]}", "network.a[0]=a huge number ({path}, line 1) has to be int of at"),
        ("device: cpu", "did you mean CPU?"),
        ("batch_size: 4\nloop: {batch_size: 5}", "{path}, line 2 gives batch_size again; it stands on line 1"),
        ("batch_size: 4\n\nbatch_size: 5", "{path}, line 3 gives batch_size again; it stands on line 1"),
        ("network:\n  depth: 4\n  depth: 5", "{path}, line 3 gives depth again; it stands on line 2"),
        ("loop: {rate: 1}\nloop: {ratio: 1}", "{path}, line 2 gives loop again; it stands on line 1"),
        ("- 1\n- 2", "the recipe {path} has to hold 'key: value' lines"),
        ("just text", "the recipe {path} has to hold 'key: value' lines"),
        ("loop: 4", "'loop' is a group of settings ({path}, line 1); give one of them, as in loop.NAME: VALUE"),
        ("rate: 1\n  batch_size: 4", "the recipe {path}, line 2 is not valid YAML"),
        ("loop:\n\trate: 1", "{path}, line 2 is not valid YAML: a tab cannot indent a line"),
        ("rate: [1", "is not valid YAML"),
        ("<<: 3", "{path}, line 1 is not valid YAML: expected a mapping"),
        ("network: &a {depth: *a}", "{path}, line 1 is not valid YAML: an alias stands within itself"),
        ("captions: " + "[" * 3000, "is not valid YAML"),
        ("network: {a: " + "[" * 60 + "]" * 60 + "}", "is nested more than 50 times"),
        ("network: {a: !!int x}", "{path}, line 1 is not valid YAML"),
        ("network: {a: !!int }", "{path}, line 1 is not valid YAML"),
        ("rate: \0", "the recipe {path} is not valid YAML: unacceptable character"),
        ("rate: 1\n---\nrate: 2", "is not valid YAML"),
        ("weights: !!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("weights: !!python/name:os.system x", "is not valid YAML"),
        ("network: {a: !!python/name:os.system x}", "is not valid YAML"),
        ("network: !!python/object:os.x {a: 1}", "is not valid YAML"),
        ("[1, 2]: 3", "{path}, line 1: a key has to be a plain name"),
        ("network: {[1, 2]: 3}", "{path}, line 1: a key has to be a plain name"),
    ],
)
def test_wrong_recipe_is_refused_with_its_line(recipe, read, text, message):
    path = recipe(text)
    with pytest.raises(UserError) as refusal:
        read("-c", path)
    assert message.format(path=path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("content, line", [(b"\xff\xfe\x00\x80", 1), (b"rate: 1\nratio: caf\xe9\n", 2)])
def test_recipe_that_is_not_text_is_refused(recipe, read, content, line):
    with pytest.raises(UserError, match=rf"is not UTF-8 text \(line {line}\)"):
        read("-c", recipe(content))


def test_file_that_is_far_too_large_for_a_recipe_is_not_read(recipe, read):
    with pytest.raises(UserError, match="has more than 1 MB; is it a .yaml file"):
        read("-c", recipe(b"#" * (2 << 20)))


def test_folder_is_no_recipe(tmp_path, read):
    with pytest.raises(UserError, match="is a folder; give --config the path of a .yaml file"):
        read("-c", tmp_path)
