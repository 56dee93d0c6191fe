"""The text of a delta -> reasoning, content and tool calls, one parser for each choice."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvasir.entrypoints.http.constraints import chat_structure
from kvasir.entrypoints.http.deltas import CallDelta, Delta
from kvasir.entrypoints.http.schema import TemplateFields
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.entrypoints.http.thinking import thought_marks
from kvasir.errors import UserError
from kvasir.logger import get_logger
from kvasir.messages import SamplingParams, ThinkingBudget
from kvasir.parsers import (
    ContentDelta,
    Event,
    Parser,
    ReasoningDelta,
    ReasoningFamily,
    ReasoningThenCalls,
    ToolArgumentsDelta,
    ToolCallStart,
    ToolFamily,
    ToolSchema,
    detect_tool_family,
    reasoning_family,
    tool_family,
)

if TYPE_CHECKING:
    from kvasir.tokenizer import Tokenizer

logger = get_logger(__name__)


class Structure:
    """Divides deltas. An answer that ended by itself after a complete call has ended for its calls."""

    def __init__(
        self,
        make_parser: Callable[[], Parser],
        num_choices: int,
        max_calls: int | None = None,
        keep_reasoning: bool = True,
    ):
        self._parsers = [make_parser() for _ in range(num_choices)]
        self._max_calls = max_calls
        self._keep_reasoning = keep_reasoning
        self._called = [False] * num_choices

    def __call__(self, delta: Delta) -> list[Delta]:
        parser = self._parsers[delta.index]
        events = parser.push(delta.text)
        finish, stop = delta.finish_reason, delta.stop_reason
        if finish is not None:
            events += parser.finish()
        delta.text, delta.finish_reason, delta.stop_reason = "", None, None
        deltas = [delta]
        for event in events:
            self._add(deltas, event)
        if finish == "stop" and self._called[delta.index]:
            finish = "tool_calls"
        deltas[-1].finish_reason, deltas[-1].stop_reason = finish, stop
        return deltas

    def _add(self, deltas: list[Delta], event: Event) -> None:
        last = deltas[-1]
        if isinstance(event, ContentDelta):
            if last.calls:
                deltas.append(last := Delta(last.index))
            last.text += event.text
        elif isinstance(event, ReasoningDelta):
            if self._keep_reasoning:
                if last.calls or last.text:
                    deltas.append(last := Delta(last.index))
                last.reasoning += event.text
        elif self._max_calls is not None and event.index >= self._max_calls:
            return
        elif isinstance(event, ToolCallStart):
            last.add_call(CallDelta(event.index, event.id, event.name))
        elif isinstance(event, ToolArgumentsDelta):
            last.add_call(CallDelta(event.index, arguments=event.text))
        elif event.complete:
            self._called[last.index] = True


class Structures:
    """Chooses the parsers of a server once, and of each request then."""

    def __init__(self, settings: ServerSettings, tokenizer: "Tokenizer | None"):
        name: str | None = settings.tool_call_parser
        if name == "auto":
            name = detect_tool_family(settings.chat_template or (tokenizer.chat_template if tokenizer else None))
            if name is not None:
                logger.info("tool calls are read as %s (seen in the chat template; --tool-call-parser)", name)
        self._tools = tool_family(name) if name not in (None, "none") else None
        reasoning = settings.reasoning_parser
        self._reasoning = reasoning_family(reasoning) if reasoning != "none" else None
        self._marks = thought_marks(self._reasoning, tokenizer)

    def keeps_special_tokens(self, request: TemplateFields) -> bool:
        """Whether the marks that the parsers look for would be lost with the special tokens."""
        tools, reasoning = self._families(request)
        return any(family is not None and family.special_tokens for family in (tools, reasoning))

    def constrain(self, request: TemplateFields, prompt: str | None, params: SamplingParams) -> None:
        """What the answer must be, with the calls and thoughts that belong to it."""
        wanted = params.structured_outputs
        params.structured_outputs = chat_structure(request, prompt, wanted, self._tools, self._reasoning)

    def thinking(self, request: TemplateFields, prompt: str | None, lenient: bool) -> ThinkingBudget | None:
        """How long the model may think; `lenient` lets a wish that cannot be met go unmet."""
        if request.thinking_token_budget is None:
            return None
        if isinstance(self._marks, str):
            if lenient:
                return None
            raise UserError(self._marks, param="thinking_token_budget")
        return self._marks.bound(request.thinking_token_budget, prompt)

    def of(self, request: TemplateFields, prompt: str | None, num_choices: int) -> Structure | None:
        """None leaves the text as it is."""
        tools, reasoning = self._families(request)
        if tools is None and reasoning is None:
            return None
        wanted = request.tools or () if _wants_calls(request) else ()
        schemas = [ToolSchema(t["function"]["name"], t["function"].get("parameters")) for t in wanted]

        def make() -> Parser:
            if tools is None:
                assert reasoning is not None
                return reasoning.make(prompt)
            calls = tools.make(schemas)
            return calls if reasoning is None else ReasoningThenCalls(reasoning.make(prompt), calls)

        max_calls = 1 if request.parallel_tool_calls is False else None
        return Structure(make, num_choices, max_calls, request.include_reasoning is not False)

    def _families(self, request: TemplateFields) -> tuple[ToolFamily | None, ReasoningFamily | None]:
        if self._tools is not None and self._tools.reads_all:
            return self._tools, None
        return self._tools if _wants_calls(request) else None, self._reasoning


def check_parsers(tool_call_parser: str, reasoning_parser: str) -> None:
    """Refuses names that nobody knows, before a model is loaded."""
    if tool_call_parser not in ("auto", "none"):
        tool_family(tool_call_parser)
    if reasoning_parser != "none":
        reasoning_family(reasoning_parser)


def _wants_calls(request: TemplateFields) -> bool:
    return bool(request.tools) and request.tool_choice != "none"
