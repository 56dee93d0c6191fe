"""What the core says, step by step, to what callers read: text, log-probabilities, the reason it ended.

The front has the last word on an answer's end: a stop string cuts text, ids and log-probabilities, and
whatever the core computed beyond it is dropped.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count

import msgspec

from kvasir.engine.answer import AnswerState
from kvasir.engine.collector import RequestOutputCollector
from kvasir.engine.logprobs import read_prompt
from kvasir.engine.stage import RequestStage
from kvasir.errors import EngineError
from kvasir.logger import get_logger
from kvasir.messages import EngineCoreOutput, EngineCoreRequest, Finished, FinishReason, RequestOutput
from kvasir.tokenizer import Tokenizer

logger = get_logger(__name__)


@dataclass(slots=True)
class ProcessedOutputs:
    """`moved` are the collectors that have something to read which had nothing before; `to_abort` are requests to
    end in the core."""

    moved: list[RequestOutputCollector] = field(default_factory=list)
    to_abort: list[str] = field(default_factory=list)

    def read(self) -> list[RequestOutput]:
        """The outputs, for an engine whose caller waits for them."""
        return [output for collector in self.moved if (output := collector.get_nowait()) is not None]


class OutputProcessor:
    """Keeps every live request's emitted tokens, so that a restarted core can go on where the old one stopped.

    Args:
        tokenizer: None leaves all texts empty.
        stages: told when a request has ended.

    Attributes:
        loads: of each core, the answers in flight that it has.
    """

    def __init__(self, tokenizer: Tokenizer | None, stages: Sequence[RequestStage] = (), num_cores: int = 1):
        self._tokenizer = tokenizer
        self._stages = tuple(stages)
        self._answers: dict[str, AnswerState] = {}
        self._families: dict[str, RequestOutputCollector] = {}  # those of several answers
        self._broken: list[str] = []  # ended while they were read; the core has not heard
        self.loads = [0] * num_cores

    @property
    def num_unfinished(self) -> int:
        """Answers in flight (n of them for a request with n > 1)."""
        return len(self._answers)

    def add_request(
        self,
        request: EngineCoreRequest,
        children: Sequence[EngineCoreRequest],
        prompt_text: str | None = None,
        on_output: Callable[[], None] | None = None,
        core: int = 0,
    ) -> RequestOutputCollector:
        """From now on outputs for `children` (see `fan_out`) are known, as the answers of `request`."""
        for child in children:
            if child.request_id in self._answers:
                raise EngineError(
                    f"request id {child.request_id!r} is in use; ids must be unique while a request runs."
                )
        collector = RequestOutputCollector(request, prompt_text, on_output, self._break)
        for index, child in enumerate(children):
            answer = AnswerState(child, index, self._tokenizer, collector, core)
            collector.answers.append(answer)
            self._answers[child.request_id] = answer
        self.loads[core] += len(children)
        if len(children) > 1:
            self._families[request.request_id] = collector
        return collector

    def process(self, said: EngineCoreOutput) -> ProcessedOutputs:
        """Takes one step's message."""
        done = ProcessedOutputs(to_abort=self._broken)
        self._broken = []
        ended = {f.row: f for f in said.finished}
        if said.num_new.count(1) == len(said.num_new):
            self._take_single_tokens(said, ended, done)
        else:
            self._take_any(said, ended, done)
        return done

    def _take_single_tokens(self, said: EngineCoreOutput, ended: dict[int, Finished], done: ProcessedOutputs) -> None:
        """A token for each row, as in most steps; and most rows are those of running answers that just go on."""
        special = {*ended, *said.logprobs, *said.prompt_logprobs, *said.num_cached_tokens}
        answers, now = map(self._answers.get, said.request_ids), said.time
        for row, answer, first, token in zip(count(), answers, said.first_index, said.token_ids, strict=False):
            if answer is None:  # ended here already: by a stop string, an abort, or its caller's leaving
                continue
            known = answer.token_ids
            if answer.is_plain and 0 < first == len(known) and row not in special:
                known.append(token)
                if answer.waiting is not None:
                    answer.waiting.append(token)
                answer.last_time = now
                if answer.is_watched:
                    answer.moved = True
                    if answer.collector.wants_news:
                        answer.collector.note_news(done.moved)
            else:
                self._take_row(answer, said, row, [token], ended.get(row), done)

    def _take_any(self, said: EngineCoreOutput, ended: dict[int, Finished], done: ProcessedOutputs) -> None:
        start = 0
        for row, (request_id, num_new) in enumerate(zip(said.request_ids, said.num_new, strict=True)):
            answer = self._answers.get(request_id)
            if answer is not None:
                self._take_row(answer, said, row, said.token_ids[start : start + num_new], ended.get(row), done)
            start += num_new

    def _take_row(
        self,
        answer: AnswerState,
        said: EngineCoreOutput,
        row: int,
        ids: list[int],
        ended: Finished | None,
        done: ProcessedOutputs,
    ) -> None:
        try:
            self._read_row(answer, said, row, ids, ended)
        except Exception as error:
            logger.exception("request %s failed while its output was read", answer.request.request_id)
            answer.finish_reason, answer.error = "error", f"Reading the output failed: {error}"
        if answer.finish_reason is not None and ended is None:
            done.to_abort.append(answer.request.request_id)
        self._note(answer, done)

    def _read_row(
        self, answer: AnswerState, said: EngineCoreOutput, row: int, ids: list[int], ended: Finished | None
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

    def _note(self, answer: AnswerState, done: ProcessedOutputs) -> None:
        """Something has come for `answer`; its end among it, perhaps."""
        answer.moved = True
        collector = answer.collector
        if collector.stay is not None and answer.token_ids:
            collector.stay.start()
        if answer.finish_reason is not None:
            self._end(answer)
        if collector.wants_news:
            collector.note_news(done.moved)

    def _break(self, answer: AnswerState, error: Exception) -> None:
        """An answer cannot be read as text. It ends with what was read; the core hears of it after its next step."""
        request_id = answer.request.request_id
        logger.error("request %s failed while its output was read", request_id, exc_info=error)
        answer.text, answer.waiting = None, None
        answer.finish_reason, answer.error = "error", f"Reading the output failed: {error}"
        if request_id in self._answers:
            self._broken.append(request_id)
            self._end(answer)

    def _end(self, answer: AnswerState) -> None:
        del self._answers[answer.request.request_id]
        self.loads[answer.core] -= 1
        collector = answer.collector
        if collector.note_end():
            self._families.pop(collector.request_id, None)
            self._finish_stages(collector.request_id)

    def _finish_stages(self, request_id: str) -> None:
        for stage in self._stages:
            try:
                stage.finish(request_id)
            except Exception:
                logger.exception("%s could not finish request %s", type(stage).__name__, request_id)

    def abort(self, request_ids: Iterable[str]) -> ProcessedOutputs:
        """Ends requests (the id of a request with n answers ends all of them); unknown ids are ignored.

        The final outputs, with reason abort, go where the others went; `to_abort` is for the core.
        """
        ids: list[str] = []
        for request_id in request_ids:
            family = self._families.get(request_id)
            ids += [request_id] if family is None else [answer.request.request_id for answer in family.answers]
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

    def live(self, core: int) -> dict[str, int]:
        """Every unfinished request of a core, in order of arrival -> its tokens, prompt and answer."""
        return {
            i: len(a.request.prompt_token_ids) + len(a.token_ids) for i, a in self._answers.items() if a.core == core
        }

    def move(self, request_id: str, core: int) -> None:
        """Another core goes on with it."""
        answer = self._answers[request_id]
        self.loads[answer.core] -= 1
        self.loads[core] += 1
        answer.core = core

    def resumed(self, request_id: str) -> EngineCoreRequest:
        """A live request with the tokens it has, for a core that has not heard of it."""
        answer = self._answers[request_id]
        return msgspec.structs.replace(answer.request, output_token_ids=answer.token_ids.copy())

    def _end_all(self, ids: list[str], reason: FinishReason, error: str | None) -> ProcessedOutputs:
        done = ProcessedOutputs()
        for request_id in ids:
            answer = self._answers[request_id]
            answer.end_from_outside(reason, error)
            self._note(answer, done)
        return done
