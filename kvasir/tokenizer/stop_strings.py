"""Finds stop strings in a text that arrives in pieces, and holds back what may still become one.

The rule does not depend on how the text was split: the stop string whose last letter comes first wins;
of two that end on the same letter, the longer one.
"""

from collections.abc import Sequence


class _Needle:
    """One stop string and how much of it the text's end matches (Knuth-Morris-Pratt)."""

    __slots__ = ("fail", "matched", "text")

    def __init__(self, text: str):
        self.text = text
        self.matched = 0
        self.fail = fail = [0] * len(text)  # fail[i]: longest proper prefix of text that ends text[: i + 1]
        k = 0
        for i in range(1, len(text)):
            while k and text[k] != text[i]:
                k = fail[k - 1]
            k += text[k] == text[i]
            fail[i] = k

    def advance(self, chunk: str, start: int = 0) -> int:
        """Reads `chunk[start:]`; returns the index after the first full match, or -1."""
        text, fail, k, i = self.text, self.fail, self.matched, start
        while i < len(chunk):
            if k == 0:  # nothing begun: jump to the next place where it could begin
                i = chunk.find(text[0], i)
                if i < 0:
                    break
                k = 1
            else:
                letter = chunk[i]
                while k and text[k] != letter:
                    k = fail[k - 1]
                k += text[k] == letter
            i += 1
            if k == len(text):
                self.matched = fail[k - 1]  # where to go on, should the caller ignore this match
                return i
        self.matched = k
        return -1


class StopChecker:
    """`push` text in, get back the text that may be shown.

    Args:
        stop: non-empty strings.
        include: the found stop string stays in the text (and nothing is held back).

    Attributes:
        matched: the stop string found, None so far.
    """

    __slots__ = ("_firsts", "_held", "_include", "_needles", "_quiet", "matched")

    def __init__(self, stop: Sequence[str], include: bool = False):
        self._needles = [_Needle(s) for s in stop]
        self._firsts = tuple({s[0] for s in stop})
        self._quiet = True  # no stop string has begun, so that only its first letter can begin one
        self._include = include
        self._held = ""
        self.matched: str | None = None

    def push(self, chunk: str, armed: bool = True) -> str:
        """Returns newly released text. With `armed` False a stop string that ends in `chunk` does not count."""
        if self.matched is not None or not chunk:
            return ""
        if self._quiet:
            for first in self._firsts:
                if first in chunk:
                    break
            else:
                return chunk
        end, found = self._search(chunk) if armed else self._skip(chunk)
        if found is not None:
            self.matched = found
            return self._cut(chunk, end, len(found))
        longest = max((needle.matched for needle in self._needles), default=0)
        self._quiet = longest == 0
        if self._include:
            return chunk
        text = self._held + chunk
        keep = len(text) - longest
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """The text ended: what was held back is ordinary text after all."""
        held, self._held = self._held, ""
        return held

    def _search(self, chunk: str) -> tuple[int, str | None]:
        best, found = len(chunk) + 1, None
        for needle in self._needles:
            if needle.matched == 0 and needle.text[0] not in chunk:
                continue
            end = needle.advance(chunk)
            if end != -1 and (end < best or (end == best and len(needle.text) > len(found or ""))):
                best, found = end, needle.text
        return best, found

    def _skip(self, chunk: str) -> tuple[int, None]:
        for needle in self._needles:
            end = needle.advance(chunk)
            while end != -1:
                end = needle.advance(chunk, end)
        return -1, None

    def _cut(self, chunk: str, end: int, length: int) -> str:
        if self._include:
            return chunk[:end]
        text = self._held + chunk
        stop_at = len(self._held) + end - length
        self._held = ""
        return text[: max(stop_at, 0)]
