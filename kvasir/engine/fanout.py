"""n answers to one prompt: one request becomes n in the core, and their answers one output again."""

from dataclasses import dataclass, field

import msgspec

from kvasir.messages import (
    CompletionOutput,
    EngineCoreRequest,
    Logprob,
    RequestMetrics,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
)


class ParentRequest:
    """Collects the answers of one request's children.

    DELTA outputs hold what is new of the answers that moved; the other kinds hold all n answers.
    """

    def __init__(self, request: EngineCoreRequest):
        self.request_id = request.request_id
        self.kind = request.params.output_kind
        self.live = [child_id(i, request.request_id) for i in range(request.params.n)]
        self.prompt_logprobs: list[dict[int, Logprob] | None] | None = None
        self.error: str | None = None
        self.num_cached_tokens = 0
        self.metrics = RequestMetrics(arrival_time=request.arrival_time)
        self._moved: dict[int, CompletionOutput] = {}
        self._answers = {} if self._is_delta else {i: CompletionOutput(i, "", []) for i in range(request.params.n)}

    @property
    def _is_delta(self) -> bool:
        return self.kind == RequestOutputKind.DELTA

    def take(self, request_id: str, answer: CompletionOutput, child: RequestOutput) -> None:
        """Notes a child's new output; `child` gives what belongs to the whole request."""
        (self._moved if self._is_delta else self._answers)[answer.index] = answer
        if answer.finish_reason is not None:
            self.live.remove(request_id)
        first, last = self.metrics.first_token_time, child.metrics.first_token_time
        self.metrics.first_token_time = min(first, last) if first and last else first or last
        self.metrics.last_token_time = max(self.metrics.last_token_time, child.metrics.last_token_time)
        self.num_cached_tokens = max(self.num_cached_tokens, child.num_cached_tokens)
        self.prompt_logprobs = child.prompt_logprobs or self.prompt_logprobs
        self.error = self.error or child.error

    def output(self, prompt: str | None, prompt_token_ids: list[int]) -> RequestOutput | None:
        """What the caller gets now; None if that is nothing."""
        finished = not self.live
        if self.kind == RequestOutputKind.FINAL_ONLY and not finished:
            return None
        answers = self._moved if self._is_delta else self._answers
        output = RequestOutput(
            request_id=self.request_id,
            prompt=prompt,
            prompt_token_ids=prompt_token_ids,
            outputs=[answers[i] for i in sorted(answers)],
            finished=finished,
            prompt_logprobs=self.prompt_logprobs,
            num_cached_tokens=self.num_cached_tokens,
            metrics=RequestMetrics(
                self.metrics.arrival_time, self.metrics.first_token_time, self.metrics.last_token_time
            ),
            error=self.error,
        )
        if self._is_delta:
            self._moved, self.prompt_logprobs = {}, None
        return output


@dataclass(frozen=True, slots=True)
class Child:
    """One answer's request. `parent` is None when it is the only one."""

    request: EngineCoreRequest
    params: SamplingParams
    parent: ParentRequest | None = field(default=None)
    index: int = 0


def child_id(index: int, request_id: str) -> str:
    return f"{index}_{request_id}"


def fan_out(request: EngineCoreRequest) -> list[Child]:
    """The requests to send to the core: the request itself, or n children with seeds seed, seed + 1, ..."""
    n = request.params.n
    if n == 1:
        return [Child(request, request.params)]
    parent = ParentRequest(request)
    params = msgspec.structs.replace(request.params, n=1)
    return [
        Child(
            msgspec.structs.replace(
                request, request_id=child_id(i, request.request_id), params=params, seed=(request.seed + i) % 2**64
            ),
            params,
            parent,
            i,
        )
        for i in range(n)
    ]
