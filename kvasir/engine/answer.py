"""One answer in flight: its tokens, its text, and why it ended."""

from typing import TYPE_CHECKING

from kvasir.engine.logprobs import read_position
from kvasir.engine.stop import AnswerText
from kvasir.messages import (
    CompletionOutput,
    EngineCoreRequest,
    Finished,
    FinishReason,
    Logprob,
    RequestOutputKind,
    TokenLogprobs,
)
from kvasir.tokenizer import Tokenizer

if TYPE_CHECKING:
    from kvasir.engine.collector import RequestOutputCollector

_DELTA = RequestOutputKind.DELTA
_FINAL_ONLY = RequestOutputKind.FINAL_ONLY


class AnswerState:
    """The state of one request of the core. All its tokens are kept: a restarted core is told of them.

    Attributes:
        collector: where it goes.
        core: which of the engine's cores has it.
        index: which of the n answers of its request this is.
        moved: something has come since `output` was last called.
        is_plain: a token that does not end it has only to be noted, in `token_ids` and, if there is one, in `waiting`.
        is_watched: somebody may read it before it ends.
        finish_reason: None while it runs.
    """

    __slots__ = (
        "collector", "core", "cumulative", "error", "finish_reason", "first_time", "index", "is_delta", "is_plain",
        "is_watched", "last_time", "logprobs", "moved", "num_cached", "prompt_logprobs", "request", "sent", "shown",
        "stop_reason", "text", "token_ids", "waiting", "wants",
    )  # fmt: skip

    def __init__(
        self,
        request: EngineCoreRequest,
        index: int,
        tokenizer: Tokenizer | None,
        collector: "RequestOutputCollector",
        core: int,
    ):
        params = request.params
        self.request = request
        self.collector = collector
        self.core = core
        self.index = index
        self.is_delta = params.output_kind == _DELTA
        self.is_watched = params.output_kind != _FINAL_ONLY
        self.moved = False
        self.text = AnswerText(tokenizer, request) if tokenizer is not None and params.detokenize else None
        self.shown = ""  # text that earlier outputs held, unless they are DELTAs
        self.waiting = None if self.text is None else self.text.waiting
        self.is_plain = params.logprobs is None and (self.text is None or self.waiting is not None)
        self.token_ids: list[int] = []
        self.wants = params.logprobs
        self.logprobs: list[dict[int, Logprob]] | None = None if params.logprobs is None else []  # DELTA: not sent yet
        self.cumulative: float | None = None if params.logprobs is None else 0.0
        self.prompt_logprobs: list[dict[int, Logprob] | None] | None = None
        self.sent = 0  # tokens that earlier DELTA outputs held
        self.num_cached = 0
        self.first_time = 0.0
        self.last_time = 0.0
        self.finish_reason: str | None = None
        self.stop_reason: int | str | None = None
        self.error: str | None = None

    def take_tokens(
        self, ids: list[int], entries: list[TokenLogprobs], ended: Finished | None, tokenizer: Tokenizer | None
    ) -> None:
        """Appends new tokens; sets the finish reason if they, or the core, end the answer."""
        by_token = ended is not None and ended.reason == FinishReason.STOP and ended.stop_token_id is not None
        kept = len(ids)
        if self.text is not None:
            hides_last = by_token and not self.request.params.include_stop_str_in_output
            kept = self.text.push(ids[:-1] if hides_last else ids)
            if self.text.stop_string is None and ended is not None:
                self.text.finish()
            if self.text.stop_string is not None:
                self.finish_reason, self.stop_reason = "stop", self.text.stop_string
            else:
                kept = len(ids)  # a hidden stop token is part of the answer, its text is not
        self.token_ids += ids[:kept] if kept < len(ids) else ids
        if self.logprobs is not None:
            for entry in entries[:kept]:
                self.logprobs.append(read_position(entry, self.wants or 0, tokenizer))
                self.cumulative = (self.cumulative or 0.0) + entry.logprobs[0]
        if ended is not None and self.finish_reason is None:
            self._end(ended)

    def _end(self, ended: Finished) -> None:
        self.finish_reason = str(ended.reason)
        if ended.reason == FinishReason.ERROR:
            self.error = ended.error or "The request failed inside the engine."
        token_id, request = ended.stop_token_id, self.request
        if token_id is not None and (request.params.ignore_eos or token_id not in request.eos_token_ids):
            self.stop_reason = token_id

    def end_from_outside(self, reason: FinishReason, error: str | None = None) -> None:
        if self.text is not None:
            self.text.finish()
        self.finish_reason, self.error = str(reason), error

    def output(self) -> CompletionOutput:
        """What is known now, or (DELTA) what is new since the last one."""
        self.moved = False
        text = "" if self.text is None else self.text.take()
        if self.is_delta:
            sent, self.sent = self.sent, len(self.token_ids)
            ids = self.token_ids[sent:]
            logprobs = self.logprobs
            if logprobs is not None:
                self.logprobs = []  # they are big, and nobody needs them again
        else:
            text = self.shown = self.shown + text
            ids = self.token_ids.copy()
            logprobs = None if self.logprobs is None else self.logprobs.copy()
        return CompletionOutput(self.index, text, ids, self.cumulative, logprobs, self.finish_reason, self.stop_reason)
