"""Templates render as in transformers, and fail as the caller's error, never as ours."""

import json
import random
from typing import Any

import pytest

from kvasir.errors import UserError
from kvasir.tokenizer import content_format, render_chat

USER = {"role": "user", "content": "hi"}
CHATML = (
    "{%- if tools %}\n<tools>\n    {%- for tool in tools %}\n{{ tool | tojson }}\n    {%- endfor %}\n</tools>\n"
    "{%- endif %}\n"
    "{% for message in messages %}\n"
    "  {% if loop.index0 == 3 %}{% break %}{% endif %}\n"
    "<|im_start|>{{ message['role'] }}\n{% if message.content %}{{ message['content'] | trim }}{% endif %}"
    "{% generation %}{% for call in message.tool_calls or [] %}{{ call.function.arguments | tojson(indent=2) }}"
    "{% endfor %}{% endgeneration %}<|im_end|>\n{% endfor %}\n"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if thinking is defined %}<think>{% endif %}{% endif %}"
)
PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{{ '|' }}{% endfor %}"
    "{% if add_generation_prompt %}>{% endif %}"
)
TRIMMED = PLAIN.replace("m.content", "m.content | trim")
PARTS = (
    "{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}<img>{% endif %}{% endfor %}"
    "{% endif %}{% endfor %}"
)


def theirs(source: str, messages: list[dict[str, Any]], **options: Any) -> str:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    return utils.render_jinja_template([messages], chat_template=source, **options)[0][0]


@pytest.mark.parametrize("source", [CHATML, PLAIN, TRIMMED, PARTS])
@pytest.mark.parametrize("seed", range(3))
def test_equals_transformers(source: str, seed: int) -> None:
    rng = random.Random(seed)
    words = ["hé", " <b>&'\" ", "{{ 7 }}", "\n", "你好", " tail  ", "x"]
    tool = {"type": "function", "function": {"name": "f", "description": "<a> é", "parameters": {"b": [1, None]}}}
    for _ in range(40):
        chat = [
            {"role": rng.choice(("system", "user", "assistant")), "content": "".join(rng.choices(words, k=3))}
            for _ in range(rng.randrange(1, 6))
        ]
        options = {"tools": rng.choice((None, [tool])), "add_generation_prompt": rng.random() < 0.5}
        extra = {"thinking": True} if rng.random() < 0.5 else {}
        assert render_chat(source, chat, **options, variables=extra) == theirs(source, chat, **options, **extra)
        if not chat[-1]["content"].strip() or source == CHATML:
            continue
        ours = render_chat(source, chat, add_generation_prompt=False, continue_final_message=True)
        assert ours == theirs(source, chat, continue_final_message=True)


def test_continues_the_last_text_part() -> None:
    chat = [USER, {"role": "assistant", "content": [{"type": "text", "text": "The sum is "}]}]
    ours = render_chat(PARTS, chat, add_generation_prompt=False, continue_final_message=True)
    assert ours == theirs(PARTS, chat, continue_final_message=True) == "[user]hi[assistant]The sum is "
    assert chat[1]["content"] == [{"type": "text", "text": "The sum is "}]
    with pytest.raises(UserError, match="drops or changes"):
        render_chat("{{ messages[0].content }}", chat, add_generation_prompt=False, continue_final_message=True)
    with pytest.raises(UserError, match="exclude each other"):
        render_chat(PLAIN, chat, continue_final_message=True)


def test_tool_call_arguments_become_an_object_but_strings_where_a_template_needs_them() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1, "é"]}'}}
    chat = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    parsed = [USER, {"role": "assistant", "content": None, "tool_calls": [json.loads(json.dumps(call))]}]
    parsed[1]["tool_calls"][0]["function"]["arguments"] = {"a": [1, "é"]}
    assert render_chat(CHATML, chat) == theirs(CHATML, parsed, add_generation_prompt=True)
    assert call["function"]["arguments"] == '{"a": [1, "é"]}'
    pastes = "{% for c in messages[1].tool_calls %}{{ '<' + c.function.arguments + '>' }}{% endfor %}"
    assert render_chat(pastes, chat) == '<{"a": [1, "é"]}>'
    call["function"]["arguments"] = "not json"
    assert '"not json"' in render_chat(CHATML, chat)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        (PLAIN, "string"),
        (CHATML, "string"),
        (PARTS, "openai"),
        ("{% for m in messages %}{% set c = m['content'] %}{% for x in c %}{{ x }}{% endfor %}{% endfor %}", "openai"),
        ("{% macro t(content) %}{% for p in content %}{{ p.text }}{% endfor %}{% endmacro %}{{ t(m.content) }}",
         "openai"),
        ("{% for p in messages[0]['content'] | selectattr('type') %}{{ p }}{% endfor %}", "openai"),
        ("{% for m in messages[1:] %}{{ m.content }}{% endfor %}", "string"),
    ],
)  # fmt: skip
def test_content_format(source: str, wanted: str) -> None:
    assert content_format(source) == wanted


def test_parts_and_strings_reach_a_template_in_the_shape_it_reads() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}]}]
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]
    assert render_chat(PLAIN, parts, add_generation_prompt=False) == "[user]a\nb|"
    assert render_chat(PARTS, parts) == "[user]ab"
    assert render_chat(PARTS, image) == "[user]<img>"
    only_parts = "{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
    assert render_chat(only_parts, [USER]) == "hi"
    with pytest.raises(UserError, match="'image_url'; this model's chat template takes text only"):
        render_chat(PLAIN, image)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("a\n{% if %}", r"does not parse: .*\(line 2\)"),
        ("\n\n{{ raise_exception('roles must alternate') }}", "refused the messages: roles must alternate"),
        ("\n{{ messages.nothing.more }}", r"UndefinedError: .* \(line 2 of the template\)"),
        ("\n\n{{ 1 / 0 }}", r"ZeroDivisionError: .* \(line 3 of the template\)"),
        ("{{ 'x' + 1 }}", r"TypeError: .* \(line 1 of the template\)"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ 'x' * 1000000000 }}", "may not build more than"),
        ("{{ (10 ** 9) ** (10 ** 9) }}", "powers of large numbers"),
        ("{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}", "has more than 16777216 characters"),
        ("{% for i in range(9999999) %}{% endfor %}", "OverflowError"),
    ],
)
def test_what_a_template_raises_is_the_users_error(source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        render_chat(source, [USER])


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "messages is empty"),
        ("hi", "must be a list of objects"),
        (["hi"], "must be a list of objects"),
        ([{"content": "hi"}], r"messages\[0\] needs a role"),
        ([USER, {"role": "user", "content": 3}], r"messages\[1\].content must be text or a list of parts"),
        ([{"role": "user", "content": [{"no": 1}]}], "a part without a type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "a text part without text"),
    ],
)
def test_broken_messages(messages: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        render_chat(PLAIN, messages)
