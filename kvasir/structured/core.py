"""Door to the core: requests wait until their grammar is ready, and each step's masks follow the tokens before it."""

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from kvasir.errors import KvasirError
from kvasir.logger import get_logger
from kvasir.messages import EngineCoreRequest, ModelRunnerOutput, SchedulerOutput, TokenMasks
from kvasir.scheduler import SKIP, Request
from kvasir.scheduler.request import NO_SLOT
from kvasir.structured.backend import Automaton, GrammarError
from kvasir.structured.compiler import GrammarCompiler
from kvasir.structured.formats import PART

logger = get_logger(__name__)


@dataclass(frozen=True)
class GrammarRow:
    """A row of a plan that samples under a grammar. `slot` is the request's at that time."""

    row: int
    slot: int
    request: Request


class GrammarGate:
    """A `Limiter` of the scheduler and the `MaskSource` of the engine core.

    A request's automaton lives in `Request.parts`: it goes on after a preemption and ends with the request. It is
    advanced to the request's tokens when a mask is wanted, so nothing has to be told of each step.
    """

    asks_decode = False

    def __init__(self, compiler: GrammarCompiler):
        self._compiler = compiler
        self._placed: dict[int, Request] = {}  # slot -> its request, of those with a grammar

    # -- Limiter

    def begin(self) -> None:
        pass

    def limit(self, req: Request, n: int) -> int:
        if req.slot != NO_SLOT or PART not in req.message.parts:
            return n
        return n if self._automaton(req).done() else SKIP

    def take(self, req: Request, n: int) -> None:
        if PART in req.message.parts:
            self._placed[req.slot] = req

    def release(self, req: Request) -> None:
        self._placed.pop(req.slot, None)

    def update(self, step: SchedulerOutput, result: ModelRunnerOutput | None) -> None:
        pass

    def _automaton(self, req: Request) -> "Future[Automaton]":
        """Of the request as it was when this was asked first; a request that is resumed brings tokens along."""
        automaton: Future[Automaton] | None = req.parts.get(PART)
        if automaton is None:
            tokens = req.tokens[req.num_prompt :]
            automaton = req.parts[PART] = self._compiler.automaton(req.message.parts[PART], tokens)
        return automaton

    # -- MaskSource

    def add(self, request: EngineCoreRequest) -> None:
        """A request has arrived: its grammar is compiled while it waits."""
        text = request.parts.get(PART)
        if text is not None:
            self._compiler.grammar(text)

    def rows(self, plan: SchedulerOutput) -> list[GrammarRow] | None:
        """Rows of a plan just made that must not sample before their mask is there; None when there are none."""
        if not self._placed:
            return None
        rows = [
            GrammarRow(row, slot, self._placed[slot])
            for row, (slot, samples) in enumerate(zip(plan.slots, plan.samples, strict=True))
            if samples and slot in self._placed
        ]
        return rows or None

    def masks(self, rows: Sequence[GrammarRow]) -> tuple[TokenMasks | None, dict[int, str]]:
        """The masks of the rows, now that every token before them is known, and the rows that failed with why."""
        slots: list[int] = []
        wanted: list[tuple[int, Automaton]] = []
        errors: dict[int, str] = {}
        for r in rows:
            if r.request.slot != r.slot:  # it ended, or was thrown out, since: nobody will read what it samples
                continue
            try:
                automaton = self._caught_up(r.request)
            except Exception as error:
                errors[r.row] = _reason(r.request, error)
                continue
            if not automaton.ended:
                slots.append(r.slot)
                wanted.append((r.row, automaton))
        if not wanted:
            return None, errors
        try:
            words, complaints = self._compiler.backend.fill([automaton for _, automaton in wanted])
        except Exception as error:
            logger.exception("masks for %d rows failed", len(wanted))
            return None, errors | {row: f"The masks of the step failed: {error}" for row, _ in wanted}
        for (row, _), text in zip(wanted, complaints, strict=True):
            if text is not None:
                errors[row] = f"The grammar of the request cannot go on: {text}"
        return TokenMasks(slots, words), errors

    def _caught_up(self, req: Request) -> Automaton:
        automaton = self._automaton(req).result(timeout=0)
        automaton.advance(req.tokens[req.num_prompt + automaton.num_consumed :])
        return automaton

    def close(self) -> None:
        self._compiler.close()


def _reason(req: Request, error: Exception) -> str:
    if isinstance(error, (GrammarError, KvasirError)):
        return f"The grammar of the request failed: {error}"
    logger.error("the grammar of request %s failed", req.request_id, exc_info=error)
    return f"The grammar of the request failed: {type(error).__name__}: {error}"
