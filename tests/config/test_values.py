"""Values as the types of a schema."""

from dataclasses import dataclass, field
from typing import Any

import pytest

from mindone.config import SettingError, typed_entries
from mindone.errors import UserError


def test_paths_are_relative_to_the_recipe_and_others_stay(recipe, read, tmp_path, monkeypatch):
    text = "weights: ./model\nreferences: [../a.png;./b.png, x/../y]\nresume: ../runs\ndenoiser: {weights: ./d}"
    path = recipe(text)
    monkeypatch.chdir("/")
    config = read("-c", path)
    assert config.loop.weights == str(tmp_path / "model")
    assert config.loop.references == [f"{tmp_path.parent / 'a.png'};{tmp_path / 'b.png'}", "x/../y"]
    assert config.machine.resume == str(tmp_path.parent / "runs")
    assert config.loop.denoiser == {"weights": str(tmp_path / "d")}
    assert read("--weights", "./model").loop.weights == "/model"
    for name in ("hpcai-tech/OpenSora-STDiT-v3", "models/vae", "/a/../b", ".hidden", "a;./b"):
        assert read("--weights", name).loop.weights == name


@pytest.mark.parametrize("text, folder", [(".", "."), ("..", ".."), ("./", ".")])
def test_a_dot_is_the_folder_of_the_recipe(recipe, read, tmp_path, text, folder):
    assert read("-c", recipe(f"weights: {text}")).loop.weights == str((tmp_path / folder).resolve())


def test_tilde_is_the_home_folder(read, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert read("--weights", "~/vae").loop.weights == "/home/somebody/vae"
    assert read("--references", "~/a;b ; c", "d").loop.references == ["/home/somebody/a;b ; c", "d"]


@pytest.mark.parametrize("text", ["./a red circle", "~/x; ./y", "../z", "a;b ; c"])
def test_text_that_is_no_path_is_left_as_it_is(recipe, read, text):
    assert read("--captions", text).loop.captions == [text]
    assert read("--ratio", text).loop.ratio == text
    config = read("-c", recipe(f"captions: ['{text}']\nnetwork: {{name: '{text}'}}"))
    assert (config.loop.captions, config.loop.network) == ([text], {"name": text})


def test_number_without_limits_may_be_infinite(recipe, read):
    assert read().loop.limit == float("inf")
    assert read("-c", recipe("limit: -.inf")).loop.limit == -float("inf")
    assert read("--limit", ".inf").loop.limit == float("inf")


def test_numbers_given_as_text_are_numbers(recipe, read):
    config = read("-c", recipe("batch_size: '4'\nrate: '1e-3'\nnum_frames: '51'\nmode: '1'\nlimit: 2"))
    assert (config.loop.batch_size, config.loop.rate, config.loop.num_frames, config.machine.mode) == (4, 1e-3, 51, 1)
    assert type(config.loop.limit) is float


def test_entries_of_a_declared_dict_are_typed_and_none_is_added(recipe, read):
    config = read("-c", recipe("denoiser: {mlp_ratio: 3, patch_size: [1, 2, 2]}"), "--denoiser.depth", "4")
    assert config.loop.denoiser == {"mlp_ratio": 3.0, "patch_size": (1, 2, 2), "depth": 4}
    assert type(config.loop.denoiser["mlp_ratio"]) is float
    assert read("--denoiser.name", "None").loop.denoiser == {"name": None}


@dataclass
class Inner:
    num_heads: int = 16


@dataclass
class Network:
    depth: int = 28
    widths: list[int] | None = None
    inner: Inner = field(default_factory=Inner)
    extra: Any = None


def test_entries_can_be_typed_when_their_schema_is_known_only_later():
    given = {"depth": 2, "widths": [1, 2], "inner": {"num_heads": "4"}, "extra": {1: None}}
    assert typed_entries(given, Network, "denoiser") == {
        "depth": 2,
        "widths": [1, 2],
        "inner": {"num_heads": 4},
        "extra": {"1": None},
    }


@pytest.mark.parametrize(
    "given, name, message",
    [
        ({"depth": "x"}, "denoiser.depth", "denoiser.depth='x' has to be int"),
        ({"widths": [1, "x"]}, "denoiser.widths[1]", "denoiser.widths[1]='x' has to be int"),
        ({"inner": {"num_head": 1}}, "denoiser.inner.num_head", "unknown key 'denoiser.inner.num_head'; did you mean"),
        ({"inner": 1}, "denoiser.inner", "denoiser.inner=1 has to be settings of Inner"),
        ({"deph": 1}, "denoiser.deph", "unknown key 'denoiser.deph'; did you mean depth?"),
    ],
)
def test_wrong_entry_is_named_with_its_path(given, name, message):
    with pytest.raises(SettingError) as refusal:
        typed_entries(given, Network, "denoiser")
    assert message in str(refusal.value)
    assert refusal.value.names == (name,)


def test_long_value_is_cut_in_the_error(read):
    with pytest.raises(UserError) as refusal:
        read("--rate", "x" * 10_000)
    assert len(str(refusal.value)) < 200
