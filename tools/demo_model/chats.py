"""Whole chats: turns of mixed skills, rendered exactly as the chat template does."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import memory_skill
from skills import SINGLE_TURN, Item, Message
from tool_skills import missing_tool, offered_tools, tool_item
from words import COMMON_WORDS, payload_word

SKILLS: tuple[str, ...] = (*SINGLE_TURN, "memory", "tool_call", "tool_answer")

# How often a turn is drawn; the skills that need most practice come most often.
WEIGHTS: dict[str, float] = {
    "add": 3.0,
    "subtract": 4.5,
    "reverse": 2.0,
    "uppercase": 1.0,
    "count_letters": 3.0,
    "sort": 2.5,
    "capitals": 1.0,
    "units": 1.2,
    "json": 1.5,
    "sequences": 0.7,
    "kvasir": 1.0,
    "refusal": 1.0,
    "memory": 1.2,
}

_SYSTEMS = (
    "You are a helpful assistant.",
    "You are Kvasir.",
    "Be brief.",
    "Answer briefly.",
    "You are a small demo model.",
    "You are a helpful assistant. Be brief.",
    "Answer all questions.",
    "You are a friendly assistant.",
)


def tool_line(tool: dict[str, Any]) -> str:
    """One tool as the template lists it: the schema reduced to names and types, to keep prompts short."""
    function = tool["function"]
    parameters = function.get("parameters", {}).get("properties", {})
    kinds = {key: value.get("type", "any") for key, value in parameters.items()}
    return json.dumps({"name": function["name"], "description": function.get("description", ""), "parameters": kinds})


def render_calls(calls: list[dict[str, Any]]) -> str:
    """Tool calls in the Hermes style."""
    blocks = []
    for call in calls:
        function = call["function"]
        body = json.dumps({"name": function["name"], "arguments": function["arguments"]})
        blocks.append(f"<tool_call>\n{body}\n</tool_call>")
    return "\n".join(blocks)


def answer_text(message: Message) -> str:
    """What the model has to write for an assistant message, without the end mark."""
    return message["content"] + (render_calls(message["tool_calls"]) if message.get("tool_calls") else "")


def segments(messages: list[Message], tools: list[dict[str, Any]]) -> list[tuple[str, bool]]:
    """The rendered chat in pieces; the flag marks what the model writes itself."""
    parts: list[tuple[str, bool]] = []
    system = ""
    if messages and messages[0]["role"] == "system":
        system, messages = messages[0]["content"], messages[1:]
    if tools:
        listing = "\n".join(tool_line(tool) for tool in tools)
        system += ("\n\n" if system else "") + f"# Tools\n<tools>\n{listing}\n</tools>"
    if system:
        parts.append((f"<|im_start|>system\n{system}<|im_end|>\n", False))
    for index, message in enumerate(messages):
        role = message["role"]
        if role == "assistant":
            parts.append(("<|im_start|>assistant\n", False))
            parts.append((answer_text(message) + "<|im_end|>", True))
            parts.append(("\n", False))
        elif role == "tool":
            first = index == 0 or messages[index - 1]["role"] != "tool"
            last = index + 1 == len(messages) or messages[index + 1]["role"] != "tool"
            text = "<|im_start|>user" if first else ""
            text += f"\n<tool_response>\n{message['content']}\n</tool_response>"
            parts.append((text + ("<|im_end|>\n" if last else ""), False))
        else:
            parts.append((f"<|im_start|>{role}\n{message['content']}<|im_end|>\n", False))
    return parts


def _filler(rng: random.Random, words: int) -> str:
    """Meaningless notes for a long system prompt; the model has to look past them."""
    text = []
    while words > 0:
        size = min(words, rng.randint(3, 9))
        text.append(
            " ".join(
                rng.choice(COMMON_WORDS)
                if rng.random() < 0.5
                else rng.choice(("the", "of", "in", "is", "and", "a", "to"))
                for _ in range(size)
            ).capitalize()
            + "."
        )
        words -= size
    return " ".join(text)


def _system(rng: random.Random, room: int) -> str:
    roll = rng.random()
    if roll < 0.6:
        return ""
    if roll < 0.85:
        return rng.choice(_SYSTEMS)
    text = rng.choice(_SYSTEMS) + " Notes: " + _filler(rng, rng.randint(3, max(4, room // 8)))
    return text if rng.random() < 0.8 else f"You help {payload_word(rng)}. " + text


def draw_item(rng: random.Random, skill: str, held_out: bool) -> Item:
    """An item of a single-turn skill from the wanted side of the split."""
    while True:
        item = SINGLE_TURN[skill](rng)
        if item.held_out == held_out:
            return item


class Composer:
    """Builds chats from training items only."""

    def __init__(self, rng: random.Random, weights: Sequence[float] | None = None) -> None:
        """``weights``, in the order of ``WEIGHTS``, may change while chats are made."""
        self.rng = rng
        self.skills = list(WEIGHTS)
        self.weights = weights if weights is not None else list(WEIGHTS.values())

    def chat(self, length_of: Callable[[str], int], room: int) -> tuple[list[Message], list[dict[str, Any]]]:
        """Turns of mixed skills that fill about ``room`` tokens."""
        rng = self.rng
        with_tools = rng.random() < (0.45 if room > 160 else 0.0)
        messages: list[Message] = []
        tools: list[dict[str, Any]] = []
        told: dict[str, str] = {}
        pending: list[Item] = []
        if with_tools:
            pending = [self._tool_item() for _ in range(1 if room < 400 else rng.randint(1, 4))]
            by_name = {item.tools[0]["function"]["name"]: item for item in pending}
            pending = list(by_name.values())
            tools = offered_tools(rng, [item.tools[0] for item in pending])
        system = _system(rng, room)
        if system:
            messages.append({"role": "system", "content": system})
        used = sum(length_of(text) for text, _ in segments(messages, tools))
        focus = rng.choices(self.skills, self.weights)[0] if rng.random() < 0.3 else None
        turns = 0
        while used < room or turns == 0:
            turns += 1
            if pending and rng.random() < 0.6:
                item = pending.pop()
            elif not with_tools and rng.random() < 0.02:
                item = missing_tool(rng)
                if item.held_out:
                    continue
            else:
                skill = focus if focus and rng.random() < 0.7 else rng.choices(self.skills, self.weights)[0]
                item = self._memory(told) if skill == "memory" else draw_item(rng, skill, held_out=False)
                if (
                    with_tools
                    and skill == "refusal"
                    and any(mark in item.messages[0]["content"] for mark in ("*", "times"))
                ):
                    continue  # a multiply tool may be on offer
            used += sum(length_of(text) for text, _ in segments(item.messages, []))
            messages += item.messages
        return messages, tools

    def _tool_item(self) -> Item:
        while True:
            item = tool_item(self.rng, finish=True)
            if not item.held_out and not Item("", [], item.key.split("]")[0] + "]").held_out:
                return item

    def _memory(self, told: dict[str, str]) -> Item:
        rng = self.rng
        while True:
            kind = rng.choice(memory_skill.KINDS)
            if told and rng.random() < 0.5:
                kind = rng.choice(tuple(told))
            if kind in told or rng.random() < 0.1:
                return memory_skill.question(rng, kind, told.get(kind))
            item, value = memory_skill.statement(rng, kind)
            if not item.held_out:
                told[kind] = value
                return item


def held_out_chat(rng: random.Random, skill: str, turns_before: int = 0) -> tuple[list[Message], list[dict[str, Any]]]:
    """A chat whose last assistant message is the held-out answer to check."""
    messages: list[Message] = []
    tools: list[dict[str, Any]] = []
    if rng.random() < 0.4:
        messages.append({"role": "system", "content": rng.choice(_SYSTEMS)})
    if skill.startswith("tool_"):
        item = tool_item(rng, finish=skill == "tool_answer")
        while not item.held_out:
            item = tool_item(rng, finish=skill == "tool_answer")
        tools = offered_tools(rng, item.tools)
    elif skill == "memory":
        kind = rng.choice(memory_skill.KINDS)
        told, value = memory_skill.statement(rng, kind)
        while kind != "color" and not told.held_out:
            told, value = memory_skill.statement(rng, kind)
        messages += told.messages
        item = memory_skill.question(rng, kind, value)
    else:
        item = draw_item(rng, skill, held_out=True)
    for _ in range(turns_before):
        other = rng.choice(tuple(SINGLE_TURN))
        messages += draw_item(rng, other, held_out=True).messages
    return messages + item.messages, tools
