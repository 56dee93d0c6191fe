"""What one caller reads: the answers of one request, as one output for all that came since the last one."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from kvasir.messages import CompletionOutput, EngineCoreRequest, RequestMetrics, RequestOutput, RequestOutputKind

if TYPE_CHECKING:
    from kvasir.engine.answer import AnswerState

_DELTA = RequestOutputKind.DELTA
_FINAL_ONLY = RequestOutputKind.FINAL_ONLY


class Stay(Protocol):
    """What is told of a request's first token and of its end; each may be told twice."""

    def start(self) -> None: ...

    def leave(self) -> None: ...


class RequestOutputCollector:
    """An output is made when somebody reads it, from the state that each answer keeps anyway.

    So what a slow caller has not read costs nothing, grows by no queue, and never makes the engine wait.

    Args:
        request: as the caller sent it, with its n.
        on_output: called on the engine's thread when there is something to read, once until it is read. Without it
            the collector is read by `get`, or by who has called the engine.
        on_broken: told of an answer whose tokens could not be made text; it ends the answer.

    Attributes:
        num_live: answers that have not ended.
        stay: told of the first token and the end.
        failure: why the request was ended from outside, for who reads on.
        wants_news: the reader knows of nothing, and is to be told of what comes next.
    """

    __slots__ = (
        "_has_news", "_kind", "_on_broken", "_on_output", "_waiter", "answers", "failure", "num_live", "prompt",
        "request", "stay", "wants_news",
    )  # fmt: skip

    def __init__(
        self,
        request: EngineCoreRequest,
        prompt: str | None = None,
        on_output: Callable[[], None] | None = None,
        on_broken: Callable[["AnswerState", Exception], None] | None = None,
    ):
        self.request = request
        self.prompt = prompt
        self.answers: list[AnswerState] = []
        self.num_live = request.params.n
        self._kind = request.params.output_kind
        self._has_news = False
        self.wants_news = self._kind != _FINAL_ONLY
        self._on_output = on_output
        self._on_broken = on_broken
        self._waiter: asyncio.Future[None] | None = None
        self.stay: Stay | None = None
        self.failure: Exception | None = None

    @property
    def request_id(self) -> str:
        return self.request.request_id

    def note_end(self) -> bool:
        """One of the answers has ended; returns whether it was the last."""
        self.num_live -= 1
        if self.num_live == 0 and self.stay is not None:
            self.stay.leave()
        if self.num_live == 0 and self._kind == _FINAL_ONLY:
            self.wants_news = True
        return self.num_live == 0

    def note_news(self, moved: list["RequestOutputCollector"]) -> None:
        """There is something to read: puts itself on the list of those whose readers are to be told."""
        self._has_news, self.wants_news = True, False
        moved.append(self)

    def tell(self) -> None:
        """There is something to read."""
        if self._on_output is not None:
            self._on_output()
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> RequestOutput:
        """The next output, as soon as there is one."""
        while (output := self.get_nowait()) is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return output

    def get_nowait(self) -> RequestOutput | None:
        """The next output, None when nothing is new. DELTA: what is new of answers that moved; else all n answers.

        Raises:
            `failure`, when the request was ended from outside.
        """
        if self.failure is not None:
            raise self.failure
        return self.read()

    def read(self) -> RequestOutput | None:
        """The same, for those who need no reason for an early end."""
        if not self._has_news:
            return None
        self._has_news, self.wants_news = False, self._kind != _FINAL_ONLY
        answers, request = self.answers, self.request
        first = answers[0]
        if self._kind == _DELTA:
            outputs = [self._output(answer) for answer in answers if answer.moved]
        else:
            outputs = [self._output(answer) for answer in answers]
        if len(answers) == 1:
            metrics = RequestMetrics(request.arrival_time, first.first_time, first.last_time)
            error, num_cached, prompt_logprobs = first.error, first.num_cached, first.prompt_logprobs
        else:
            times = [answer.first_time for answer in answers if answer.first_time]
            metrics = RequestMetrics(
                request.arrival_time, min(times, default=0.0), max(answer.last_time for answer in answers)
            )
            error = next((answer.error for answer in answers if answer.error is not None), None)
            num_cached = max(answer.num_cached for answer in answers)
            prompt_logprobs = next((a.prompt_logprobs for a in answers if a.prompt_logprobs is not None), None)
        if prompt_logprobs is not None and self._kind == _DELTA:
            for answer in answers:
                answer.prompt_logprobs = None
        return RequestOutput(
            request.request_id,
            self.prompt,
            request.prompt_token_ids,
            outputs,
            self.num_live == 0,
            prompt_logprobs,
            num_cached,
            metrics,
            error,
        )

    def _output(self, answer: "AnswerState") -> CompletionOutput:
        try:
            return answer.output()
        except Exception as error:
            if self._on_broken is None:
                raise
            self._on_broken(answer, error)
            return answer.output()
