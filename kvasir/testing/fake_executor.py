"""FakeExecutor: a worker without a model that is strict about what it is told.

It keeps slots, block tables and tokens as a real worker does, and writes for each computed token a cell
(token, digest of all tokens up to it) into block and offset. The digest is chained from the cell before, found
through the block table, so a wrong block anywhere in a request's context gives it other tokens, as attention over
wrong keys would. The next token is a function of that digest and the request's seed: `expected_tokens` says what
any request must produce, however it is scheduled.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from kvasir.messages import (
    PROTOCOL_VERSION,
    ModelRunnerOutput,
    Ready,
    SamplingParams,
    SchedulerOutput,
    SlotRequest,
    TokenLogprobs,
    TokenMasks,
)

_MASK = (1 << 61) - 1
_GARBAGE = (-1, -1)  # what a row writes whose state was lost in a failed step

FailureMode = Literal["before", "after"]
"""A scripted failure comes before the worker has heard of the step, or after it took over its state."""


class ContractError(AssertionError):
    """The executor was told something that contradicts what it knows."""


class StepFailure(RuntimeError):
    """A scripted failure."""


def _digest(previous: int, token: int) -> int:
    return (previous * 6364136223846793005 + token * 1442695040888963407 + 1013904223) & _MASK


def _sample(digest: int, seed: int, vocab_size: int) -> int:
    mixed = (digest ^ (seed * 0x9E3779B97F4A7C15)) & _MASK
    mixed = (mixed ^ (mixed >> 31)) * 0xBF58476D1CE4E5B9 & _MASK
    return (mixed >> 17) % vocab_size


def expected_tokens(prompt: Sequence[int], seed: int, count: int, vocab_size: int = 1000) -> list[int]:
    """The first `count` tokens that follow `prompt`, undisturbed and with no stop rule."""
    digest, out = 0, []
    for token in prompt:
        digest = _digest(digest, token)
    for _ in range(count):
        out.append(_sample(digest, seed, vocab_size))
        digest = _digest(digest, out[-1])
    return out


@dataclass(slots=True)
class _Slot:
    request_id: str
    tokens: list[int]
    num_prompt: int
    num_computed: int
    blocks: list[int]
    params: SamplingParams
    seed: int


@dataclass
class FakeExecutor:
    """Executes steps in the order given.

    Attributes:
        delays: step id -> seconds that step takes; with any, steps run on a thread of their own.
        failures: step id -> when in the step it fails.
        row_errors: request id -> message; its first sampling row gives that error instead of a token.
        steps_ahead: how many steps the core may plan before it hears that one failed. Those run on spoiled state,
            so nothing is demanded of what they read; what they write stays, for later steps to be caught by.
        verify: read each row's whole context back and compare it with its tokens (slow for long ones).
        before_step: called with each step before it runs, on the executing thread.
    """

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_model_len: int
    vocab_size: int = 1000
    delays: dict[int, float] = field(default_factory=dict)
    failures: dict[int, FailureMode] = field(default_factory=dict)
    row_errors: dict[str, str] = field(default_factory=dict)
    steps_ahead: int = 1
    verify: bool = True
    before_step: Callable[[SchedulerOutput], None] | None = None

    def __post_init__(self) -> None:
        self.num_steps = 0
        self.num_cells_written = 0
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.masks: dict[int, TokenMasks] = {}
        self._cells: list[list[tuple[int, int] | None]] = [[None] * self.block_size for _ in range(self.num_blocks)]
        self._slots: dict[int, _Slot] = {}
        self._suspect: set[int] = set()  # slots a failed step was about: their state may be anything
        self._retold: set[int] = set()  # slots that may be freed without being in use: a failed step was about them
        self._last_step = -1
        self._blind_until = -1  # last step that may have been planned in ignorance of a failure
        self._results: dict[int, Future[ModelRunnerOutput]] = {}
        self._thread: ThreadPoolExecutor | None = None

    # ---- the executor's interface

    def start(self) -> Ready:
        if self.delays:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="fake-executor")
        return Ready(
            protocol_version=PROTOCOL_VERSION,
            num_blocks=self.num_blocks,
            block_size=self.block_size,
            max_model_len=self.max_model_len,
            max_num_seqs=self.max_num_seqs,
            kv_bytes_per_block=16 * self.block_size,
            device="fake",
            attention_backend="fake",
        )

    def execute_model(self, step: SchedulerOutput) -> None:
        if self._thread is not None:
            self._results[step.step_id] = self._thread.submit(self._run, step)
            return
        future: Future[ModelRunnerOutput] = Future()
        try:
            future.set_result(self._run(step))
        except ContractError:
            raise
        except Exception as error:
            future.set_exception(error)
        self._results[step.step_id] = future

    def sample_tokens(self, step_id: int, masks: TokenMasks | None = None) -> Future[ModelRunnerOutput]:
        """Masks are kept in `masks` by step and change nothing."""
        if masks is not None:
            self.masks[step_id] = masks
        if step_id not in self._results:
            raise ContractError(f"sample_tokens({step_id}): no such step was executed, or it was asked for twice")
        return self._results.pop(step_id)

    def call(self, name: str, args: dict[str, Any]) -> Any:
        self.calls.append((name, args))
        return None

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True, cancel_futures=True)

    # ---- one step

    def _run(self, step: SchedulerOutput) -> ModelRunnerOutput:
        started = time.perf_counter()
        if self.before_step is not None:
            self.before_step(step)
        if step.step_id in self.delays:
            time.sleep(self.delays[step.step_id])
        self._require(step.step_id > self._last_step, f"step {step.step_id} after step {self._last_step}")
        self._last_step = step.step_id
        failure = self.failures.get(step.step_id)
        if failure == "before":
            self._distrust(step)
            raise StepFailure(f"step {step.step_id} failed before it began")
        self._take_over(step)
        if failure == "after":
            self._distrust(step)
            raise StepFailure(f"step {step.step_id} failed half-way")
        self.num_steps += 1
        for row in range(step.num_rows):
            self._write(step, row)
        result = ModelRunnerOutput(step.step_id)
        for row in range(step.num_rows):
            self._read(step, row, result)
        result.step_s = time.perf_counter() - started
        return result

    def _take_over(self, step: SchedulerOutput) -> None:
        """State in the order the message promises: freed slots, new requests, new blocks."""
        seen: set[int] = set()
        for slot in step.freed_slots:
            known = slot in self._slots or slot in self._retold
            self._require(known and slot not in seen, f"slot {slot} is freed and was not in use")
            seen.add(slot)
            self._slots.pop(slot, None)
            self._suspect.discard(slot)
        for new in step.new_requests:
            self._place(new)
        columns = (step.num_scheduled_tokens, step.num_computed_tokens, step.samples, step.num_new_blocks)
        self._require(all(len(c) == step.num_rows for c in columns), f"columns of {step.step_id} differ in length")
        self._require(len(set(step.slots)) == step.num_rows, f"step {step.step_id} has a slot twice")
        self._require(sum(step.num_new_blocks) == len(step.new_block_ids), "numbers of new blocks do not add up")
        at, placed = 0, {new.slot for new in step.new_requests}
        self._require(placed <= set(step.slots), "a new request has no row")
        for slot, count in zip(step.slots, step.num_new_blocks, strict=True):
            blocks, at = step.new_block_ids[at : at + count], at + count
            self._require(slot not in placed or count == 0, f"slot {slot} is new and gets more blocks")
            if slot in self._slots:
                self._check_blocks(blocks)
                self._slots[slot].blocks += blocks
                owned = self._slots[slot].blocks
                sound = slot in self._suspect or len(set(owned)) == len(owned)
                self._require(sound, f"slot {slot} is given a block it has: {owned}")

    def _place(self, new: SlotRequest) -> None:
        free = new.slot not in self._slots or new.slot in self._suspect
        self._require(free, f"slot {new.slot} is given to {new.request_id} and is in use")
        self._require(0 <= new.slot < self.max_num_seqs, f"slot {new.slot} of {self.max_num_seqs}")
        self._require(0 < new.num_prompt_tokens <= len(new.token_ids), f"prompt of {new.request_id}")
        self._require(len(new.token_ids) < self.max_model_len, f"{new.request_id} is too long")
        self._require(new.num_computed_tokens < len(new.token_ids), f"{new.request_id} has nothing to compute")
        self._check_blocks(new.block_ids)
        self._suspect.discard(new.slot)
        self._slots[new.slot] = _Slot(
            new.request_id,
            list(new.token_ids),
            new.num_prompt_tokens,
            new.num_computed_tokens,
            list(new.block_ids),
            new.params,
            new.seed,
        )

    def _check_blocks(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            self._require(0 <= block < self.num_blocks, f"block {block} of {self.num_blocks}")

    def _write(self, step: SchedulerOutput, row: int) -> None:
        slot, count = step.slots[row], step.num_scheduled_tokens[row]
        start = step.num_computed_tokens[row]
        state = self._slots.get(slot)
        if slot in self._suspect:
            self._write_garbage(state, start, count)
            return
        if state is None:
            raise ContractError(f"step {step.step_id} has a row for slot {slot}, which is empty")
        name, end = state.request_id, start + count
        self._require(count >= 1, f"{name} is scheduled with {count} tokens")
        self._require(state.num_computed == start, f"{name} has {state.num_computed} computed, told {start}")
        self._require(end <= len(state.tokens), f"{name} has {len(state.tokens)} tokens, told to compute up to {end}")
        self._require(step.samples[row] == (end == len(state.tokens)), f"{name} samples at the wrong place")
        self._require(end <= len(state.blocks) * self.block_size, f"{name} has no block for token {end - 1}")
        digest = self._cell(state, start - 1)[1] if start else 0
        for position in range(start, end):
            digest = _digest(digest, state.tokens[position])
            self._store(state, position, (state.tokens[position], digest))
        state.num_computed = end

    def _write_garbage(self, state: _Slot | None, start: int, count: int) -> None:
        """What a real worker may do with a row whose state it did not get: write nonsense where it happens to point."""
        for position in range(start, start + count):
            if state is not None and position < len(state.blocks) * self.block_size:
                self._store(state, position, _GARBAGE)
            else:
                self._cells[position * 31 % self.num_blocks][position % self.block_size] = _GARBAGE

    def _read(self, step: SchedulerOutput, row: int, result: ModelRunnerOutput) -> None:
        slot = step.slots[row]
        if slot in self._suspect:
            result.num_sampled.append(int(step.samples[row]))
            result.token_ids += [0] * step.samples[row]
            return
        state, start = self._slots[slot], step.num_computed_tokens[row]
        if self.verify and step.step_id > self._blind_until:
            found = [self._cell(state, p)[0] for p in range(state.num_computed)]
            self._require(
                found == state.tokens[: state.num_computed],
                f"{state.request_id} finds {found} in its blocks and has {state.tokens[: state.num_computed]}",
            )
        if state.params.prompt_logprobs is not None:
            end = min(state.num_computed + 1, state.num_prompt)
            entries = [self._logprobs(state.tokens[p], state.params.prompt_logprobs) for p in range(start + 1, end)]
            if entries:
                result.prompt_logprobs[row] = entries
        if not step.samples[row]:
            result.num_sampled.append(0)
        elif state.request_id in self.row_errors:
            result.errors[row] = self.row_errors.pop(state.request_id)
            result.num_sampled.append(0)
            self._suspect.add(slot)  # the core may have planned its next row already
        else:
            token = _sample(self._cell(state, state.num_computed - 1)[1], state.seed, self.vocab_size)
            state.tokens.append(token)
            result.num_sampled.append(1)
            result.token_ids.append(token)
            if state.params.logprobs is not None:
                result.logprobs[row] = [self._logprobs(token, state.params.logprobs)]

    def _logprobs(self, token: int, k: int) -> TokenLogprobs:
        """Made up, and recognisable by token."""
        best = [(token + i) % self.vocab_size for i in range(1, max(k, 0) + 1)]
        return TokenLogprobs([token, *best], [-0.5 - i for i in range(len(best) + 1)], 1)

    # ---- cells

    def _cell(self, state: _Slot, position: int) -> tuple[int, int]:
        block = state.blocks[position // self.block_size]
        cell = self._cells[block][position % self.block_size]
        if cell is None and self._last_step <= self._blind_until:
            return _GARBAGE
        if cell is None:
            raise ContractError(f"{state.request_id} reads block {block} at token {position}: never written")
        return cell

    def _store(self, state: _Slot, position: int, cell: tuple[int, int]) -> None:
        self._cells[state.blocks[position // self.block_size]][position % self.block_size] = cell
        self.num_cells_written += 1

    def _distrust(self, step: SchedulerOutput) -> None:
        self._blind_until = step.step_id + self.steps_ahead
        about = {*step.slots, *step.freed_slots, *(new.slot for new in step.new_requests)}
        self._suspect |= about
        self._retold |= about

    @staticmethod
    def _require(condition: bool, what: str) -> None:
        if not condition:
            raise ContractError(what)
