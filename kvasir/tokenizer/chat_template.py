"""Chat messages to the text a model was trained on: its Jinja template, rendered in a sandbox.

A template comes from a checkpoint or from a request, so it is foreign code: it runs in Jinja's immutable
sandbox with its output and time bounded, and whatever it raises becomes a UserError that names its line.
"""

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from kvasir.errors import UserError
from kvasir.tokenizer.template_sandbox import MAX_CHARS, Sandbox

MAX_TEMPLATE_CHARS = 1 << 20
CONTINUE_MARK = "<kvasir-continues-here-7f3a>"

ContentFormat = Literal["string", "openai"]
Message = dict[str, Any]


class _RaisedByTemplate(TemplateError):
    """The template itself called raise_exception."""


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; serving only prints its body."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise _RaisedByTemplate(str(message))


@lru_cache(maxsize=1)
def _environment() -> Sandbox:
    env = Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    env.filters["tojson"] = _tojson
    env.globals["raise_exception"] = _raise_exception
    env.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    env.bound_filters()
    return env


@lru_cache(maxsize=64)
def _compiled(source: str) -> Any:
    if len(source) > MAX_TEMPLATE_CHARS:
        raise UserError(
            f"the chat template has {len(source)} characters, the bound is {MAX_TEMPLATE_CHARS}.", param="chat_template"
        )
    try:
        return _environment().from_string(source)
    except TemplateSyntaxError as error:
        raise UserError(
            f"the chat template does not parse: {error.message} (line {error.lineno}).", param="chat_template"
        ) from error


@lru_cache(maxsize=64)
def content_format(source: str) -> ContentFormat:
    """Whether a template walks over a message's content ("openai": a list of parts) or prints it ("string")."""
    tree = _parse(source)
    names = {"content"}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and _is_content(assign.node, names):
            names.add(assign.target.name)
    for loop in tree.find_all(nodes.For):
        if _is_content(loop.iter, names):
            return "openai"
    return "string"


def _parse(source: str) -> nodes.Template:
    _compiled(source)  # a template that does not parse is refused with its line
    return _environment().parse(source)


@lru_cache(maxsize=64)
def _tests_for_string(source: str) -> bool:
    return any(test.name == "string" for test in _parse(source).find_all(nodes.Test))


def _is_content(node: nodes.Node | None, names: set[str]) -> bool:
    while isinstance(node, nodes.Filter) or (isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)):
        node = node.node
    if isinstance(node, nodes.Name):
        return node.name in names
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    return isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const) and node.arg.value == "content"


def render_chat(
    source: str,
    messages: list[Message],
    *,
    tools: list[dict[str, Any]] | None = None,
    documents: list[dict[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool | str = False,
    variables: dict[str, Any] | None = None,
) -> str:
    """Renders the chat; the caller's messages stay as they are.

    Args:
        continue_final_message: the text ends inside the last message, for the model to go on. A string names the
            field that is continued (default "content").
        variables: what else the template sees: bos_token and its like, then the caller's own.

    Raises:
        UserError: messages of a wrong shape, or the template failed or refused them.
    """
    if continue_final_message and add_generation_prompt:
        raise UserError(
            "continue_final_message and add_generation_prompt exclude each other: set one of them to false.",
            param="continue_final_message",
        )
    template = _compiled(source)
    chat = [_plain_message(i, m, source) for i, m in enumerate(_checked(messages, "messages", required=True))]
    final = ""
    if continue_final_message:
        field = continue_final_message if isinstance(continue_final_message, str) else "content"
        if field not in source:
            raise UserError(f"the chat template does not use {field!r}, it cannot be continued.", param=field)
        final = _mark_final(chat[-1], field)
    names = {
        **(variables or {}),
        "messages": chat,
        "tools": None if tools is None else _checked(tools, "tools"),
        "documents": None if documents is None else _checked(documents, "documents"),
        "add_generation_prompt": add_generation_prompt,
    }
    try:
        text = _render(template, names)
    except TypeError as error:
        # Some templates paste tool-call arguments as the JSON string they came as.
        if not _restore_arguments(chat, messages):
            raise _user_error(error) from error
        text = _render_or_user_error(template, names)
    except Exception as error:
        raise _user_error(error) from error
    return _cut_at_mark(text, final) if continue_final_message else text


def _render_or_user_error(template: Any, names: dict[str, Any]) -> str:
    try:
        return _render(template, names)
    except Exception as error:
        raise _user_error(error) from error


def _render(template: Any, names: dict[str, Any]) -> str:
    parts, size = [], 0
    _environment().start()
    for part in template.generate(names):
        size += len(part)
        if size > MAX_CHARS:
            raise UserError(f"the rendered chat has more than {MAX_CHARS} characters.", param="messages")
        parts.append(part)
    return "".join(parts)


def _user_error(error: Exception) -> UserError:
    if isinstance(error, UserError):
        return error
    if isinstance(error, _RaisedByTemplate):
        return UserError(f"the chat template refused the messages: {error.message}", param="messages")
    line = _template_line(error)
    where = f" (line {line} of the template)" if line else ""
    return UserError(f"the chat template failed: {type(error).__name__}: {error}{where}.", param="messages")


def _template_line(error: Exception) -> int | None:
    line, trace = None, error.__traceback__
    while trace is not None:  # jinja maps its frames back to the template's own lines
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _checked(value: Any, name: str, required: bool = False) -> list[dict[str, Any]]:
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, dict) for item in value):
        raise UserError(f"{name} must be a list of objects.", param=name)
    if required and not value:
        raise UserError(f"{name} is empty: a chat needs at least one message.", param=name)
    return list(value)


def _plain_message(index: int, message: Message, source: str) -> Message:
    """A copy in the shape that templates expect."""
    if not isinstance(message.get("role"), str):
        raise UserError(f"messages[{index}] needs a role, got {message.get('role')!r}.", param="messages")
    message = dict(message)
    if "content" in message:
        message["content"] = _plain_content(index, message["content"], source)
    if isinstance(message.get("tool_calls"), (list, tuple)):
        message["tool_calls"] = [_parsed_call(call) for call in message["tool_calls"]]
    return message


def _plain_content(index: int, content: Any, source: str) -> Any:
    wanted = content_format(source)
    if content is None:
        return content
    if isinstance(content, str):
        if wanted == "openai" and not _tests_for_string(source):
            return [{"type": "text", "text": content}]
        return content
    if not isinstance(content, (list, tuple)):
        raise UserError(
            f"messages[{index}].content must be text or a list of parts, got {content!r:.80}.", param="messages"
        )
    parts = [_part(index, part) for part in content]
    if wanted == "openai":
        return parts
    for part in parts:
        if part["type"] != "text":
            raise UserError(
                f"messages[{index}].content has a part of type {part['type']!r}; "
                "this model's chat template takes text only.",
                param="messages",
            )
    return "\n".join(part["text"] for part in parts)


def _part(index: int, part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type", "text" if "text" in part else None) if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise UserError(f"messages[{index}].content has a part without a type: {part!r:.80}.", param="messages")
    if kind in ("text", "input_text", "output_text", "refusal"):
        text = part.get("text", part.get("refusal"))
        if not isinstance(text, str):
            raise UserError(f"messages[{index}].content has a text part without text.", param="messages")
        return {**part, "type": "text", "text": text}
    return dict(part)


def _parsed_call(call: Any) -> Any:
    """Arguments come as a JSON string on the wire; templates print them as an object."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        return call
    if not isinstance(arguments, dict):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _restore_arguments(chat: list[Message], messages: list[Message]) -> bool:
    changed = False
    for plain, given in zip(chat, messages, strict=True):
        if plain.get("tool_calls") and plain["tool_calls"] != given.get("tool_calls"):
            plain["tool_calls"] = given["tool_calls"]
            changed = True
    return changed


def _mark_final(message: Message, field: str) -> str:
    """Puts a mark behind the text to continue; returns that text."""
    value = message.get(field)
    if isinstance(value, str):
        message[field] = value + CONTINUE_MARK + " "
        return value
    if isinstance(value, list):
        parts = message[field] = copy.deepcopy(value)
        for part in reversed(parts):
            if "text" in part:
                text = part["text"]
                part["text"] = text + CONTINUE_MARK + " "
                return text
    raise UserError(f"continue_final_message: the last message has no text in {field!r} to continue.", param="messages")


def _cut_at_mark(text: str, final: str) -> str:
    """Cuts at the mark. The blank behind it tells whether the template trims; then the cut text is trimmed too."""
    at = text.rfind(CONTINUE_MARK)
    if at < 0 or final.strip() not in text:
        raise UserError(
            "continue_final_message: the chat template drops or changes the last message, it cannot be continued.",
            param="continue_final_message",
        )
    kept = text[at + len(CONTINUE_MARK) :].startswith(" ")
    return text[:at] if kept else text[:at].rstrip()


@dataclass(frozen=True)
class ChatTemplates:
    """The templates of one checkpoint, by name."""

    by_name: dict[str, str]

    def choose(self, wanted: str | None, with_tools: bool) -> str:
        """`wanted` is a name, a template itself, or None for the checkpoint's own."""
        if wanted is not None:
            return self.by_name.get(wanted, wanted)
        if with_tools and "tool_use" in self.by_name:
            return self.by_name["tool_use"]
        if "default" in self.by_name:
            return self.by_name["default"]
        if self.by_name:
            raise UserError(
                f"this model has the chat templates {sorted(self.by_name)} and no default: name one in chat_template.",
                param="chat_template",
            )
        raise UserError(
            "this model has no chat template. Give one with --chat-template or the request's chat_template, "
            "or use the completions interface with a plain prompt.",
            param="messages",
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_name)
