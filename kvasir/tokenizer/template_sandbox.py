"""Where chat templates run: Jinja's immutable sandbox, with bounds on time and on the size of what is built.

Jinja forbids a template to reach what it should not; it does not forbid to loop for hours or to fill the memory.
Loops and macros are compiled with a call at the head of their bodies that looks at the time, and whatever can make a
text much longer than its parts is asked for the length first.
"""

import functools
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_CHARS = 16 << 20
"""Of one text or list, and of all that is rendered."""
MAX_SECONDS = 2.0
"""CPU time of one rendering."""
_MAX_WIDTH = 10_000
_TICKS_PER_LOOK = 8
_WIDE = re.compile(r"\d{5,}|\*|:[^{}]*\{")
"""In a format: a width of five digits, one that is an argument, one inside another."""
_GROWING_METHODS = frozenset(("center", "ljust", "rjust", "zfill", "expandtabs", "replace", "join", "format"))
_GROWING_FILTERS = ("batch", "center", "format", "indent", "join", "replace", "slice", "tojson", "truncate", "wordwrap")


class TemplateTooSlow(SecurityError):
    """It used up its time."""


def _too_long() -> SecurityError:
    return SecurityError(f"a chat template may not build more than {MAX_CHARS} items at once")


def _size(value: Any) -> int:
    return len(value) if hasattr(value, "__len__") else 0


def _check_growth(name: str, subject: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Before a call that may make something long: its numbers are widths or counts, its texts are put in many times."""
    given = [*args, *kwargs.values()]
    if any(isinstance(v, int) and abs(v) > _MAX_WIDTH for v in given):
        raise SecurityError(f"a chat template may not use {name} with a number above {_MAX_WIDTH}")
    longest = max((len(v) for v in given if isinstance(v, str)), default=0)
    if name == "replace" and (_size(subject) + 1) * longest > MAX_CHARS:
        raise _too_long()
    if name == "join":
        parts = subject if isinstance(subject, (list, tuple)) else given[0] if given else ()
        if _size(parts) * (longest + 1) > MAX_CHARS or sum(map(_size, parts if _size(parts) else ())) > MAX_CHARS:
            raise _too_long()
    if name == "format" and isinstance(subject, str) and _WIDE.search(subject):
        raise SecurityError("a chat template may not format with widths that large, or with widths from arguments")


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    takes_context = hasattr(function, "jinja_pass_arg")

    @functools.wraps(function)  # takes over what Jinja has noted on it
    def call(*args: Any, **kwargs: Any) -> Any:
        own = args[1:] if takes_context else args
        _check_growth(name, own[0] if own else None, own[1:], kwargs)
        result = function(*args, **kwargs)
        if isinstance(result, str) and len(result) > MAX_CHARS:
            raise _too_long()
        return result

    return call


class Sandbox(ImmutableSandboxedEnvironment):
    """Call `start` before each rendering; its time is the calling thread's."""

    intercepted_binops = frozenset({"*", "**", "+", "%"})

    def __init__(self, **options: Any):
        super().__init__(**options)
        self._time = threading.local()
        self.globals.pop("lipsum", None)  # makes text out of nothing, as much as asked for

    def bound_filters(self) -> None:
        """Once all filters are in place."""
        for name in _GROWING_FILTERS:
            self.filters[name] = _bounded(name, self.filters[name])

    def start(self) -> None:
        self._time.end, self._time.ticks = time.thread_time() + MAX_SECONDS, 0

    def tick(self) -> str:
        """Called at the head of each turn of a loop and of each call of a macro."""
        self._time.ticks = ticks = self._time.ticks + 1
        if ticks % _TICKS_PER_LOOK == 0 and time.thread_time() > self._time.end:
            raise TemplateTooSlow(f"a chat template may run for {MAX_SECONDS:g} s")
        return ""

    def concat_texts(self, *parts: Any) -> str:
        """`a ~ b`."""
        texts = [str(part) for part in parts]
        if sum(map(len, texts)) > MAX_CHARS:
            raise _too_long()
        return "".join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**":
            if not all(isinstance(v, (int, float)) and abs(v) < 1 << 16 for v in (left, right)):
                raise SecurityError("a chat template may not compute powers of large numbers")
        elif operator == "+":
            if _size(left) + _size(right) > MAX_CHARS:
                raise _too_long()
        elif operator == "%":
            _check_growth("format", left, (), {})
        else:
            for many, times in ((left, right), (right, left)):
                if isinstance(times, int) and _size(many) * times > MAX_CHARS:
                    raise _too_long()
            if all(isinstance(v, int) and abs(v) > 1 << 64 for v in (left, right)):
                raise SecurityError("a chat template may not multiply numbers that large")
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        subject, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(subject, str) and name in _GROWING_METHODS:
            _check_growth(name, subject, args, kwargs)
        return super().call(__context, __obj, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Jinja asks for every attribute; what it gives back in place of `str.format` is no method any more."""
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _check_growth("format", value.__self__, (), {})
        return wrapped

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        for node in list(source.find_all((nodes.For, nodes.Macro, nodes.CallBlock))):
            call = self._call_own("tick", [], node)
            node.body.insert(0, nodes.ExprStmt(call, lineno=node.lineno))  # type: ignore[attr-defined]
        _ConcatVisitor(self).visit(source)
        source.set_environment(self)
        return super()._generate(source, *args, **kwargs)

    def _call_own(self, name: str, args: list[nodes.Expr], at: nodes.Node) -> nodes.Call:
        """An attribute of the environment, which no variable of a template can stand in front of."""
        own = nodes.EnvironmentAttribute(name, lineno=at.lineno)
        return nodes.Call(own, args, [], None, None, lineno=at.lineno)


class _ConcatVisitor:
    """`a ~ b ~ c` into a call that looks at the length."""

    def __init__(self, sandbox: Sandbox):
        self._sandbox = sandbox

    def visit(self, node: nodes.Node) -> None:
        for name, value in node.iter_fields():
            if isinstance(value, nodes.Node):
                setattr(node, name, self._replaced(value))
            elif isinstance(value, list):
                setattr(node, name, [self._replaced(v) if isinstance(v, nodes.Node) else v for v in value])

    def _replaced(self, node: nodes.Node) -> nodes.Node:
        self.visit(node)
        if isinstance(node, nodes.Concat):
            return self._sandbox._call_own("concat_texts", node.nodes, node)
        return node
