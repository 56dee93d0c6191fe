"""Text that comes in pieces, read as if it were whole.

A format is a generator over a `Reader`: where it needs text that has not come, the reader yields. The format never
sees where the text was cut, so it cannot depend on it.
"""

import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A routine that may have to wait for text, and what it returns in the end."""

SPACES = " \t\r\n"


class Tags:
    """Marks to look for: which comes first, and how much of a text's end may still become one."""

    def __init__(self, *texts: str):
        self.texts = texts
        self._search = re.compile("|".join(map(re.escape, texts))).search
        self._starts = frozenset(t[:n] for t in texts for n in range(1, len(t)))
        self._longest = max(map(len, texts)) - 1

    def find(self, text: str, at: int) -> tuple[int, str] | None:
        found = self._search(text, at)
        return (found.start(), found.group()) if found else None

    def held(self, text: str, at: int) -> int:
        """Length of the longest end of `text` with which a tag may begin."""
        for n in range(min(self._longest, len(text) - at), 0, -1):
            if text[-n:] in self._starts:
                return n
        return 0


class Reader:
    """Places are counted from the beginning of the whole text, so they outlive what is forgotten."""

    __slots__ = ("_base", "_ended", "_pin", "_text", "at")

    def __init__(self) -> None:
        self._text = ""
        self._base = 0
        self._pin: int | None = None
        self._ended = False
        self.at = 0

    def add(self, text: str) -> None:
        cut = (self.at if self._pin is None else self._pin) - self._base
        self._text = self._text[cut:] + text
        self._base += cut

    def end(self) -> None:
        self._ended = True

    def pin(self) -> int:
        """From here on the text is kept, so that one can `rewind` to here."""
        if self._pin is None:
            self._pin = self.at
        return self.at

    def unpin(self) -> None:
        self._pin = None

    def rewind(self, at: int) -> None:
        self.at = at

    def since(self, at: int) -> str:
        return self._text[at - self._base : self.at - self._base]

    def peek(self) -> Steps[str]:
        """The next character; empty at the end."""
        while self.at - self._base == len(self._text):
            if self._ended:
                return ""
            yield
        return self._text[self.at - self._base]

    def has(self, text: str) -> Steps[bool]:
        """Consumes `text` if it comes next. No more is read than shows the difference."""
        while True:
            at = self.at - self._base
            n = min(len(text), len(self._text) - at)
            if not self._text.startswith(text[:n], at):
                return False
            if n == len(text):
                self.at += n
                return True
            if self._ended:
                return False
            yield

    def spaces(self) -> Steps[str]:
        return (yield from self.run(_SPACES))

    def run(self, pattern: re.Pattern[str], sink: Callable[[str], None] | None = None) -> Steps[str]:
        """Consumes all characters of the class `pattern` (written as `[...]*`); they go to `sink`, or are returned."""
        parts: list[str] = []
        while True:
            at = self.at - self._base
            end = pattern.match(self._text, at).end()  # type: ignore[union-attr]
            if end > at:
                self.at = self._base + end
                (sink or parts.append)(self._text[at:end])
            if end < len(self._text) or self._ended:
                return "".join(parts)
            yield

    def rest(self, sink: Callable[[str], None]) -> Steps[None]:
        yield from self.run(_ALL, sink)

    def after_spaces(self, text: str) -> Steps[bool]:
        """Consumes spaces and then `text`, or nothing."""
        start, pinned = self.at, self._pin
        self.pin()
        yield from self.spaces()
        found = yield from self.has(text)
        if not found:
            self.at = start
        self._pin = pinned
        return found

    def until(self, tags: Tags, sink: Callable[[str], None]) -> Steps[str]:
        """Text before the first of the tags goes to `sink`, as soon as it cannot be part of one; returns the tag.

        The reader then stands at the tag. Without one, all of the text is given and "" returned.
        """
        while True:
            at = self.at - self._base
            found = tags.find(self._text, at)
            if found is not None:
                end = found[0]
            else:
                end = len(self._text) - (0 if self._ended else tags.held(self._text, at))
            if end > at:
                self.at = self._base + end
                sink(self._text[at:end])
            if found is not None:
                return found[1]
            if self._ended:
                return ""
            yield


_SPACES = re.compile(f"[{SPACES}]*")
_ALL = re.compile(r"(?s:.)*")
