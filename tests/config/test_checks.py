"""Errors of ``check()`` name where their settings were given."""

from dataclasses import dataclass, field

import pytest

from mindone.config import (
    SettingError,
    Settings,
    about,
    check,
    load,
    naming_sources,
    parse,
    require,
    require_at_least,
    resolve,
    typed_entries,
)
from mindone.errors import UserError


@dataclass
class Part:
    depth: int = 1
    width: int | None = None

    def check(self):
        require_at_least(self, depth=1, width=2)


@dataclass
class Whole(Settings):
    first: Part = field(default_factory=Part)
    second: Part = field(default_factory=Part)
    rate: float = 0.5
    network: dict[str, int] = field(default_factory=dict)

    def check(self):
        require(self, "rate", 0 <= self.rate < 1, "at least 0 and less than 1")
        if self.first.depth > self.second.depth:
            raise SettingError("first.depth is more than second.depth", "first.depth", "second.depth")
        if self.network.get("heads", 1) < 1:
            raise SettingError(f"network.heads={self.network['heads']} has to be at least 1", "network.heads")


@pytest.mark.parametrize(
    "text, message",
    [
        ("first: {depth: 1}\nsecond:\n  depth: 0", "depth=0 has to be at least 1 ({path}, line 3)"),
        ("rate: 0.5\nfirst.width: 1", "width=1 has to be at least 2 ({path}, line 2)"),
        ("\nrate: 1", "rate=1.0 has to be at least 0 and less than 1 ({path}, line 2)"),
        ("first.depth: 3", "first.depth is more than second.depth ({path}, line 1)"),
        (
            "second.depth: 2\nfirst.depth: 3",
            "first.depth is more than second.depth ({path}, line 2; {path}, line 1)",
        ),
        ("network:\n  depth: 1\n  heads: 0", "network.heads=0 has to be at least 1 ({path}, line 3)"),
        ("network: {heads: 0}", "network.heads=0 has to be at least 1 ({path}, line 1)"),
    ],
)
def test_failed_check_names_file_and_line_of_its_settings(recipe, text, message):
    path = recipe(text)
    with pytest.raises(UserError) as refusal:
        parse(Whole, ["--config", path])
    assert str(refusal.value) == message.format(path=path)


def test_failed_check_names_what_was_given_last(recipe):
    with pytest.raises(UserError, match=r"^depth=-1 has to be at least 1 \(on the command line\)$"):
        parse(Whole, ["--config", recipe("first.depth: 0"), "--first.depth", "-1"])
    with pytest.raises(UserError, match=r"^network.heads=-1 .* \(on the command line\)$"):
        parse(Whole, ["--config", recipe("network: {heads: 0}"), "--network.heads", "-1"])
    with pytest.raises(UserError, match=r"^network.heads=-1 .* \(on the command line\)$"):
        parse(Whole, ["--config", recipe("network: {heads: 0}"), "--network", "{heads: -1}"])
    with pytest.raises(UserError, match=r"^network.heads=0 .* \(.*recipe.yaml, line 1\)$"):
        parse(Whole, ["--config", recipe("network: {heads: 0}"), "--network.depth", "1"])


def test_failed_check_of_a_default_names_no_source():
    with pytest.raises(SettingError, match="^depth=0 has to be at least 1$"):
        parse(Whole, [], defaults={"first.depth": 0})
    with pytest.raises(SettingError, match="^depth=0 has to be at least 1$"):
        check(Whole(first=Part(0)))


def test_later_checks_name_sources_too(recipe):
    path = recipe("rate: 0.25\nnetwork: {heads: 7}")
    config = resolve(load(Whole, ["-c", path]), {"first.width": 2})
    with pytest.raises(UserError, match=r"^rate is odd \(.*recipe.yaml, line 1\)$"), naming_sources(config):
        raise SettingError("rate is odd", "rate")
    with pytest.raises(UserError, match=r"^heads=7 .* \(.*line 2\)$"), naming_sources(config, "network."):
        raise SettingError("heads=7 does not divide the width", "heads")
    with pytest.raises(UserError, match=r"^unknown key 'network.heads'; .* \(.*line 2\)$"), naming_sources(config):
        typed_entries(config.network, Part, "network")


def test_setting_of_a_group_is_not_mistaken_for_one_of_the_root(recipe):
    @dataclass
    class Top(Whole):
        depth: int = 5

    config = load(Top, ["-c", recipe("depth: 4")])
    with pytest.raises(SettingError, match="^depth is odd$"), naming_sources(config, "first."):
        raise SettingError("depth is odd", "depth")


def test_error_of_other_code_can_be_about_a_setting(recipe):
    config = load(Whole, ["-c", recipe("rate: 0.5")])
    named = pytest.raises(UserError, match=r"^0.5 is too fast \(.*recipe.yaml, line 1\)$")
    with named, naming_sources(config), about("rate"):
        raise UserError("0.5 is too fast")


def test_other_errors_pass_unchanged():
    config = load(Whole, ["--rate", "0.1"])
    with pytest.raises(UserError, match="^something else$"), naming_sources(config):
        raise UserError("something else")


def test_nan_is_never_large_enough():
    with pytest.raises(SettingError, match="rate=nan has to be at least 0"):
        require_at_least(Whole(rate=float("nan")), rate=0)


def test_sources_are_no_part_of_the_settings(recipe):
    assert load(Whole, ["-c", recipe("rate: 0.5")]) == Whole()
