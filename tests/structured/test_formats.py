"""What requests say -> formats, and what formats let through."""

import json
import re

import jsonschema
import pytest

from kvasir.errors import UserError
from kvasir.messages import StructuredOutputsParams
from kvasir.structured.backend import GrammarError
from kvasir.structured.formats import (
    AnyText,
    ConstString,
    Format,
    Grammar,
    JsonSchema,
    Or,
    Regex,
    Sequence,
    Tag,
    TagsWithSeparator,
    TriggeredTags,
    closed,
    decode,
    encode,
    format_of,
    optional,
)
from tests.structured.schemas import SCHEMAS
from tests.structured.walks import accepts, backend, walk

TREES: list[Format] = [
    Or([ConstString("a"), Sequence([Regex("[0-9]+"), AnyText()])]),
    TriggeredTags(["<f"], [Tag("<f=x>", JsonSchema({"b": 1, "a": 2}, ""), "</f>")], at_least_one=True),
    TagsWithSeparator([Tag("", Grammar("start: x"), "")], ", ", stop_after_first=True),
]


@pytest.mark.parametrize("fmt", TREES)
def test_a_format_travels_unchanged(fmt: Format) -> None:
    assert decode(encode(fmt)) == fmt
    assert list(json.loads(encode(TREES[1]))["tags"][0]["content"]["json_schema"]) == ["b", "a"]  # order is meaning


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_walk_through_a_schema_is_valid(name: str) -> None:
    schema = SCHEMAS[name]
    fmt = format_of(StructuredOutputsParams(json=json.dumps(schema)))
    texts = {walk(fmt, seed) for seed in range(12)}
    for text in texts:
        jsonschema.validate(json.loads(text), schema)
    assert len(texts) > 3


@pytest.mark.parametrize(
    "pattern", [r"[A-Z][a-z]{2,5} \d{3}", r"(yes|no)/[^/]{1,3}", "line\none", r"(\d{1,3}\.){3}\d{1,3}", "ä+|ö"]
)
def test_walks_through_a_pattern_match_it(pattern: str) -> None:
    for seed in range(12):
        assert re.fullmatch(pattern, walk(Regex(pattern), seed))


def test_choices_can_all_be_had_and_nothing_else() -> None:
    choices = ["yes", "no", 'say "maybe"', "new\nline", "yes, but", "ja/nein", "日本"]
    fmt = format_of(StructuredOutputsParams(choice=choices))
    assert all(accepts(fmt, text) for text in choices)
    assert {walk(fmt, seed) for seed in range(60)} == set(choices)
    assert not any(accepts(fmt, text) for text in ["", "ye", "yes,", "nope"])


@pytest.mark.parametrize(
    "grammar",
    [
        'start: expr\nexpr: term ("+" term)*\nterm: NUMBER | "(" expr ")"\nNUMBER: /[0-9]{1,2}/',
        'root ::= expr\nexpr ::= term ("+" term)*\nterm ::= [0-9] [0-9]? | "(" expr ")"',
    ],
    ids=["lark", "ebnf"],
)
def test_a_grammar_of_sums(grammar: str) -> None:
    fmt = format_of(StructuredOutputsParams(grammar=grammar))
    assert accepts(fmt, "1+(22+(3))") and not accepts(fmt, "1+(22") and not accepts(fmt, "(1))")
    for seed in range(8):
        text = walk(fmt, seed)
        assert text.count("(") == text.count(")") and set(text) <= set("0123456789+()")


def test_blanks() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    usual = format_of(StructuredOutputsParams(json=schema))
    assert all(accepts(usual, text) for text in ['{"a": 1}', '{"a":1}', json.dumps({"a": 1}, indent=4)])
    assert not accepts(usual, '{"a":  1}') and not accepts(usual, '{"a":\n\n1}')  # a model could go on like that
    compact = format_of(StructuredOutputsParams(json=schema, disable_any_whitespace=True))
    assert accepts(compact, '{"a":1}') and not accepts(compact, '{"a": 1}')
    own = format_of(StructuredOutputsParams(json=schema, whitespace_pattern="[ ]{2}"))
    assert accepts(own, '{"a":  1}') and not accepts(own, '{"a": 1}')


def test_further_keys() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "object"}}, "required": ["a"]}
    assert accepts(format_of(StructuredOutputsParams(json=schema)), '{"a": {}, "b": 1}')
    strict = format_of(StructuredOutputsParams(json=schema, disable_additional_properties=True))
    assert accepts(strict, '{"a": {}}')
    assert not accepts(strict, '{"a": {}, "b": 1}') and not accepts(strict, '{"a": {"c": 1}}')
    says = {"type": "object", "additionalProperties": {"type": "integer"}, "default": {"type": "object"}}
    assert closed(says) == says
    assert closed({"type": "object"}, maps=False) == {"type": "object"}


def test_json_object() -> None:
    fmt = format_of(StructuredOutputsParams(json_object=True))
    assert accepts(fmt, '{"a": [1, null]}') and not accepts(fmt, "[1]") and not accepts(fmt, "")


def test_structural_tags_of_both_forms() -> None:
    call = {"begin": "<f=x>", "schema": {"type": "integer"}, "end": "</f>"}
    old = format_of(StructuredOutputsParams(structural_tag={"structures": [call], "triggers": ["<f"]}))
    content = {"type": "json_schema", "json_schema": {"type": "integer"}}
    tag = {"type": "tag", "begin": "<f=x>", "content": content, "end": "</f>"}
    tree = {"type": "triggered_tags", "triggers": ["<f"], "tags": [tag]}
    new = format_of(StructuredOutputsParams(structural_tag={"type": "structural_tag", "format": tree}))
    assert old == new
    assert accepts(new, "no call") and accepts(new, "one <f=x>5</f> and <f=x>6</f>.")
    assert not accepts(new, "one <f=y>5</f>") and not accepts(new, "one <f=x>five</f>")
    for wrong in (
        {},
        {"format": {"type": "no such"}},
        {"format": {"type": "or"}},
        {"structures": [{}], "triggers": []},
    ):
        with pytest.raises(UserError, match="structural_tag"):
            format_of(StructuredOutputsParams(structural_tag={"a": 1, **wrong}))


def test_text_up_to_a_mark() -> None:
    fmt = Sequence([optional(Tag("<think>", AnyText(), "</think>")), Regex(r"\n?"), ConstString("42")])
    assert accepts(fmt, "42") and accepts(fmt, "<think>is it 42?</think>\n42")
    assert not accepts(fmt, "<think>42") and not accepts(fmt, "is it 42?</think>42")


def test_a_pattern_up_to_a_mark() -> None:
    fmt = Tag("<", Regex("(?s:.){1,9}|-"), "/>")
    assert accepts(fmt, "<a/>") and accepts(fmt, "<->/>") and accepts(fmt, "</a/>")
    assert not accepts(fmt, "<a/>/>") and not accepts(fmt, "</>") and not accepts(fmt, "<abcdefghij/>")


def test_special_tokens_are_named_by_their_text() -> None:
    fmt = Sequence([Tag("[A]", AnyText(), "[/A]!"), ConstString("x[A]")])
    assert accepts(fmt, "[A]some text[/A]!x[A]", "[A]", "[/A]")
    assert not accepts(fmt, "[A]a [A] in it[/A]!x[A]", "[A]", "[/A]")
    assert accepts(fmt, "[A]some text[/A]!x[A]")  # without such tokens, they are text


@pytest.mark.parametrize(
    ("fmt", "text"),
    [
        (Regex("(a"), "unclosed group"),
        (Regex("(?=a)b"), "look-around"),
        (JsonSchema({"type": "foo"}), "^Invalid type: foo$"),
        (JsonSchema({"type": "object", "if": {}}), 'Unimplemented keys: \\["if"\\]'),
        (JsonSchema({"$ref": "https://example.com/x"}), "example.com"),
        (JsonSchema({"$ref": "#"}), "allows no answer"),
        (Grammar("start: nothing"), 'unknown name: "nothing"'),
        (Grammar('root ::= "a'), "cannot be read"),
        (Or([]), "no elements"),
        (TagsWithSeparator([], ","), "no tags"),
        (TriggeredTags(["<a"], [Tag("<b", AnyText(), "")]), "no trigger"),
    ],
)
def test_what_is_wrong_is_said(fmt: Format, text: str) -> None:
    with pytest.raises(GrammarError, match=text):
        backend().compile(fmt)
