"""Engine outputs -> what each choice gained: the one stream from which every answer is rendered."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from kvasir.engine.fanout import child_id
from kvasir.entrypoints.http.guard.caller import Caller, current_caller
from kvasir.entrypoints.http.guard.watch import AccountWatch
from kvasir.errors import CapacityError, EngineDeadError, EngineError, RequestFailedError
from kvasir.messages import CompletionOutput, Logprob, RequestOutput, RequestOutputKind, SamplingParams, TokensPrompt
from kvasir.observability import AnswerObserver, Metrics, RequestInfo

if TYPE_CHECKING:
    from kvasir.engine.async_llm import AsyncLLM
    from kvasir.engine.collector import RequestOutputCollector

MIN_LOGPROB = -9999.0
"""JSON has no infinity."""

TokenText = Callable[[int, str | None], tuple[str, bytes]]
"""(id, text if known) -> text and bytes of a token."""


class Job(msgspec.Struct):
    """One prompt of a request, ready for the engine. `prompt_text` is set when it is to be echoed."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    prompt_text: str | None = None
    echo: bool = False
    drop_output: bool = False
    show_prompt_logprobs: bool = False
    priority: int = 0
    cache_salt: str | None = None
    timeout_s: float | None = None


class TokenInfo(msgspec.Struct, gc=False):
    """One token and its logprobs; `top` holds the best k in falling order, itself included if it is one."""

    token_id: int
    token: str
    raw: bytes
    logprob: float | None
    top: list["TokenInfo"]


class CallDelta(msgspec.Struct, gc=False):
    """What one tool call gained; `id` and `name` come with its first delta."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Delta(msgspec.Struct, gc=False):
    """What one choice gained. Adding up the deltas of a choice gives the choice.

    Inside a delta reasoning comes first, then text, then calls; what comes in another order is said in more deltas.

    Attributes:
        index: of the choice, over all prompts.
        offset: characters of token text before this delta (for completions' text_offset).
        prompt_token_ids: set on the first delta of a choice.
    """

    index: int
    text: str = ""
    token_ids: list[int] = []
    logprobs: list[TokenInfo] | None = None
    offset: int = 0
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    reasoning: str = ""
    calls: list[CallDelta] = []

    @property
    def is_plain(self) -> bool:
        """Whether it holds text and nothing else, as most deltas do."""
        return (
            self.finish_reason is None
            and self.logprobs is None
            and self.prompt_token_ids is None
            and not self.calls
            and not self.reasoning
            and self.text != ""
        )

    def add(self, other: "Delta") -> None:
        self.text += other.text
        self.token_ids.extend(other.token_ids)
        if other.logprobs is not None:
            self.logprobs = (self.logprobs or []) + other.logprobs
        self.reasoning += other.reasoning
        for call in other.calls:
            self.add_call(call)
        if other.finish_reason is not None:
            self.finish_reason, self.stop_reason = other.finish_reason, other.stop_reason

    def add_call(self, call: CallDelta) -> None:
        if self.calls and self.calls[-1].index == call.index:
            self.calls[-1].arguments += call.arguments
        else:
            self.calls.append(call)


class Usage(msgspec.Struct):
    """Counted from the deltas themselves, so that the stream and the collected answer cannot differ."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0


class _Choice:
    __slots__ = ("finished", "offset", "started")

    def __init__(self) -> None:
        self.offset, self.started, self.finished = 0, False, False


class DeltaStream:
    """Runs the jobs of one HTTP request and says what each choice has gained.

    `structure` may divide a delta's text into reasoning, content and calls before anybody sees it; where their order
    asks for that, into several deltas.

    Nothing is computed before `take` is called: until then the engine keeps what has come, merged. So a client that
    does not read costs nothing but its own answer's memory.

    Attributes:
        finished: everything has been taken.
    """

    def __init__(
        self,
        engine: "AsyncLLM",
        jobs: Sequence[Job],
        n: int,
        token_text: TokenText,
        metrics: Metrics | None = None,
        structure: Callable[[Delta], list[Delta]] | None = None,
    ):
        self._engine = engine
        self._jobs = jobs
        self._n = n
        self._token_text = token_text
        self._metrics = metrics
        self._observers: list[list[AnswerObserver]] = []
        self._hearers: list[list[Callable[[RequestOutput, int], None]]] = []
        self._end_reason = "abort"  # of what has not finished when the stream is closed
        self._structure = structure
        self._collectors: list[RequestOutputCollector | None] = []  # None: all of it was taken
        self._num_unfinished = len(jobs)
        self._prompt_counted = [False] * len(jobs)
        self._prompt_logprobs: list[list[dict[int, Logprob] | None] | None] = [None] * len(jobs)
        self._choices = [_Choice() for _ in range(len(jobs) * n)]
        self.finished = False
        self.usage = Usage()

    @property
    def num_choices(self) -> int:
        return len(self._choices)

    @property
    def core_ids(self) -> list[str]:
        """One request of each prompt, as the core knows it: the first that computes the prompt."""
        return [child_id(0, job.request_id) if self._n > 1 else job.request_id for job in self._jobs]

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(job.prompt_token_ids) for job in self._jobs)

    async def start(self, on_news: Callable[[], None], kind: RequestOutputKind = RequestOutputKind.DELTA) -> None:
        """Queues the jobs; from then on `on_news` says that `take` has something to give. `close` ends it.

        Args:
            kind: FINAL_ONLY: there is news only when a job is complete.

        Raises:
            What AsyncLLM.add_request raises.
        """
        caller = current_caller()
        self._observers = [self._watchers(job, caller) for job in self._jobs]
        self._hearers = [[o.on_output for o in observers if o.hears_outputs] for observers in self._observers]
        try:
            for job in self._jobs:
                await self._queue(job, caller, on_news, kind)
        except EngineError:
            self._end_reason = "error"
            raise

    async def _queue(self, job: Job, caller: Caller, on_news: Callable[[], None], kind: RequestOutputKind) -> None:
        job.params.output_kind = kind
        prompt = TokensPrompt(prompt_token_ids=job.prompt_token_ids)
        if job.prompt_text is not None:
            prompt["prompt"] = job.prompt_text
        collector = await self._engine.add_request(
            job.request_id,
            prompt,
            job.params,
            priority=caller.priority(job.priority),
            cache_salt=caller.cache_salt(job.cache_salt),
            terms=caller.terms(job.timeout_s),
            on_output=on_news,
        )
        self._collectors.append(collector)

    def _watchers(self, job: Job, caller: Caller) -> list[AnswerObserver]:
        """Whoever looks on while one job runs: its caller's account, and what the server keeps figures with."""
        watchers: list[AnswerObserver] = [AccountWatch(caller)]
        if self._metrics is not None:
            info = RequestInfo(
                job.request_id,
                time.time(),
                len(job.prompt_token_ids),
                job.params,
                job.request_id.rsplit("-", 2)[0],  # as the client knows it
                caller.account.key.name,
                "text_completion" if caller.path == "/v1/completions" else "chat",
                caller.traceparent,
            )
            watchers += self._metrics.watch(info)
        return watchers

    def take(self) -> list[Delta]:
        """What has come since the last call, as one delta for each choice that moved (or several, see above).

        Raises:
            EngineDeadError: the core is gone. RequestFailedError, CapacityError: the request ended before its time.
            DeadlineError: its time was up.
        """
        deltas: list[Delta] = []
        try:
            for i, collector in enumerate(self._collectors):
                if collector is None or (output := collector.get_nowait()) is None:
                    continue
                if output.finished:
                    self._collectors[i] = None
                    self._num_unfinished -= 1
                    self.finished = self._num_unfinished == 0
                self._read(i, output, deltas)
        except EngineError:
            self._end_reason = "error"
            raise
        return deltas

    def close(self) -> None:
        """Ends what still runs; the blocks are free before the core's next step. Idempotent."""
        for i, collector in enumerate(self._collectors):
            if collector is not None:
                self._engine.abort_now(self._jobs[i].request_id)
                self._observe_rest(i, collector)
        observers, self._observers, self._collectors = self._observers, [], []
        for those_of_job in observers:
            for observer in those_of_job:
                observer.on_closed(self._end_reason)

    def _observe_rest(self, i: int, collector: "RequestOutputCollector") -> None:
        """Tokens that were computed and not read; how they ended is said by `on_closed`."""
        rest = collector.read()
        if rest is not None:
            for out in rest.outputs:
                out.finish_reason = None
            for hear in self._hearers[i]:
                hear(rest, self._n)

    def _read(self, i: int, output: RequestOutput, deltas: list[Delta]) -> None:
        if output.error is not None:
            if not self._engine.is_alive:
                raise EngineDeadError(output.error)
            raise RequestFailedError(f"the request failed in the engine: {output.error}")
        if output.prompt_logprobs is not None and self._prompt_logprobs[i] is None:
            self._prompt_logprobs[i] = output.prompt_logprobs
        for hear in self._hearers[i]:
            hear(output, self._n)
        for out in output.outputs:
            index = i * self._n + out.index
            choice = self._choices[index]
            if choice.finished:
                continue
            delta = self._delta(self._jobs[i], index, choice, out, output)
            if self._structure is None:
                deltas.append(delta)
            else:
                deltas += self._structure(delta)

    def _delta(self, job: Job, index: int, choice: _Choice, out: CompletionOutput, output: RequestOutput) -> Delta:
        if job.drop_output:
            delta = Delta(index, finish_reason=None if out.finish_reason is None else "length")
        else:
            delta = Delta(index, out.text, out.token_ids, None, choice.offset, out.finish_reason, out.stop_reason)
            self.usage.completion_tokens += len(out.token_ids)
            if out.logprobs is not None:
                k = job.params.logprobs or 0
                delta.logprobs = [self._info(t, at, k) for t, at in zip(out.token_ids, out.logprobs, strict=False)]
        if not choice.started:
            choice.started = True
            self._open(job, delta, output)
        if delta.logprobs:
            choice.offset += sum(len(info.token) for info in delta.logprobs)
        if delta.finish_reason is not None:
            choice.finished = True
            if delta.finish_reason == "abort":
                raise CapacityError("the request was aborted by the server before it was complete; send it again.")
            if delta.finish_reason == "error":
                raise RequestFailedError("the request failed in the engine.")
        return delta

    def _open(self, job: Job, delta: Delta, output: RequestOutput) -> None:
        """What goes with the first delta of a choice."""
        i = delta.index // self._n
        if not self._prompt_counted[i]:
            self._prompt_counted[i] = True
            self.usage.prompt_tokens += len(output.prompt_token_ids)
            self.usage.cached_tokens += output.num_cached_tokens
        delta.prompt_token_ids = output.prompt_token_ids
        if job.show_prompt_logprobs:
            delta.prompt_logprobs = self._prompt_logprobs[i]
        if job.echo:
            self._echo(job, delta, output)

    def _echo(self, job: Job, delta: Delta, output: RequestOutput) -> None:
        delta.text = (job.prompt_text or "") + delta.text
        if job.params.logprobs is None:
            return
        entries = self._prompt_logprobs[delta.index // self._n] or [None] * len(output.prompt_token_ids)
        prompt = [
            self._info(token_id, at or {}, job.params.logprobs)
            for token_id, at in zip(output.prompt_token_ids, entries, strict=False)
        ]
        delta.logprobs = prompt + (delta.logprobs or [])

    def _info(self, token_id: int, at: dict[int, Logprob], k: int) -> TokenInfo:
        own = at.get(token_id)
        best = sorted(at.items(), key=lambda item: -item[1].logprob)
        if k >= 0:
            best = [item for item in best if (item[1].rank or 0) <= k][:k]
        top = [TokenInfo(i, *self._text(i, lp), max(lp.logprob, MIN_LOGPROB), []) for i, lp in best]
        logprob = None if own is None else max(own.logprob, MIN_LOGPROB)
        return TokenInfo(token_id, *self._text(token_id, own), logprob, top)

    def _text(self, token_id: int, at: Logprob | None) -> tuple[str, bytes]:
        return self._token_text(token_id, None if at is None else at.decoded_token)
