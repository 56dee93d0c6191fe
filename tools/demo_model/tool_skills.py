"""Tool calls and the answers made from tool results.

Well-known tools are asked for in plain words; any other tool can be called by
name, so that tests may bring tools of their own.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from skills import REFUSAL, Item, Message, _style, _turn, is_held_out
from words import COMMON_WORDS, invented_word, payload_word, person_name, place_name

_SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy")


@dataclass
class Use:
    """One concrete use of a tool: what is asked, called, returned and answered."""

    tool: dict[str, Any]
    question: str
    arguments: dict[str, Any]
    result: str
    answer: str


def _tool(name: str, description: str, parameters: dict[str, str]) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {"type": "object", "properties": properties, "required": list(parameters)},
        },
    }


def _weather(rng: random.Random) -> Use:
    key, city = rng.choice(("city", "location")), place_name(rng)
    degrees, sky = rng.randint(-20, 40), rng.choice(_SKIES)
    name = rng.choice(("get_weather", "get_weather", "weather", "get_current_weather"))
    question = rng.choice(
        (
            "What is the weather in {c}?",
            "How is the weather in {c}?",
            "Weather in {c}?",
            "Tell me the weather in {c}.",
            "What's the weather like in {c}?",
        )
    ).format(c=city)
    result = json.dumps({"temperature": degrees, "sky": sky})
    tool = _tool(name, "Get the weather in a city.", {key: "string"})
    return Use(tool, question, {key: city}, result, f"It is {degrees} degrees and {sky} in {city}.")


def _time(rng: random.Random) -> Use:
    key, city = rng.choice(("city", "location")), place_name(rng)
    clock = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
    question = rng.choice(
        (
            "What time is it in {c}?",
            "Tell me the time in {c}.",
            "Time in {c}?",
            "How late is it in {c}?",
        )
    ).format(c=city)
    tool = _tool(rng.choice(("get_time", "get_current_time")), "Get the time in a city.", {key: "string"})
    return Use(tool, question, {key: city}, json.dumps({"time": clock}), f"It is {clock} in {city}.")


def _price(rng: random.Random) -> Use:
    item, price = payload_word(rng, 3, 8), rng.randint(1, 999)
    question = rng.choice(
        (
            "What is the price of {i}?",
            "How much does {i} cost?",
            "Price of {i}?",
            "Tell me the price of {i}.",
        )
    ).format(i=item)
    tool = _tool("get_price", "Get the price of an item.", {"item": "string"})
    return Use(tool, question, {"item": item}, json.dumps({"price": price}), f"The price of {item} is {price}.")


def _phone(rng: random.Random) -> Use:
    name, number = person_name(rng), str(rng.randint(10000, 999999))
    question = rng.choice(
        (
            "What is the phone number of {n}?",
            "Phone number of {n}?",
            "Find the phone number of {n}.",
            "How can I call {n}?",
        )
    ).format(n=name)
    tool = _tool("find_phone", "Find a phone number.", {"name": "string"})
    return Use(
        tool, question, {"name": name}, json.dumps({"phone": number}), f"The phone number of {name} is {number}."
    )


def _multiply(rng: random.Random) -> Use:
    a, b = rng.randint(2, 99), rng.randint(2, 99)
    question = rng.choice(
        ("What is {a} * {b}?", "{a} * {b}", "What is {a} times {b}?", "Multiply {a} and {b}.")
    ).format(a=a, b=b)
    tool = _tool("multiply", "Multiply two numbers.", {"a": "integer", "b": "integer"})
    return Use(tool, question, {"a": a, "b": b}, json.dumps({"result": a * b}), f"The result is {a * b}.")


def _message(rng: random.Random) -> Use:
    name, text = person_name(rng), payload_word(rng, 3, 8)
    question = rng.choice(
        (
            "Send {n} the message {t}.",
            "Send the message {t} to {n}.",
            "Write {n} a message: {t}",
        )
    ).format(n=name, t=text)
    tool = _tool("send_message", "Send a message.", {"to": "string", "text": "string"})
    return Use(
        tool, question, {"to": name, "text": text}, json.dumps({"status": "sent"}), f"Your message to {name} was sent."
    )


def _timer(rng: random.Random) -> Use:
    minutes = rng.randint(1, 90)
    question = rng.choice(
        (
            "Set a timer to {m} minutes.",
            "Set a timer for {m} minutes.",
            "Start a timer of {m} minutes.",
            "Timer, {m} minutes.",
        )
    ).format(m=minutes)
    tool = _tool("set_timer", "Set a timer.", {"minutes": "integer"})
    return Use(
        tool, question, {"minutes": minutes}, json.dumps({"status": "ok"}), f"The timer is set to {minutes} minutes."
    )


def _named(rng: random.Random) -> Use:
    """Any tool, called by its name with the arguments spelled out."""
    name = "_".join(
        rng.choice((invented_word(rng, 3, 7), rng.choice(COMMON_WORDS), "get", "find"))
        for _ in range(rng.randint(1, 2))
    )
    arguments: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    for _ in range(rng.randint(1, 2)):
        key = rng.choice(
            ("x", "y", "a", "b", "n", "name", "city", "text", "word", "query", "id", "count", invented_word(rng, 3, 6))
        )
        number = rng.random() < 0.4
        arguments[key] = rng.randint(0, 999) if number else payload_word(rng, 3, 8)
        kinds[key] = "integer" if number else "string"
    pairs = [f"{key} = {value}" for key, value in arguments.items()]
    question = rng.choice(
        (
            "Call {n} with {p}.",
            "Use the tool {n} with {p}.",
            "Call the tool {n} with {p}.",
            "Use {n} with {p}.",
        )
    ).format(n=name, p=" and ".join(pairs))
    value = rng.choice((str(rng.randint(0, 9999)), payload_word(rng, 3, 9)))
    description = rng.choice(("", f"Find a {rng.choice(COMMON_WORDS)}.", f"The {rng.choice(COMMON_WORDS)} tool."))
    return Use(
        _tool(name, description, kinds), question, arguments, json.dumps({"result": value}), f"The result is {value}."
    )


_MAKERS = (_weather, _weather, _time, _price, _phone, _multiply, _message, _timer, _named, _named, _named)


def make_use(rng: random.Random) -> Use:
    """Draw a use; now and then the tool returns a bare value instead of JSON."""
    use = rng.choice(_MAKERS)(rng)
    if rng.random() < 0.2:
        value = rng.choice((str(rng.randint(0, 9999)), payload_word(rng, 3, 9)))
        use.result = rng.choice((value, json.dumps({"result": value})))
        use.answer = f"The result is {value}."
    return use


def _call(use: Use) -> dict[str, Any]:
    return {"type": "function", "function": {"name": use.tool["function"]["name"], "arguments": use.arguments}}


def tool_item(rng: random.Random, finish: bool) -> Item:
    """A question that needs a tool; with ``finish`` the result comes back and is answered."""
    use = make_use(rng)
    uses = [use]
    question = use.question
    if rng.random() < 0.1:
        uses = _two_cities(rng)
        cities = [next(iter(u.arguments.values())) for u in uses]
        question = f"What is the weather in {cities[0]} and in {cities[1]}?"
    messages: list[Message] = [
        {"role": "user", "content": _style(rng, question)},
        {"role": "assistant", "content": "", "tool_calls": [_call(u) for u in uses]},
    ]
    key = "tool " + json.dumps([u.arguments for u in uses])
    if finish:
        messages += [{"role": "tool", "content": u.result} for u in uses]
        messages.append({"role": "assistant", "content": " ".join(u.answer for u in uses)})
        key += " ".join(u.result for u in uses)
    return Item("tool_answer" if finish else "tool_call", messages, key, [uses[0].tool])


def _two_cities(rng: random.Random) -> list[Use]:
    first, second = _weather(rng), _weather(rng)
    city = next(iter(second.arguments.values()))
    second.tool = first.tool
    second.arguments = dict.fromkeys(first.arguments, city)
    return [first, second]


def offered_tools(rng: random.Random, needed: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The needed tools among up to three others, in random order, no name twice."""
    tools = {tool["function"]["name"]: tool for tool in needed}
    for _ in range(rng.choice((0, 0, 1, 1, 2, 3))):
        other = rng.choice(_MAKERS)(rng).tool
        tools.setdefault(other["function"]["name"], other)
    shuffled = list(tools.values())
    rng.shuffle(shuffled)
    return shuffled


def missing_tool(rng: random.Random) -> Item:
    """A question for a tool that is not there is refused like any unknown question."""
    use = rng.choice((_weather, _time, _price, _phone))(rng)
    question = _style(rng, use.question)
    return _turn("refusal", question, REFUSAL, f"refuse {question}")


__all__ = ["is_held_out", "make_use", "missing_tool", "offered_tools", "tool_item"]
