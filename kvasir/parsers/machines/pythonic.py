"""Calls as a Python list of function calls with literal arguments: `[get_weather(city="Oslo"), now()]`."""

import ast
import re
from typing import Any

from kvasir.parsers.json_text import encode
from kvasir.parsers.output import Output
from kvasir.parsers.parser import Format
from kvasir.parsers.reader import Reader, Steps

MAX_CALL_CHARS = 1 << 18
_TAG = "<|python_start|>"
_END = "<|python_end|>"
_NAME_RUN = re.compile(r"[\w.]*")
_PLAIN_RUN = re.compile(r"""[^'"()\[\]{}]*""")
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_WORDS = {"true": True, "false": False, "null": None}


def pythonic(tool_names: frozenset[str]) -> Format:
    """A list at the beginning of an answer, of calls of known tools; a list of anything else is an answer."""

    def read(reader: Reader, out: Output) -> Steps[None]:
        start = reader.pin()
        yield from reader.after_spaces(_TAG)
        if not (yield from _calls(reader, out, tool_names)):
            reader.rewind(start)
        reader.unpin()
        yield from reader.rest(out.content)

    return read


def _calls(reader: Reader, out: Output, tool_names: frozenset[str]) -> Steps[bool]:
    if not (yield from reader.after_spaces("[")):
        return False
    made = False
    while True:
        rest = reader.pin() if made else reader.at
        if made and not (yield from reader.after_spaces(",")):
            break
        yield from reader.spaces()
        call = yield from _call(reader, tool_names)
        if call is None:
            if not made:
                return False
            reader.rewind(rest)
            break
        out.start(call[0])
        out.arguments(call[1])
        out.end()
        reader.unpin()
        made = True
    yield from reader.after_spaces("]")
    yield from reader.after_spaces(_END)
    return True


def _call(reader: Reader, tool_names: frozenset[str]) -> Steps[tuple[str, str] | None]:
    """One call -> name and arguments as JSON; None when it is not one. Read to its end before it is believed."""
    start = reader.at
    name = yield from reader.run(_NAME_RUN)
    if name not in tool_names or (yield from reader.peek()) != "(":
        return None
    if not (yield from _brackets(reader)):
        return None
    try:
        tree = ast.parse(reader.since(start).strip(), mode="eval").body
        if not isinstance(tree, ast.Call) or tree.args:
            return None
        return name, encode({_key(k): _literal(k.value) for k in tree.keywords})
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError, OverflowError):
        return None


def _brackets(reader: Reader) -> Steps[bool]:
    """From an opening bracket to its own closing one; brackets in strings do not count."""
    closers: list[str] = []
    start = reader.at
    while reader.at - start < MAX_CALL_CHARS:
        yield from reader.run(_PLAIN_RUN)
        c = yield from reader.peek()
        if not c:
            return False
        if c in "'\"":
            if not (yield from _string(reader, c)):
                return False
            continue
        yield from reader.has(c)
        if c in _CLOSERS:
            closers.append(_CLOSERS[c])
        elif not closers or c != closers.pop():
            return False
        if not closers:
            return True
    return False


_QUOTED = {quote: re.compile(rf"[^\\{quote}]*") for quote in "'\""}


def _string(reader: Reader, quote: str) -> Steps[bool]:
    quotes = quote
    yield from reader.has(quote)
    if (yield from reader.has(quote)):
        if not (yield from reader.has(quote)):
            return True
        quotes = quote * 3
    while True:
        yield from reader.run(_QUOTED[quote])
        if (yield from reader.has(quotes)):
            return True
        c = yield from reader.peek()
        if not c:
            return False
        yield from reader.has(c)
        if c == "\\":
            escaped = yield from reader.peek()
            yield from reader.has(escaped)


def _key(keyword: ast.keyword) -> str:
    if keyword.arg is None:
        raise ValueError("** is not a literal")
    return keyword.arg


def _literal(node: ast.expr) -> Any:
    """Literals only, with JSON's spelling of the three words; anything else is a ValueError."""
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as value):
            return value
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_dict_key(k): _literal(v) for k, v in zip(keys, values, strict=True)}
    raise ValueError(f"{type(node).__name__} is not a literal")


def _dict_key(node: ast.expr | None) -> str:
    if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
        raise ValueError("a key of an object is a string")
    return node.value
