"""What the core says, step by step, to what callers read: text, log-probabilities, the reason it ended.

The front has the last word on an answer's end: a stop string cuts text, ids and log-probabilities, and
whatever the core computed beyond it is dropped.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from kvasir.engine.fanout import ParentRequest
from kvasir.engine.logprobs import read_position, read_prompt
from kvasir.engine.stage import RequestStage
from kvasir.engine.stop import AnswerText
from kvasir.errors import EngineError
from kvasir.logger import get_logger
from kvasir.messages import (
    CompletionOutput,
    EngineCoreOutput,
    EngineCoreRequest,
    Finished,
    FinishReason,
    Logprob,
    RequestMetrics,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
    TokenLogprobs,
)
from kvasir.tokenizer import Tokenizer

logger = get_logger(__name__)

_DELTA = RequestOutputKind.DELTA
_FINAL_ONLY = RequestOutputKind.FINAL_ONLY


class RequestOutputCollector:
    """A place for one caller's next output. It never fills: what the caller has not read yet is merged.

    Not a queue, so a slow client costs at most one answer's memory and never makes the engine wait.
    """

    def __init__(self, kind: RequestOutputKind = RequestOutputKind.CUMULATIVE):
        self._kind = kind
        self._output: RequestOutput | None = None
        self._ready = asyncio.Event()

    def put(self, output: RequestOutput) -> None:
        if self._output is None or self._kind != _DELTA:
            self._output = output
        else:
            merge_delta(self._output, output)
        self._ready.set()

    def get_nowait(self) -> RequestOutput | None:
        output, self._output = self._output, None
        self._ready.clear()
        return output

    async def get(self) -> RequestOutput:
        while (output := self.get_nowait()) is None:
            await self._ready.wait()
        return output


def merge_delta(into: RequestOutput, new: RequestOutput) -> None:
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
        before.cumulative_logprob = answer.cumulative_logprob
        before.finish_reason, before.stop_reason = answer.finish_reason, answer.stop_reason
    into.finished, into.metrics, into.error = new.finished, new.metrics, new.error
    into.num_cached_tokens = new.num_cached_tokens
    into.prompt_logprobs = into.prompt_logprobs or new.prompt_logprobs


@dataclass(slots=True)
class ProcessedOutputs:
    """`request_outputs` are those without a collector; `to_abort` are requests to end in the core."""

    request_outputs: list[RequestOutput] = field(default_factory=list)
    to_abort: list[str] = field(default_factory=list)


class _Answer:
    """The state of one request in flight."""

    __slots__ = (
        "cumulative", "error", "finish_reason", "first_time", "index", "last_time", "logprobs", "num_cached",
        "parent", "prompt_logprobs", "prompt_text", "queue", "request", "sent", "stop_reason", "text", "token_ids",
        "wants",
    )  # fmt: skip

    def __init__(
        self,
        request: EngineCoreRequest,
        prompt_text: str | None,
        params: SamplingParams,
        parent: ParentRequest | None,
        index: int,
        queue: RequestOutputCollector | None,
        tokenizer: Tokenizer | None,
    ):
        self.request = request
        self.prompt_text = prompt_text
        self.parent = parent
        self.index = index
        self.queue = queue
        self.text = AnswerText(tokenizer, request) if tokenizer is not None and params.detokenize else None
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

    def output(self) -> RequestOutput:
        """What is known now, or (DELTA) what is new since the last one."""
        request = self.request
        text = "" if self.text is None else self.text.text
        prompt_logprobs = self.prompt_logprobs
        if request.params.output_kind == _DELTA:
            sent, self.sent = self.sent, len(self.token_ids)
            ids = self.token_ids[sent:]
            logprobs = self.logprobs
            self.logprobs = None if logprobs is None else []  # they are big, and nobody needs them again
            self.prompt_logprobs = None
            if self.text is not None:
                self.text.text = ""
        else:
            ids = self.token_ids.copy()
            logprobs = None if self.logprobs is None else self.logprobs.copy()
        answer = CompletionOutput(
            self.index, text, ids, self.cumulative, logprobs, self.finish_reason, self.stop_reason
        )
        return RequestOutput(
            request.request_id,
            self.prompt_text,
            request.prompt_token_ids,
            [answer],
            self.finish_reason is not None,
            prompt_logprobs,
            self.num_cached,
            RequestMetrics(request.arrival_time, self.first_time, self.last_time),
            self.error,
        )


class OutputProcessor:
    """Keeps every live request's emitted tokens, so that a restarted core can go on where the old one stopped.

    Args:
        tokenizer: None leaves all texts empty.
        stages: told when a request has ended.
    """

    def __init__(self, tokenizer: Tokenizer | None, stages: Sequence[RequestStage] = ()):
        self._tokenizer = tokenizer
        self._stages = tuple(stages)
        self._answers: dict[str, _Answer] = {}
        self._parents: dict[str, ParentRequest] = {}
        self._epoch: int | None = None
        self._retired: set[int] = set()

    @property
    def num_unfinished(self) -> int:
        """Answers in flight (n of them for a request with n > 1)."""
        return len(self._answers)

    def add_request(
        self,
        request: EngineCoreRequest,
        prompt_text: str | None,
        params: SamplingParams,
        parent: ParentRequest | None = None,
        index: int = 0,
        queue: RequestOutputCollector | None = None,
    ) -> None:
        """From now on outputs for `request` are known. With a `queue` they go there."""
        request_id = request.request_id
        if request_id in self._answers:
            raise EngineError(f"request id {request_id!r} is in use; ids must be unique while a request runs.")
        self._answers[request_id] = _Answer(request, prompt_text, params, parent, index, queue, self._tokenizer)
        if parent is not None:
            self._parents[parent.request_id] = parent

    def process(self, said: EngineCoreOutput) -> ProcessedOutputs:
        """Takes one step's message."""
        done = ProcessedOutputs()
        if not self._is_current(said.epoch):
            return done
        ended = {f.row: f for f in said.finished}
        families: dict[str, _Answer] = {}
        offset = 0
        for row, request_id in enumerate(said.request_ids):
            start, offset = offset, offset + said.num_new[row]
            answer = self._answers.get(request_id)
            if answer is None:  # ended here already: by a stop string, an abort, or its caller's leaving
                continue
            try:
                self._take_row(answer, said, row, said.token_ids[start:offset], ended.get(row))
            except Exception as error:
                logger.exception("request %s failed while its output was read", request_id)
                answer.finish_reason, answer.error = "error", f"Reading the output failed: {error}"
            if answer.finish_reason is not None and row not in ended:
                done.to_abort.append(request_id)
            self._emit(answer, done, families)
        for answer in families.values():
            self._emit_family(answer, done)
        return done

    def _take_row(
        self, answer: _Answer, said: EngineCoreOutput, row: int, ids: list[int], ended: Finished | None
    ) -> None:
        entries = said.logprobs.get(row, []) if said.logprobs else []
        if ids:
            known = len(answer.token_ids) - said.first_index[row]
            if known < 0:
                raise EngineError(f"{-known} tokens are missing before index {said.first_index[row]}")
            if known > 0:  # a resubmitted request repeats itself
                ids, entries = ids[known:], entries[known:]
        if ids:
            answer.last_time = said.time
            if answer.first_time == 0.0:
                answer.first_time = said.time
        if said.num_cached_tokens and row in said.num_cached_tokens and not answer.token_ids:
            answer.num_cached = said.num_cached_tokens[row]
        if said.prompt_logprobs and row in said.prompt_logprobs and not answer.token_ids:
            wanted = answer.request.params.prompt_logprobs or 0
            answer.prompt_logprobs = read_prompt(said.prompt_logprobs[row], wanted, self._tokenizer)
        answer.take_tokens(ids, entries, ended, self._tokenizer)

    def _emit(self, answer: _Answer, done: ProcessedOutputs, families: dict[str, _Answer]) -> None:
        finished = answer.finish_reason is not None
        if finished:
            del self._answers[answer.request.request_id]
        if answer.request.params.output_kind == _FINAL_ONLY and not finished:
            return
        output = answer.output()
        if answer.parent is not None:
            answer.parent.take(answer.request.request_id, output.outputs[0], output)
            families[answer.parent.request_id] = answer
            return
        if finished:
            self._finish_stages(output.request_id)
        self._deliver(output, answer.queue, done)

    def _emit_family(self, answer: _Answer, done: ProcessedOutputs) -> None:
        parent = answer.parent
        assert parent is not None
        output = parent.output(answer.prompt_text, answer.request.prompt_token_ids)
        if not parent.live:
            self._parents.pop(parent.request_id, None)
            self._finish_stages(parent.request_id)
        if output is not None:
            self._deliver(output, answer.queue, done)

    def _deliver(self, output: RequestOutput, queue: RequestOutputCollector | None, done: ProcessedOutputs) -> None:
        if queue is not None:
            queue.put(output)
        else:
            done.request_outputs.append(output)

    def _finish_stages(self, request_id: str) -> None:
        for stage in self._stages:
            try:
                stage.finish(request_id)
            except Exception:
                logger.exception("%s could not finish request %s", type(stage).__name__, request_id)

    def _is_current(self, epoch: int) -> bool:
        if self._epoch is None and epoch not in self._retired:
            self._epoch = epoch
        return epoch == self._epoch

    def abort(self, request_ids: Iterable[str]) -> ProcessedOutputs:
        """Ends requests (a parent's id ends all its answers); unknown ids are ignored.

        The final outputs, with reason abort, go where the others went; `to_abort` is for the core.
        """
        ids: list[str] = []
        for request_id in request_ids:
            parent = self._parents.get(request_id)
            ids += [request_id] if parent is None else list(parent.live)
        live = [i for i in dict.fromkeys(ids) if i in self._answers]
        done = self._end_all(live, FinishReason.ABORT, None)
        done.to_abort = live
        return done

    def fail(self, request_ids: Iterable[str], error: str) -> ProcessedOutputs:
        """Live requests end with `error`."""
        return self._end_all(list(request_ids), FinishReason.ERROR, error)

    def fail_all(self, error: str) -> ProcessedOutputs:
        """The core is gone and will not come back."""
        return self.fail(list(self._answers), error)

    def num_tokens(self) -> dict[str, int]:
        """Every live request in order of arrival -> its tokens, prompt and answer."""
        return {i: len(a.request.prompt_token_ids) + len(a.token_ids) for i, a in self._answers.items()}

    def resumed(self, request_id: str) -> EngineCoreRequest:
        """A live request with the tokens it has, for a core that has not heard of it."""
        answer = self._answers[request_id]
        return msgspec.structs.replace(answer.request, output_token_ids=answer.token_ids.copy())

    def _end_all(self, ids: list[str], reason: FinishReason, error: str | None) -> ProcessedOutputs:
        done = ProcessedOutputs()
        families: dict[str, _Answer] = {}
        for request_id in ids:
            answer = self._answers[request_id]
            answer.end_from_outside(reason, error)
            self._emit(answer, done, families)
        for answer in families.values():
            self._emit_family(answer, done)
        return done

    def resume_requests(self, epoch: int | None = None) -> list[EngineCoreRequest]:
        """Every live request with the tokens it has, for a new core.

        What the old core may still say is dropped. `epoch` is the new core's; without it the next epoch that is
        not an old one is taken.
        """
        if self._epoch is not None:
            self._retired.add(self._epoch)
        self._epoch = epoch
        return [self.resumed(request_id) for request_id in self._answers]
