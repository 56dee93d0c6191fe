"""An engine with a script: AsyncLLM's surface, no model. Tokens are bytes, so texts can be read off token ids."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from kvasir.engine.admission import Admission, AdmissionLimits
from kvasir.engine.terms import NO_TERMS, RequestTerms
from kvasir.errors import EngineDeadError, EngineError, KvasirError
from kvasir.messages import (
    CompletionOutput,
    EngineCoreOutput,
    Logprob,
    Prompt,
    RequestMetrics,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
    SchedulerStats,
)

BOS, EOS = 256, 257
SPECIAL = {BOS: "<s>", EOS: "</s>"}


class BytePieces:
    kind = "bytes"

    def __getitem__(self, token_id: int) -> bytes:
        return bytes([token_id])


class ByteTokenizer:
    """Bytes are tokens; 256 begins, 257 ends."""

    bos_token_id: int | None = BOS
    eos_token_id: int | None = EOS
    max_len: int | None = None
    vocab_size = 258

    @property
    def pieces(self) -> "BytePieces":
        return BytePieces()

    @property
    def chat_template(self) -> str | None:
        return "system user assistant"

    def __len__(self) -> int:
        return self.vocab_size

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return ([BOS] if add_special_tokens else []) + list(text.encode())

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        pieces, run = [], bytearray()
        for i in ids:
            if i < 256:
                run.append(i)
                continue
            pieces.append(run.decode("utf-8", errors="replace"))
            run = bytearray()
            if not skip_special_tokens:
                pieces.append(SPECIAL.get(i, ""))  # as the real one: an id without a token adds nothing
        return "".join(pieces) + run.decode("utf-8", errors="replace")

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str | None]:
        return [SPECIAL.get(i) or bytes([i]).decode("latin-1") for i in ids]

    def apply_chat_template(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template: str | None = None,
        **kwargs: Any,
    ) -> str:
        text = f"[tools:{','.join(t['function']['name'] for t in tools)}]" if tools else ""
        text += "".join(f"[{k}={v}]" for k, v in sorted(kwargs.items()))
        text += "".join(f"<{m['role']}>{m['content']}\n" for m in messages)
        if continue_final_message:
            return text[:-1]
        return text + ("<assistant>" if add_generation_prompt else "")


@dataclass
class Script:
    """What the engine says.

    Attributes:
        text: the answer; each byte is a token. With n > 1, answer i is rotated by i.
        delay_s: before each step.
        per_step: tokens in each delta.
        error: raised before the first output.
        no_room: raised when the engine is asked for room, before a request's body is read.
        fail_after: tokens after which `fail_with` is raised.
        gate: the engine waits for it before its second token.
    """

    text: str = "Hello, wörld! 🙂 How are you today?"
    delay_s: float = 0.0
    per_step: int = 1
    error: KvasirError | None = None
    no_room: KvasirError | None = None
    fail_after: int | None = None
    fail_with: Exception | None = None
    num_cached_tokens: int = 0
    gate: asyncio.Event | None = None


@dataclass
class Seen:
    """A request as the engine saw it."""

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    priority: int
    cache_salt: str | None
    terms: RequestTerms = NO_TERMS
    tokens: int = 0
    closed_early: bool = False
    ended: bool = False


@dataclass
class FakeEngine:
    script: Script = field(default_factory=Script)
    max_model_len: int = 256
    max_num_seqs: int = 16
    served_model_name: tuple[str, ...] = ("fake", "fake-alias")
    tokenizer: ByteTokenizer | None = field(default_factory=ByteTokenizer)
    default_sampling_params: dict[str, Any] = field(default_factory=dict)
    is_alive: bool = True
    dead_error: str | None = None
    seen: list[Seen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.config = SimpleNamespace(
            model=SimpleNamespace(
                served_model_name=self.served_model_name, max_model_len=self.max_model_len, max_logprobs=20
            ),
            scheduler=SimpleNamespace(max_num_seqs=self.max_num_seqs, scheduling_policy="priority"),
            parallel=SimpleNamespace(data_parallel_size=1),
            observability=SimpleNamespace(
                disable_log_stats=False,
                log_stats_interval_s=10.0,
                enable_log_requests=False,
                metrics_prefix="kvasir",
                otlp_traces_endpoint=None,
            ),
        )
        self.admission = Admission(AdmissionLimits(1 << 40, 1 << 40))
        self.stats_listeners: list[Callable[[SchedulerStats], None]] = []
        self.recovery_listeners: list[Callable[[Any], None]] = []
        self._collectors: dict[str, FakeCollector] = {}

    @property
    def running(self) -> int:
        return sum(not s.ended for s in self.seen)

    @property
    def num_unfinished(self) -> int:
        return self.running

    async def check_health(self) -> None:
        if not self.is_alive:
            raise EngineDeadError(self.dead_error or "dead")

    async def check_ready(self) -> None:
        await self.check_health()

    def add_recovery_listener(self, listener: Callable[[Any], None]) -> None:
        self.recovery_listeners.append(listener)

    def add_stats_listener(self, listener: Callable[[SchedulerStats], None]) -> None:
        self.stats_listeners.append(listener)

    def check_room(self, num_answers: int = 1, deadline: float = 0.0) -> None:
        if self.script.no_room is not None:
            raise self.script.no_room

    async def reset_prefix_cache(self) -> bool:
        return self.running == 0

    def add_output_listener(self, listener: Callable[[EngineCoreOutput], None]) -> None:
        """The script has no core."""

    async def call(self, name: str, /, **args: Any) -> Any:
        return {"name": name, "args": args}

    async def start_profile(self, num_steps: int | None = None) -> None:
        self.profile_steps = num_steps

    async def stop_profile(self) -> str:
        if not hasattr(self, "profile_steps"):
            raise EngineError("no profile is running; start one first.")
        del self.profile_steps
        return "/traces/a.json"

    def shutdown(self, timeout_s: float = 0.0) -> None:
        self.is_alive = False

    async def aclose(self) -> None:
        self.shutdown()

    async def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        terms: RequestTerms = NO_TERMS,
        on_output: Callable[[], None] | None = None,
    ) -> "FakeCollector":
        if self.script.error is not None:
            raise self.script.error
        await self.check_health()
        assert params.output_kind in (RequestOutputKind.DELTA, RequestOutputKind.FINAL_ONLY)
        collector = FakeCollector(params.output_kind, on_output)
        steps = self.generate(prompt, params, request_id, priority=priority, cache_salt=cache_salt, terms=terms)
        collector.task = asyncio.create_task(collector.fill(steps))
        self._collectors[request_id] = collector
        return collector

    def abort_now(self, request_id: str) -> None:
        collector = self._collectors.pop(request_id, None)
        if collector is not None:
            collector.task.cancel()

    async def generate(
        self,
        prompt: Prompt,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        terms: RequestTerms = NO_TERMS,
    ) -> AsyncGenerator[RequestOutput]:
        script = self.script
        ids = self._prompt_ids(prompt)
        seen = Seen(request_id, ids, sampling_params, priority, cache_salt, terms)
        self.seen.append(seen)
        arrival = time.time()
        answers = [_Answer(i, script, sampling_params) for i in range(sampling_params.n)]
        prompt_logprobs = _prompt_logprobs(ids, sampling_params.prompt_logprobs)
        first = True
        try:
            while not all(a.finished for a in answers):
                await asyncio.sleep(script.delay_s)
                if script.gate is not None and not first:
                    await script.gate.wait()
                if script.fail_after is not None and seen.tokens >= script.fail_after:
                    raise script.fail_with or RuntimeError("a bug")
                outputs = [a.step(script.per_step) for a in answers if not a.finished]
                seen.tokens += sum(len(o.token_ids) for o in outputs)
                yield RequestOutput(
                    request_id,
                    None,
                    ids,
                    outputs,
                    all(a.finished for a in answers),
                    prompt_logprobs=prompt_logprobs if first else None,
                    num_cached_tokens=script.num_cached_tokens,
                    metrics=RequestMetrics(arrival, arrival, time.time()),
                )
                first = False
        except GeneratorExit:
            seen.closed_early = True
            raise
        except asyncio.CancelledError:
            seen.closed_early = True
            raise
        finally:
            seen.ended = True

    def _prompt_ids(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, dict) and "prompt_token_ids" in prompt:
            return prompt["prompt_token_ids"]
        if isinstance(prompt, list):
            return prompt
        assert self.tokenizer is not None
        return self.tokenizer.encode(prompt if isinstance(prompt, str) else prompt["prompt"])


class FakeCollector:
    """What AsyncLLM's collector is to its reader. It keeps whole outputs and merges those that were not read."""

    task: asyncio.Task[None]

    def __init__(self, kind: RequestOutputKind, on_output: Callable[[], None] | None):
        self._kind = kind
        self._on_output = on_output or (lambda: None)
        self._output: RequestOutput | None = None
        self._error: Exception | None = None

    async def fill(self, steps: AsyncGenerator[RequestOutput]) -> None:
        try:
            async with aclosing(steps):
                async for output in steps:
                    if self._output is None:
                        self._output = output
                    else:
                        merge(self._output, output)
                    if output.finished or self._kind is RequestOutputKind.DELTA:
                        self._on_output()
        except Exception as error:
            self._error = error
            self._on_output()

    def get_nowait(self) -> RequestOutput | None:
        if self._error is not None:
            raise self._error
        return self.read()

    def read(self) -> RequestOutput | None:
        output, self._output = self._output, None
        return output


def merge(into: RequestOutput, new: RequestOutput) -> None:
    """Appends a later DELTA output to an earlier one."""
    known = {answer.index: answer for answer in into.outputs}
    for answer in new.outputs:
        before = known.get(answer.index)
        if before is None:
            into.outputs.append(answer)
            continue
        before.text += answer.text
        before.token_ids.extend(answer.token_ids)
        if answer.logprobs is not None:
            before.logprobs = [*(before.logprobs or ()), *answer.logprobs]
        before.finish_reason, before.stop_reason = answer.finish_reason, answer.stop_reason
    into.finished, into.metrics, into.error = new.finished, new.metrics, new.error
    into.prompt_logprobs = into.prompt_logprobs or new.prompt_logprobs


class _Answer:
    """One of the n answers; its text is found as a whole first, then dealt out."""

    def __init__(self, index: int, script: Script, params: SamplingParams):
        self._index, self._params = index, params
        k = index % max(len(script.text), 1)
        text = script.text[k:] + script.text[:k]
        self._reason, self._stop = "stop", None
        for stop in params.stop or ():
            at = text.find(stop)
            if at >= 0:
                text, self._stop = text[: at + (len(stop) if params.include_stop_str_in_output else 0)], stop
        self._ids = list(text.encode())
        if self._stop is None:
            self._ids.append(EOS)
        if params.max_tokens is not None and len(self._ids) > params.max_tokens:
            self._ids, self._reason, self._stop = self._ids[: params.max_tokens], "length", None
        self._at = 0
        self._shown = ""
        self.finished = False

    def step(self, count: int) -> CompletionOutput:
        ids = self._ids[self._at : self._at + count]
        self._at += len(ids)
        self.finished = self._at >= len(self._ids)
        text = ByteTokenizer().decode(self._ids[: self._at])
        if not self.finished:
            text = text.rstrip("\ufffd")  # an unfinished letter is held back
        new, self._shown = text[len(self._shown) :], text
        return CompletionOutput(
            self._index,
            new,
            ids,
            logprobs=[_logprobs(i, self._params.logprobs) for i in ids] if self._params.logprobs is not None else None,
            finish_reason=self._reason if self.finished else None,
            stop_reason=self._stop if self.finished else None,
        )


def _logprobs(token_id: int, k: int) -> dict[int, Logprob]:
    """The token is the second best, so that it is outside the top 1 and inside the top 2."""
    tok = ByteTokenizer()
    rest = [i for i in range(65, 65 + 30) if i != token_id]
    entries = {token_id: Logprob(-1.0, 2, tok.decode([token_id], skip_special_tokens=False))}
    for rank in range(1, k + 1):
        if rank != 2:
            other = rest[rank]
            entries[other] = Logprob(-0.5 * rank, rank, tok.decode([other]))
    return entries


def _prompt_logprobs(ids: list[int], k: int | None) -> list[dict[int, Logprob] | None] | None:
    if k is None:
        return None
    return [None, *(_logprobs(i, k) for i in ids[1:])]
