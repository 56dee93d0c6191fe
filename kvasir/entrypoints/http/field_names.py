"""Errors of the chat path, told to the caller of another API in the words of that API."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from kvasir.errors import UserError


@contextmanager
def renamed(names: dict[str, str]) -> Iterator[None]:
    """Chat's field -> the field that the caller sent.

    A name without an underscore is also a word of the language, and its field is a list with other indices: it is
    replaced in `param` only, and whole.
    """
    try:
        yield
    except UserError as e:
        for chat_name, name in names.items():
            is_word = "_" not in chat_name
            if e.param is not None and re.match(rf"{chat_name}\b", e.param):
                e.param = name if is_word else name + e.param.removeprefix(chat_name)
            if not is_word:
                e.message = re.sub(rf"\b{chat_name}\b", name, e.message)
        raise
