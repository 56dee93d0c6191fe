"""Options: reading, checking, and what the errors say."""

from dataclasses import dataclass

import pytest

from kvasir.config.option import AUTO, at_least, option, options_of
from kvasir.config.units import format_bytes, parse_count
from kvasir.config.user import ENGINE_SECTIONS, SERVER_SECTIONS
from kvasir.errors import ConfigError

ALL_OPTIONS = [o for section in (*ENGINE_SECTIONS, *SERVER_SECTIONS) for o in options_of(section).values()]


@dataclass(frozen=True)
class ToyConfig:
    """A section for these tests."""

    size: int = option(AUTO, help="A size.", check=at_least(2), aliases=("--magnitude",))
    ratio: float = option(0.5, help="A ratio.")
    names: list[str] = option(["a"], help="Names.")
    table: dict[str, int] = option({}, help="A table.")
    place: str | None = option(None, help="A place.")
    on: bool = option(True, help="A switch.")


TOY = options_of(ToyConfig)


@pytest.mark.parametrize(
    ("text", "value"),
    [("7", 7), ("32k", 32_000), ("32K", 32_768), ("1M", 2**20), ("1.5k", 1500), ("4GiB", 2**32), ("4GB", 4 * 10**9)],
)
def test_counts_as_people_write_them(text: str, value: int):
    assert parse_count(text) == value


@pytest.mark.parametrize("text", ["", "k", "1.5", "4 apples", "1.0001k", "--1"])
def test_no_counts(text: str):
    with pytest.raises(ValueError):
        parse_count(text)


def test_bytes_as_people_read_them():
    assert format_bytes(512) == "512 B"
    assert format_bytes(4 * 2**30) == "4.00 GiB"


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("size", "auto", AUTO),
        ("size", None, AUTO),
        ("size", "3k", 3000),
        ("size", 4.0, 4),
        ("ratio", "0.25", 0.25),
        ("ratio", None, 0.5),
        ("names", "x", ["x"]),
        ("names", ("x", "y"), ["x", "y"]),
        ("table", '{"a": 1}', {"a": 1}),
        ("place", None, None),
        ("on", "false", False),
    ],
)
def test_reading(name: str, given: object, value: object):
    assert TOY[name].read(given) == value


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("size", 1, ["size", "--size", "1", "at least 2"]),
        ("size", True, ["whole number", "bool"]),
        ("size", 2.5, ["whole number"]),
        ("ratio", "much", ["'much'", "a number"]),
        ("ratio", float("nan"), ["not a number"]),
        ("names", [1], ["list of texts"]),
        ("table", "[1]", ["JSON object"]),
        ("on", 1, ["true or false"]),
    ],
)
def test_errors_name_value_and_bound(name: str, given: object, words: list[str]):
    with pytest.raises(ConfigError) as caught:
        TOY[name].read(given)
    assert caught.value.param == name
    for word in words:
        assert word in str(caught.value)


def test_defaults_are_not_shared():
    first, second = ToyConfig(), ToyConfig()
    first.names.append("b")
    assert second.names == ["a"]


@pytest.mark.parametrize("option", ALL_OPTIONS, ids=lambda o: o.name)
def test_every_declaration_is_whole(option):
    assert option.help.rstrip("]").endswith((".", "}")), "help is a sentence"
    assert option.read(None) == option.default, "the default passes its own check"
    if option.default is not None and option.kind != "json":
        assert option.read(option.default) == option.default


def test_no_name_or_flag_is_declared_twice():
    names = [o.name for o in ALL_OPTIONS]
    flags = [flag for o in ALL_OPTIONS for flag in o.flags]
    assert len(set(names)) == len(names)
    assert len(set(flags)) == len(flags)
