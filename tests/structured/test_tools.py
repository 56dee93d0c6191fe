"""Forced calls of every family that can be forced: what the grammar lets through is what the family's parser reads."""

import json

import jsonschema
import pytest

from kvasir.errors import UserError
from kvasir.parsers import (
    ContentDelta,
    Parser,
    ReasoningDelta,
    Think,
    ToolArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
    ToolSchema,
    reasoning_family,
    tool_family,
)
from kvasir.parsers.families import REASONING_FAMILIES, TOOL_FAMILIES
from kvasir.structured.formats import Format, Regex
from kvasir.structured.tools import (
    CalledTool,
    after_framed_thought,
    after_thought,
    checked_calls,
    forced_calls,
    framed_answer,
)
from tests.structured.walks import accepts, walk

WEATHER = CalledTool(
    "get_weather",
    {
        "type": "object",
        "properties": {"city": {"enum": ["Oslo", "Líma 🙂"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["city"],
    },
)
MOVE = CalledTool(
    "move",
    {
        "properties": {"to": {"$ref": "#/$defs/place"}},
        "required": ["to"],
        "$defs": {"place": {"enum": [7, {"b": 1}]}},
    },
)
NOW = CalledTool("now", {"type": "object", "properties": {}})
TOOLS = [WEATHER, MOVE, NOW]
FORCED = [name for name, family in TOOL_FAMILIES.items() if family.styles and not family.frame]
_DEEPSEEK = tuple(f"<｜tool▁{mark}｜>" for mark in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep"))
_KIMI_MARKS = ("s_section_begin", "s_section_end", "_begin", "_end", "_argument_begin")
SPECIALS = {
    "granite": ("<|tool_call|>",),
    "mistral": ("[TOOL_CALLS]", "[ARGS]"),
    "deepseek_v3": _DEEPSEEK,
    "deepseek_v31": _DEEPSEEK,
    "kimi_k2": tuple(f"<|tool_call{mark}|>" for mark in _KIMI_MARKS),
}


def read(parser: Parser, text: str) -> tuple[str, str, list[tuple[str, str]]]:
    """Reasoning, content, and calls that came to their end."""
    reasoning = content = ""
    calls: list[tuple[str, str]] = []
    for event in parser.push(text) + parser.finish():
        match event:
            case ReasoningDelta(piece):
                reasoning += piece
            case ContentDelta(piece):
                content += piece
            case ToolCallStart(_, _, name):
                calls.append((name, ""))
            case ToolArgumentsDelta(_, piece):
                calls[-1] = (calls[-1][0], calls[-1][1] + piece)
            case ToolCallEnd(_, complete):
                assert complete
    return reasoning, content, calls


def parser_of(name: str) -> Parser:
    return tool_family(name).make([ToolSchema(t.name, t.parameters) for t in TOOLS])


def check_calls(calls: list[tuple[str, str]]) -> None:
    schemas = {t.name: t.parameters for t in TOOLS}
    for name, arguments in calls:
        jsonschema.validate(json.loads(arguments), {**schemas[name], "additionalProperties": False})


@pytest.mark.parametrize("special", [True, False], ids=["special tokens", "text"])
@pytest.mark.parametrize("name", FORCED)
def test_what_is_forced_is_read(name: str, special: bool) -> None:
    specials = SPECIALS.get(name, ()) if special else ()
    several = forced_calls(tool_family(name).styles, TOOLS, several=True)
    one = forced_calls(tool_family(name).styles, [NOW], several=False)
    counts, names = set(), set()
    for seed in range(25):
        reasoning, content, calls = read(parser_of(name), walk(several, seed, *specials))
        assert (reasoning, content) == ("", "") and calls
        check_calls(calls)
        counts.add(min(len(calls), 2))
        names |= {called for called, _ in calls}
        ((called, arguments),) = read(parser_of(name), walk(one, seed, *specials))[2]
        assert (called, json.loads(arguments)) == ("now", {})
    assert counts == {1, 2} and names == {"get_weather", "move", "now"}


def test_which_families_can_be_forced() -> None:
    assert set(TOOL_FAMILIES) - set(FORCED) == {"pythonic", "llama4_pythonic", "openai"}


@pytest.mark.parametrize("name", ["hermes", "granite", "mistral", "deepseek_v31", "kimi_k2"])
def test_calls_in_free_text_are_right(name: str) -> None:
    fmt = checked_calls(tool_family(name).styles, TOOLS, several=True)
    assert fmt is not None
    specials = SPECIALS.get(name, ())
    assert accepts(fmt, "No call at all.", *specials) and accepts(fmt, "", *specials)
    called = 0
    for seed in range(12):
        _, _, calls = read(parser_of(name), walk(fmt, seed, *specials, max_tokens=20_000))
        check_calls(calls)
        called += len(calls)
    if specials:  # hardly ever does a random text hold a mark of ten letters
        assert called


def test_free_text_of_a_family_without_marks() -> None:
    assert checked_calls(tool_family("llama3_json").styles, TOOLS, several=True) is None


def test_hermes_as_models_write_it() -> None:
    fmt = forced_calls(tool_family("hermes").styles, [WEATHER], several=True)
    call = '{"name": "get_weather", "arguments": {"city": "Oslo"}}'
    for text in (f"<tool_call>\n{call}\n</tool_call>", f"<tool_call>{call}</tool_call>"):
        assert accepts(fmt, text)
        assert accepts(fmt, f"{text}\n{text}")
        assert not accepts(forced_calls(tool_family("hermes").styles, [WEATHER], several=False), f"{text}\n{text}")
    assert not accepts(fmt, call) and not accepts(fmt, "")
    wrong_city, more = call.replace("Oslo", "Rome"), call.replace("}}", ', "more": 1}}')
    assert not accepts(fmt, f"<tool_call>{wrong_city}</tool_call>")
    assert not accepts(fmt, f"<tool_call>{more}</tool_call>")


ANSWER: Format = Regex("(yes|no)!")
CLOSED_PROMPT, OPEN_PROMPT, PLAIN_PROMPT = "<think>\n\n</think>\n\n", "assistant\n<think>\n", "assistant\n"


@pytest.mark.parametrize(
    ("family", "prompt", "texts", "not_texts"),
    [
        ("qwen3", PLAIN_PROMPT, ["yes!", "<think>\nno!\n</think>\n\nyes!"], ["<think>\nyes!", "hm</think>yes!"]),
        ("qwen3", CLOSED_PROMPT, ["yes!"], ["<think>hm</think>yes!"]),
        ("qwen3", OPEN_PROMPT, ["hm</think>yes!"], ["yes!", "hm</think>perhaps"]),
        ("deepseek_r1", PLAIN_PROMPT, ["hm</think>\n\nyes!", "<think>hm</think>yes!"], ["yes!"]),
        ("mistral", PLAIN_PROMPT, ["[THINK]no![/THINK]yes!", "yes!"], ["[THINK]yes!"]),
        ("granite", PLAIN_PROMPT, ["Here's my thought process: hm Here is my response: yes!", "no!"], []),
    ],
)
@pytest.mark.parametrize("special", [False, True])
def test_thoughts_come_before_the_answer(
    family: str, prompt: str, texts: list[str], not_texts: list[str], special: bool
) -> None:
    style = reasoning_family(family).style
    assert isinstance(style, Think)
    specials = (*style.opens, *style.closes) if special else ()
    fmt = after_thought(style, prompt, ANSWER)
    for text in texts:
        assert accepts(fmt, text, *specials), text
        assert read(reasoning_family(family).make(prompt), text)[1] in ("yes!", "no!")
    assert not [text for text in not_texts if accepts(fmt, text, *specials)]


@pytest.mark.parametrize("special", [False, True])
def test_a_format_in_which_every_part_has_a_mark(special: bool) -> None:
    family = tool_family("openai")
    assert family.frame is not None
    marks = ("start", "channel", "constrain", "message", "end", "call", "return")
    specials = tuple(f"<|{mark}|>" for mark in marks) if special else ()
    thought = "<|channel|>analysis<|message|>Is it? {}<|end|><|start|>assistant"
    answer = after_framed_thought(family.frame, framed_answer(family.frame, ANSWER))
    for before, reasoning in (("", ""), (thought, "Is it? {}")):
        text = before + "<|channel|>final<|message|>yes!"
        assert accepts(answer, text, *specials)
        assert read(parser_of("openai"), text) == (reasoning, "yes!", [])
    assert not accepts(answer, "yes!", *specials) and not accepts(answer, thought, *specials)
    calls = after_framed_thought(family.frame, forced_calls(family.styles, TOOLS, several=False))
    call = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Oslo"}'
    assert accepts(calls, thought + call, *specials)
    assert read(parser_of("openai"), thought + call) == ("Is it? {}", "", [("get_weather", '{"city": "Oslo"}')])
    assert not accepts(calls, call + call, *specials) and not accepts(calls, thought, *specials)


def test_every_reasoning_family_says_where_thoughts_end() -> None:
    assert all(family.style for family in REASONING_FAMILIES.values())


TEXTS = {
    "type": "object",
    "properties": {
        "note": {"type": "string", "description": "Anything."},
        "code": {"type": "string", "minLength": 2, "maxLength": 4},
        "level": {"type": ["integer", "null"]},
        "either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
        "at": {"$ref": "#/$defs/at"},
    },
    "required": ["note", "at"],
    "$defs": {"at": {"type": "array", "items": {"type": "boolean"}}},
}


def test_arguments_between_tags() -> None:
    tool = CalledTool("write", TEXTS)
    fmt = forced_calls(tool_family("qwen3_coder").styles, [tool], several=False)
    note = '<parameter=note>\na\n<b> "c"\n</parameter>\n'
    at = "<parameter=at>\n[true, false]\n</parameter>\n"
    more = "<parameter=code>\nab\n\n</parameter>\n<parameter=level>\nnull\n</parameter>\n"
    more += "<parameter=either>\n5\n</parameter>\n"
    for arguments, expected in (
        (note + at, {"note": 'a\n<b> "c"', "at": [True, False]}),
        (note + more + at, {"note": 'a\n<b> "c"', "code": "ab\n", "level": None, "either": 5, "at": [True, False]}),
    ):
        text = f"<tool_call>\n<function=write>\n{arguments}</function>\n</tool_call>"
        assert accepts(fmt, text)
        ((name, read_arguments),) = read(tool_family("qwen3_coder").make([ToolSchema("write", TEXTS)]), text)[2]
        assert (name, json.loads(read_arguments)) == ("write", expected)
    for arguments in (at, note, at + note, note + at.replace("false", "5"), note + more.replace("ab", "abcd") + at):
        assert not accepts(fmt, f"<tool_call>\n<function=write>\n{arguments}</function>\n</tool_call>")
    odd = CalledTool("f", {"properties": {"x": {"type": "string", "pattern": "^a$"}}})
    with pytest.raises(UserError, match="'x' as plain text, which cannot be held to 'pattern'"):
        forced_calls(tool_family("glm45").styles, [odd], several=False)


def test_a_name_in_json_is_escaped() -> None:
    fmt = forced_calls(tool_family("hermes").styles, [CalledTool('a"b')], several=False)
    assert accepts(fmt, '<tool_call>{"name": "a\\"b", "arguments": {}}</tool_call>')
