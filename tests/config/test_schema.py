"""Leaves and their types."""

from typing import Any, Literal

import pytest

from mindone.config import FilePath, leaves
from mindone.config.schema import entry_type, is_text, item_type, type_name


def test_leaves_stand_in_order_and_know_their_groups(command):
    found = leaves(command)
    assert list(found)[:5] == ["mode", "device", "use_parallel", "resume", "batch_size"]
    assert (found["batch_size"].path, found["batch_size"].groups) == ("loop.batch_size", ("loop",))
    assert found["betas"].default == (0.9, 0.999)


def test_settings_can_be_read_without_their_group(read):
    config = read("--batch_size", "4")
    assert config.batch_size == 4
    with pytest.raises(AttributeError, match="no setting batchsize"):
        _ = config.batchsize


@pytest.mark.parametrize(
    "tp, name",
    [
        (int | None, "int or None"),
        (list[FilePath] | None, "list[path] or None"),
        (bool | FilePath, "bool or path"),
        (dict[str, dict[int, Any]], "dict[str, dict[int, Any]]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Literal["a", 1], "one of a, 1"),
    ],
)
def test_types_are_named_in_words(tp, name):
    assert type_name(tp) == name


@pytest.mark.parametrize("tp", [str, str | None, FilePath, FilePath | None, Literal["512", "1024"]])
def test_numbers_are_text_where_only_text_fits(tp):
    assert is_text(tp)


@pytest.mark.parametrize("tp", [int, int | str, float | str, Any, Literal[0, 1], Literal["auto", 1], bool])
def test_numbers_are_numbers_where_they_fit(tp):
    assert not is_text(tp)


def test_items_and_entries_have_types(command):
    assert [item_type(tuple[int, str], index) for index in (0, 1, 5)] == [int, str, str]
    assert (item_type(tuple[float, ...], 3), item_type(int | list[int]), item_type(list)) == (float, int, Any)
    assert (entry_type(dict[str, float] | None, "a"), entry_type(dict, "a")) == (float, Any)
    denoiser = leaves(command)["denoiser"].type
    assert (entry_type(denoiser, "depth"), entry_type(denoiser, "unknown")) == (int, Any)
