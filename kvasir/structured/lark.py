"""A format in llguidance's notation: Lark with schemas, special tokens and lazy lexemes in it."""

import json
import re
from collections.abc import Mapping
from collections.abc import Sequence as Items

from kvasir.structured.backend import GrammarError
from kvasir.structured.formats import (
    AnyText,
    ConstString,
    Format,
    Grammar,
    JsonSchema,
    Or,
    Regex,
    Sequence,
    Tag,
    TagsWithSeparator,
    TriggeredTags,
)

BLANKS = r" |\r?\n[ \t]{0,64}"
"""What may stand between parts of JSON unless the request says: one blank, or a line break and an indentation. That is
how JSON is written; with any number of blanks allowed, a model can get stuck in them."""

_TEXT = r"TEXT: /(.|\n)*/"


def write(fmt: Format, specials: Mapping[str, int]) -> str:
    """The format as llguidance reads it.

    Args:
        specials: text -> id of special tokens, which are named by id where their text appears in the format.

    Raises:
        GrammarError: the format's parts do not go together.
    """
    return _Writer(specials).write(fmt)


class _Writer:
    """Every part that needs a name of its own becomes a rule; what `_inline` returns stands in another rule's body."""

    def __init__(self, specials: Mapping[str, int]):
        self._specials = specials
        texts = sorted(filter(None, specials), key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, texts)) + ")").split if texts else lambda text: [text]
        self._rules: list[str] = []
        self._grammars: list[dict[str, str]] = []

    def write(self, fmt: Format) -> str:
        start = f"start: {self._inline(fmt)}"
        lark = "\n".join(["%llguidance {}", start, *self._rules, _TEXT])
        grammars = [{"name": "whole", "lark_grammar": lark}, *self._grammars]
        return lark if not self._grammars else json.dumps({"grammars": grammars})

    def _rule(self, body: str, *, terminal: bool = False, options: str = "") -> str:
        name = f"{'R' if terminal else 'r'}{len(self._rules)}"
        self._rules.append(f"{name}{options}: {body}")
        return name

    def _inline(self, fmt: Format) -> str:
        match fmt:
            case ConstString(value):
                return self._text(value)
            case JsonSchema():
                return self._rule(f"%json {json.dumps(_with_blanks(fmt))}")
            case Regex(pattern):
                return self._rule(_in_lark(pattern), terminal=True)
            case Grammar(grammar):
                name = f"g{len(self._grammars)}"
                self._grammars.append({"name": name, "lark_grammar": grammar})
                return f"@{name}"
            case AnyText():
                return "TEXT"
            case Sequence(elements):
                return " ".join(map(self._inline, elements)) or '""'
            case Or(elements):
                return self._either(elements)
            case Tag():
                return self._rule(self._tag(fmt.begin, fmt))
            case TagsWithSeparator():
                return self._separated(fmt)
            case TriggeredTags():
                return self._triggered(fmt)

    def _parts(self, text: str) -> list[str]:
        """Texts and special tokens, each as it is written."""
        parts = [part for part in self._split(text) if part]
        return [f"<[{self._specials[p]}]>" if p in self._specials else json.dumps(p) for p in parts]

    def _text(self, text: str) -> str:
        return " ".join(self._parts(text)) or '""'

    def _either(self, elements: Items[Format]) -> str:
        if not elements:
            raise GrammarError("an or-format has no elements")
        if all(isinstance(e, ConstString) and e.value and len(self._split(e.value)) == 1 for e in elements):
            # One lexeme is far quicker than a rule with thousands of branches.
            return self._rule(" | ".join(json.dumps(e.value) for e in elements), terminal=True)  # type: ignore[union-attr]
        some = [e for e in elements if e != ConstString("")]
        body = " | ".join(self._rule(self._inline(e)) for e in some) or '""'
        return f"({body})" + ("?" if len(some) < len(elements) and some else "")

    def _tag(self, begin: str, tag: Tag) -> str:
        """The body of a tag of which `begin` is still to come."""
        before, after = self._parts(begin), self._parts(tag.end)
        if isinstance(tag.content, (AnyText, Regex)) and after and not _is_special(after[0]):
            text = "TEXT" if isinstance(tag.content, AnyText) else _in_lark(tag.content.pattern)
            content = self._rule(f"{text} {after.pop(0)}", options="[lazy]")  # ends where that piece of text appears
        else:
            content = self._inline(tag.content)
        return " ".join([*before, content, *after])

    def _separated(self, fmt: TagsWithSeparator) -> str:
        if not fmt.tags:
            raise GrammarError("tags_with_separator has no tags")
        one = "(" + " | ".join(self._inline(tag) for tag in fmt.tags) + ")"
        more = "" if fmt.stop_after_first else f"({self._text(fmt.separator)} {one})*"
        body = f"{one} {more}".rstrip()
        return f"({body})" if fmt.at_least_one else f"({body})?"

    def _triggered(self, fmt: TriggeredTags) -> str:
        if not fmt.tags:
            raise GrammarError("triggered_tags has no tags")
        one = "(" + " | ".join(self._triggered_tag(tag, fmt.triggers) for tag in fmt.tags) + ")"
        if fmt.stop_after_first:
            return one if fmt.at_least_one else f"({one} | TEXT)"
        return f"{one}{'+' if fmt.at_least_one else '*'} TEXT"

    def _triggered_tag(self, tag: Tag, triggers: Items[str]) -> str:
        trigger = next((t for t in triggers if t and tag.begin.startswith(t)), None)
        if trigger is None:
            raise GrammarError(f"no trigger begins the tag {tag.begin!r:.100}")
        first, *rest = self._parts(trigger)
        head = f"TEXT {first}" if _is_special(first) else self._rule(f"TEXT {first}", options="[lazy]")
        return self._rule(" ".join([head, *rest, self._tag(tag.begin[len(trigger) :], tag)]))


def _with_blanks(fmt: JsonSchema) -> dict[str, object]:
    """The schema with the library's options in it; those that the schema brings are kept."""
    options: dict[str, object] = {"whitespace_pattern": BLANKS if fmt.whitespace is None else fmt.whitespace}
    if fmt.whitespace == "":
        options = {"whitespace_flexible": False}
    given = fmt.json_schema.get("x-guidance")
    return {**fmt.json_schema, "x-guidance": {**options, **(given if isinstance(given, dict) else {})}}


def _is_special(part: str) -> bool:
    return part.startswith("<")


def _in_lark(pattern: str) -> str:
    r"""`\d` is taken for the ten digits: what else counts as one depends on the version of Unicode."""
    from llguidance import regex_to_lark

    return f"/{regex_to_lark(pattern, 'd') or '(?:)'}/"
