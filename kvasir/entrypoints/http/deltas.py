"""Engine outputs -> what each choice gained: the one stream from which every answer is rendered."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from kvasir.entrypoints.http.guard.caller import current_caller
from kvasir.entrypoints.http.guard.watch import AccountWatch
from kvasir.errors import CapacityError, EngineError, RequestFailedError
from kvasir.messages import CompletionOutput, Logprob, RequestOutput, SamplingParams, TokensPrompt
from kvasir.observability import AnswerObserver, Metrics, RequestInfo

if TYPE_CHECKING:
    from kvasir.engine.async_llm import AsyncLLM

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


class TokenInfo(msgspec.Struct):
    """One token and its logprobs; `top` holds the best k in falling order, itself included if it is one."""

    token_id: int
    token: str
    raw: bytes
    logprob: float | None
    top: list["TokenInfo"]


class CallDelta(msgspec.Struct):
    """What one tool call gained; `id` and `name` come with its first delta."""

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


class Delta(msgspec.Struct):
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
    """Runs the jobs of one HTTP request and yields the deltas of each engine output as a list.

    `structure` may divide a delta's text into reasoning, content and calls before anybody sees it; where their order
    asks for that, into several deltas.

    Pull-based: while the client does not read, the engine is not asked, and it merges what it has meanwhile.
    Closing it closes the engine's generators, which frees the requests' blocks.
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
        self._structure = structure
        self._prompt_logprobs: list[list[dict[int, Logprob] | None] | None] = [None] * len(jobs)
        self._choices = [_Choice() for _ in range(len(jobs) * n)]
        self.usage = Usage()

    @property
    def num_choices(self) -> int:
        return len(self._choices)

    async def deltas(self) -> AsyncGenerator[list[Delta]]:
        observers = [self._observers(job) for job in self._jobs]
        started = [False] * len(self._jobs)
        generators = [self._generate(job) for job in self._jobs]
        async with aclosing(_merge(generators)) as merged, _closing(observers):
            async for i, output in merged:
                if output.error is not None:
                    raise RequestFailedError(f"the request failed in the engine: {output.error}")
                if not started[i]:
                    started[i] = True
                    self._count_prompt(output)
                self._prompt_logprobs[i] = self._prompt_logprobs[i] or output.prompt_logprobs
                for observer in observers[i]:
                    observer.on_output(output, self._n)
                deltas: list[Delta] = []
                for out in output.outputs:
                    index = i * self._n + out.index
                    if not self._choices[index].finished:
                        delta = self._delta(self._jobs[i], index, self._choices[index], out, output)
                        deltas += [delta] if self._structure is None else self._structure(delta)
                yield deltas

    def _observers(self, job: Job) -> list[AnswerObserver]:
        """Whoever looks on while one job runs: its caller's account, and what the server keeps figures with."""
        caller = current_caller()
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

    def _generate(self, job: Job) -> AsyncGenerator[RequestOutput]:
        prompt = TokensPrompt(prompt_token_ids=job.prompt_token_ids)
        if job.prompt_text is not None:
            prompt["prompt"] = job.prompt_text
        caller = current_caller()
        return self._engine.generate(
            prompt,
            job.params,
            job.request_id,
            priority=caller.priority(job.priority),
            cache_salt=caller.cache_salt(job.cache_salt),
            terms=caller.terms(job.timeout_s),
        )

    def _count_prompt(self, output: RequestOutput) -> None:
        self.usage.prompt_tokens += len(output.prompt_token_ids)
        self.usage.cached_tokens += output.num_cached_tokens

    def _delta(self, job: Job, index: int, choice: _Choice, out: CompletionOutput, output: RequestOutput) -> Delta:
        delta = Delta(index, offset=choice.offset)
        if not choice.started:
            choice.started = True
            delta.prompt_token_ids = output.prompt_token_ids
            if job.show_prompt_logprobs:
                delta.prompt_logprobs = self._prompt_logprobs[index // self._n]
            if job.echo:
                self._echo(job, delta, output)
        if job.drop_output:
            if out.finish_reason is not None:
                delta.finish_reason = "length"
        else:
            delta.text += out.text
            delta.token_ids = list(out.token_ids)
            self.usage.completion_tokens += len(out.token_ids)
            if out.logprobs is not None:
                k = job.params.logprobs or 0
                infos = [self._info(t, at, k) for t, at in zip(out.token_ids, out.logprobs, strict=False)]
                delta.logprobs = (delta.logprobs or []) + infos
            delta.finish_reason, delta.stop_reason = out.finish_reason, out.stop_reason
        if delta.logprobs:
            choice.offset += sum(len(info.token) for info in delta.logprobs)
        choice.finished = delta.finish_reason is not None
        if delta.finish_reason == "abort":
            raise CapacityError("the request was aborted by the server before it was complete; send it again.")
        if delta.finish_reason == "error":
            raise RequestFailedError("the request failed in the engine.")
        return delta

    def _echo(self, job: Job, delta: Delta, output: RequestOutput) -> None:
        delta.text = job.prompt_text or ""
        if job.params.logprobs is None:
            return
        entries = self._prompt_logprobs[delta.index // self._n] or [None] * len(output.prompt_token_ids)
        delta.logprobs = [
            self._info(token_id, at or {}, job.params.logprobs)
            for token_id, at in zip(output.prompt_token_ids, entries, strict=False)
        ]

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


@asynccontextmanager
async def _closing(observers: Sequence[Sequence[AnswerObserver]]) -> AsyncGenerator[None]:
    reason = "abort"
    try:
        yield
    except EngineError:
        reason = "error"
        raise
    finally:
        for those_of_job in observers:
            for observer in those_of_job:
                observer.on_closed(reason)


async def _merge(streams: Sequence[AsyncGenerator[RequestOutput]]) -> AsyncGenerator[tuple[int, RequestOutput]]:
    """Outputs of several generators as they come; each may be one output ahead of the reader."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for output in only:
                yield 0, output
        return
    queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

    async def pump(i: int, stream: AsyncGenerator[RequestOutput]) -> None:
        try:
            async with aclosing(stream):
                async for output in stream:
                    await queue.put((i, output))
            await queue.put(None)
        except Exception as e:
            await queue.put(e)

    tasks = [asyncio.create_task(pump(i, s)) for i, s in enumerate(streams)]
    try:
        running = len(tasks)
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
