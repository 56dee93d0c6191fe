"""Looking on while answers are made: what an observer is told, and when."""

from dataclasses import dataclass
from typing import Protocol

from kvasir.messages import RequestOutput, SamplingParams


@dataclass(frozen=True)
class RequestInfo:
    """One prompt that is about to be queued.

    Attributes:
        request_id: the engine's.
        asked_as: the HTTP request it belongs to.
        tenant: name of the key.
        operation: `chat` or `text_completion`, as OpenTelemetry has it.
        traceparent: W3C trace context of the caller.
    """

    request_id: str
    arrival_time: float
    num_prompt_tokens: int
    params: SamplingParams
    asked_as: str = ""
    tenant: str = ""
    operation: str = "chat"
    traceparent: str | None = None


class AnswerObserver(Protocol):
    """Looks on while the answers to one prompt are made.

    Attributes:
        hears_outputs: False leaves `on_output` out, which is called for every piece of every stream.
    """

    hears_outputs: bool

    def on_output(self, output: RequestOutput, n: int) -> None:
        """A DELTA output; `n` answers were asked for."""

    def on_closed(self, reason: str) -> None:
        """Nobody reads on: what has not finished by now never will, for `reason` (abort or error)."""
