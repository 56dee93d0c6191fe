"""Every registered parser, held to one contract: cuts change nothing, nothing is lost, nothing leaks."""

import json
import random

import pytest

from kvasir.parsers import (
    ContentDelta,
    Parser,
    ReasoningDelta,
    ReasoningThenCalls,
    ToolArgumentsDelta,
    ToolCallEnd,
    ToolCallStart,
    ToolSchema,
    reasoning_family,
    tool_family,
)
from kvasir.parsers.families import REASONING_FAMILIES, TOOL_FAMILIES
from tests.parsers.texts import BROKEN, CALLS, FRAGMENTS, REASONING

TOOLS = [
    ToolSchema(
        "get_weather",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "wind": {"type": "boolean"},
                "at": {"type": "array"},
            },
        },
    ),
    ToolSchema("now"),
]


def tool_parser(name: str) -> Parser:
    return tool_family(name).make(TOOLS)


def read(parser: Parser, pieces: list[str]) -> dict[str, object]:
    """Adds the events up, and checks that they come in order."""
    content = reasoning = ""
    calls: list[dict[str, object]] = []
    for i in range(len(pieces) + 1):
        for event in parser.push(pieces[i]) if i < len(pieces) else parser.finish():
            match event:
                case ContentDelta(text):
                    content += text
                case ReasoningDelta(text):
                    reasoning += text
                case ToolCallStart(index, call_id, name):
                    assert index == len(calls) and call_id and name
                    calls.append({"name": name, "arguments": "", "complete": None})
                case ToolArgumentsDelta(index, text):
                    assert index == len(calls) - 1 and calls[-1]["complete"] is None and text
                    calls[-1]["arguments"] += text  # type: ignore[operator]
                case ToolCallEnd(index, complete):
                    assert index == len(calls) - 1 and calls[-1]["complete"] is None
                    calls[-1]["complete"] = complete
    assert all(c["complete"] is not None for c in calls), "a call that was begun is ended"
    for call in calls:
        if call["complete"]:
            assert isinstance(json.loads(str(call["arguments"])), dict)
    return {"content": content, "reasoning": reasoning, "calls": calls}


def cuts(text: str, seed: int) -> list[list[str]]:
    rng = random.Random(seed)
    every = [[text[:i], text[i:]] for i in range(1, len(text))]
    some = []
    for _ in range(8):
        at = sorted(rng.sample(range(len(text) + 1), min(len(text), rng.randint(1, 12))))
        some.append([text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)])
    return [list(text), *every, *some]


def test_every_family_has_texts() -> None:
    assert set(CALLS) == set(BROKEN) == set(TOOL_FAMILIES)
    assert set(REASONING) == set(REASONING_FAMILIES)


@pytest.mark.parametrize(("name", "case"), [(n, i) for n in CALLS for i in range(len(CALLS[n]))])
def test_calls(name: str, case: int) -> None:
    text, content, calls = CALLS[name][case]
    got = read(tool_parser(name), [text])
    assert got["content"] == content
    assert [(c["name"], json.loads(c["arguments"])) for c in got["calls"]] == calls  # type: ignore[attr-defined]
    assert all(c["complete"] for c in got["calls"])  # type: ignore[attr-defined]
    for pieces in cuts(text, case):
        assert read(tool_parser(name), pieces) == got, pieces


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_call_is_content(name: str) -> None:
    """Texts without a call, broken calls and tags left open come back letter for letter."""
    for i, text in enumerate(["", " ", "Hello!\n", "Grüße 🙂 < [ { <tool", *BROKEN[name]]):
        for pieces in [[text], *cuts(text, i)]:
            got = read(tool_parser(name), pieces)
            assert got == {"content": text, "reasoning": "", "calls": []}, pieces


@pytest.mark.parametrize("name", CALLS)
def test_a_call_cut_off_anywhere(name: str) -> None:
    """The answer ends in the middle (max_tokens): no call is called complete that is not, for any cut of the rest."""
    for text, _, calls in CALLS[name]:
        for end in range(0, len(text), 3):
            got = read(tool_parser(name), [text[:end]])
            assert read(tool_parser(name), list(text[:end])) == got
            done = [(c["name"], json.loads(c["arguments"])) for c in got["calls"] if c["complete"]]  # type: ignore
            assert done == calls[: len(done)]
            if not got["calls"]:
                assert got["content"] == text[:end]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", TOOL_FAMILIES)
def test_garbage(name: str, seed: int) -> None:
    rng = random.Random(f"{name} {seed}")
    pool = [*FRAGMENTS, *FRAGMENTS, *(text for text, _, _ in CALLS[name])]
    for _ in range(40):
        text = "".join(rng.choice(pool) for _ in range(rng.randint(1, 9)))
        got = read(tool_parser(name), [text])
        if not got["calls"] and not tool_family(name).reads_all:  # whose headers are marks around plain text as well
            assert got["content"] == text
        for pieces in (list(text), cuts(text, seed)[-1]):
            assert read(tool_parser(name), pieces) == got, pieces


@pytest.mark.parametrize(("name", "case"), [(n, i) for n in REASONING for i in range(len(REASONING[n]))])
def test_reasoning(name: str, case: int) -> None:
    prompt, text, reasoning, content = REASONING[name][case]
    family = reasoning_family(name)
    for pieces in [[text], *cuts(text, case)]:
        got = read(family.make(prompt), pieces)
        assert got == {"content": content, "reasoning": reasoning, "calls": []}, pieces


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", REASONING_FAMILIES)
def test_reasoning_garbage(name: str, seed: int) -> None:
    rng = random.Random(f"{name} {seed}")
    for _ in range(40):
        text = "".join(rng.choice(FRAGMENTS) for _ in range(rng.randint(1, 9)))
        got = read(reasoning_family(name).make(None), [text])
        if not got["reasoning"] and not any(tag in text for tag in ("think>", "THINK]", "Here")):
            assert got["content"] == text
        assert read(reasoning_family(name).make(None), list(text)) == got


def test_reasoning_then_a_call() -> None:
    text = '<think>\nA <tool_call> is due.\n</think>\n\nOne moment.\n<tool_call>{"name": "now"}</tool_call>'
    wanted = {
        "content": "One moment.",
        "reasoning": "A <tool_call> is due.",
        "calls": [{"name": "now", "arguments": "{}", "complete": True}],
    }
    for pieces in [[text], *cuts(text, 0)]:
        assert read(ReasoningThenCalls(reasoning_family("qwen3").make(None), tool_parser("hermes")), pieces) == wanted


def test_harmony_reads_thoughts_preambles_and_calls_in_one() -> None:
    text = (
        "<|channel|>analysis<|message|>A call <tool_call> is due.<|end|><|start|>assistant<|channel|>commentary"
        "<|message|>One moment.<|end|><|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json"
        "<|message|>{}<|call|><|start|>assistant<|channel|>final<|message|>It is <|channel|> late.<|return|>"
    )
    wanted = {
        "content": "One moment.It is <|channel|> late.",
        "reasoning": "A call <tool_call> is due.",
        "calls": [{"name": "now", "arguments": "{}", "complete": True}],
    }
    for pieces in [[text], *cuts(text, 0)]:
        assert read(tool_parser("openai"), pieces) == wanted, pieces
    without = read(tool_family("openai").make([]), [text])
    assert without["calls"] == [] and without["content"] == "One moment.{}It is <|channel|> late."
