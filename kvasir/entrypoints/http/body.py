"""Bytes of a request -> a checked struct. Everything is bounded: bytes, seconds, nesting."""

import asyncio
import re
from functools import cache
from typing import Any, TypeVar

import msgspec
from starlette.types import Receive, Scope

from kvasir.entrypoints.http.errors import BodyTimeoutError, BodyTooLargeError, ClientGone
from kvasir.errors import UserError

MAX_DEPTH = 32
"""Levels of lists and objects inside a free-form field (tools, template arguments)."""
MAX_NODES = 200_000

T = TypeVar("T", bound=msgspec.Struct)
_PATH = re.compile(r" - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$")


async def read_body(scope: Scope, receive: Receive, max_bytes: int, timeout_s: float) -> bytes:
    """Raises: BodyTooLargeError, BodyTimeoutError, ClientGone."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value) > max_bytes:
            raise _too_large(int(value), max_bytes)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > max_bytes:
                    raise _too_large(size, max_bytes)
                if not message.get("more_body", False):
                    return b"".join(parts)
    except TimeoutError:
        raise BodyTimeoutError(f"the request body did not arrive within {timeout_s:g} s.") from None


@cache
def _decoder(cls: type[T]) -> msgspec.json.Decoder[T]:
    return msgspec.json.Decoder(cls)


def decode(body: bytes, cls: type[T]) -> T:
    """Whatever the content type says: JSON that parses and fits the schema is taken.

    Raises:
        UserError: with the path of the field at fault.
    """
    try:
        return _decoder(cls).decode(body)
    except msgspec.ValidationError as e:
        raise _invalid(str(e)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise UserError(f"the request body is not valid JSON: {e}.") from None
    except RecursionError:
        raise UserError("the request body is nested too deeply.") from None


def convert(value: Any, cls: type[T], path: str = "") -> T:
    """A value from a free-form field, once it fits the schema of what it turned out to be.

    Raises:
        UserError: with the path of the field at fault, below `path`.
    """
    try:
        return msgspec.convert(value, cls)
    except msgspec.ValidationError as e:
        error = _invalid(str(e))
        below = error.param or ""
        if not below:
            raise UserError(f"{path}: {error.message.removeprefix('the request body: ')}", param=path) from None
        whole = below if not path else f"{path}{'' if below.startswith('[') else '.'}{below}"
        raise UserError(whole + error.message.removeprefix(below), param=whole) from None


def check_depth(value: Any, name: str) -> None:
    """Bounds a free-form field, so that whoever walks it later (the template) cannot be driven out of stack."""
    level, depth, nodes = [value], 0, 0
    while level:
        nodes += len(level)
        if depth > MAX_DEPTH or nodes > MAX_NODES:
            raise UserError(f"{name} may have {MAX_DEPTH} levels and {MAX_NODES} values; it has more.", param=name)
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
        level, depth = deeper, depth + 1


def _invalid(text: str) -> UserError:
    found = _PATH.search(text)
    path = found["path"] if found else ""
    missing = re.match(r"Object missing required field `(\w+)`", text)
    if missing:
        path = f"{path}.{missing[1]}" if path else missing[1]
        return UserError(f"{path} is required.", param=path)
    what = (text[: found.start()] if found else text).replace("`", "")
    return UserError(f"{path or 'the request body'}: {what}.", param=path or None)


def _too_large(size: int, bound: int) -> BodyTooLargeError:
    return BodyTooLargeError(
        f"the request body has {size} bytes or more, this server takes {bound} (--max-request-body)."
    )
