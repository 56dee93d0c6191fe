"""One batch from its first line to its last, wherever it stood when the server was ended."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path

from kvasir.entrypoints.batch.answerer import LineAnswerer
from kvasir.entrypoints.batch.lines import BatchAnswer, bounded_lines, custom_id_of, decode_line, refused_line
from kvasir.entrypoints.http.batches.gate import Gate, Withdrawn
from kvasir.entrypoints.http.batches.journal import Journal, answer_id
from kvasir.entrypoints.http.batches.schema import OUTPUT_PURPOSE, Batch, Status, StoredBatch, StoredFile
from kvasir.entrypoints.http.batches.store import Store
from kvasir.entrypoints.http.guard.account import Account
from kvasir.entrypoints.http.guard.caller import Caller, set_caller
from kvasir.errors import CapacityError, UserError
from kvasir.logger import get_logger

logger = get_logger(__name__)

MAX_LINES = 50_000
_FLUSH_S = 0.2
"""How long an answer may wait for the disk; one flush makes all safe that came meanwhile."""
_LIMIT_POLL_S = 10.0
_READ_AHEAD_BYTES = 1 << 20
_UNRUN = {
    "cancelled": ("batch_cancelled", "the batch was cancelled before this line was run."),
    "expired": ("batch_expired", "this line could not be run before the batch's completion window expired."),
}


class BatchJob:
    """Runs one batch; `run` returns when it is over, and may be cancelled and started again at any point.

    Args:
        accounts: of a key by its name, None when there is no such key any more.
        max_line_bytes: a longer line is refused.
        file_ttl_s: how long output files are kept, unless the batch says otherwise.
    """

    def __init__(
        self,
        stored: StoredBatch,
        store: Store,
        answerer: LineAnswerer,
        gate: Gate,
        accounts: Callable[[str], Account | None],
        *,
        max_line_bytes: int,
        file_ttl_s: float,
        clock: Callable[[], float] = time.time,
    ):
        self._stored = stored
        self._store = store
        self._answerer = answerer
        self._gate = gate
        self._accounts = accounts
        self._max_line_bytes = max_line_bytes
        self._file_ttl_s = file_ttl_s
        self._clock = clock
        self._fresh: dict[int, BatchAnswer] = {}  # not on the disk yet
        self._in_hand = asyncio.Semaphore(gate.places)
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    @property
    def _batch(self) -> Batch:
        return self._stored.batch

    def _early_end(self) -> Status | None:
        if self._batch.status == "cancelling":
            return "cancelled"
        return "expired" if self._clock() >= self._batch.expires_at else None

    async def run(self) -> None:
        """Raises what the disk or the engine raises; nothing is lost then, and a new job goes on from there."""
        if self._batch.status == "validating" and not await self._validate():
            return
        output, errors = self._store.path(self._stored.output_id), self._store.path(self._stored.error_id)
        try:
            journal = await asyncio.to_thread(Journal, output, errors)
        except ValueError as e:
            await self._fail("unreadable_answers", f"answers of an earlier run cannot be read: {e}.")
            return
        try:
            if journal.done:
                logger.info("%s goes on: %d lines are answered", self._batch.id, len(journal.done))
            end = await self._answer_lines(journal)
            if end in _UNRUN:
                await self._refuse_rest(journal, end)
        finally:
            await asyncio.to_thread(journal.close)
        await self._finish(journal, end)

    async def _validate(self) -> bool:
        """Counts the lines; what is wrong with single lines is found when they are run."""
        try:
            total = await asyncio.to_thread(self._count)
        except (UserError, OSError) as e:
            message = e.message if isinstance(e, UserError) else f"the input file cannot be read: {e.strerror}."
            await self._fail("invalid_input_file", message)
            return False

        def start(stored: StoredBatch) -> None:
            stored.batch.request_counts.total = total
            if stored.batch.status == "validating":  # else it was cancelled meanwhile
                stored.batch.enter("in_progress", self._clock())

        await self._change(start)
        return True

    def _count(self) -> int:
        total = 0
        for _ in self._lines():
            total += 1
            if total > MAX_LINES:
                raise UserError(f"the input file has more than {MAX_LINES} lines; divide it.")
        if not total:
            raise UserError("the input file has no lines.")
        return total

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        """Number, from 1, and text; blank lines are passed over."""
        with open(self._store.path(self._batch.input_file_id), "rb") as file:
            for number, line in enumerate(bounded_lines(file, self._max_line_bytes), 1):
                if line.strip():
                    yield number, line

    # -- answering --------------------------------------------------------------------------------------------

    async def _answer_lines(self, journal: Journal) -> Status:
        """Runs the lines that have no answer yet; returns how the batch is to end."""
        if (early := self._early_end()) is not None:
            return early
        feeder = asyncio.create_task(self._feed(set(journal.done)))
        try:
            while True:
                await asyncio.wait((feeder,), timeout=_FLUSH_S)
                ended = feeder.done() and not self._tasks
                await self._flush(journal)
                if self._failure is not None:
                    raise self._failure
                if feeder.done():
                    feeder.result()
                if ended:
                    return "completed"
                if (early := self._early_end()) is not None:
                    return early
                if feeder.done() and self._tasks:
                    await asyncio.wait(self._tasks, timeout=_FLUSH_S)
        finally:
            feeder.cancel()
            await _end([feeder, *self._tasks])
            await self._flush(journal)

    async def _feed(self, done: set[int]) -> None:
        """Starts the lines in their order; as many as there may be places are in hand at once."""
        seen: dict[bytes, int] = {}
        lines = self._lines()
        while chunk := await asyncio.to_thread(_take, lines):
            for number, line in chunk:
                repeated = _first_use(line, number, seen)
                if number in done:
                    continue
                await self._in_hand.acquire()
                task = asyncio.create_task(self._one(number, line, repeated))
                self._tasks.add(task)
                task.add_done_callback(self._landed)

    def _landed(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._in_hand.release()
        if not task.cancelled() and task.exception() is not None:
            self._failure = self._failure or task.exception()

    async def _one(self, number: int, line: bytes, repeated: int | None) -> None:
        batch = self._batch
        own_id = answer_id(batch.id, number)
        if repeated is not None:
            message = f"the custom_id of line {number} is that of line {repeated} too."
            self._fresh[number] = refused_line(own_id, custom_id_of(line), "duplicate_custom_id", message)
            return
        if not await self._admitted():
            message = f"the key {self._stored.owner!r}, which made the batch, is no longer there."
            self._fresh[number] = refused_line(own_id, custom_id_of(line), "invalid_api_key", message)
            return
        work = partial(self._answerer.answer, line, own_id, batch.endpoint)
        withdrawals = 0
        while True:
            try:
                self._fresh[number] = await self._gate.run(work, withdrawals)
                return
            except Withdrawn:
                withdrawals += 1

    async def _admitted(self) -> bool:
        """Waits while the owner's key is at one of its limits; what follows is done on its account."""
        while True:
            account = self._accounts(self._stored.owner)
            if account is None:
                return False
            try:
                account.admit()
            except CapacityError as e:
                await asyncio.sleep(min(max(e.retry_after_s, 1.0), _LIMIT_POLL_S))
            else:
                set_caller(Caller(account, self._batch.id, "/v1/batches"))
                return True

    async def _flush(self, journal: Journal) -> None:
        """Answers to the disk, then the counts, and back comes the batch's status, which others may have changed."""
        taken, self._fresh = self._fresh, {}
        if taken:
            await asyncio.to_thread(journal.write, taken)
        counts = self._batch.request_counts
        if (counts.completed, counts.failed) != (journal.num_completed, journal.num_failed):

            def count(stored: StoredBatch) -> None:
                stored.batch.request_counts.completed = journal.num_completed
                stored.batch.request_counts.failed = journal.num_failed

            await self._change(count)
        else:
            self._stored = await asyncio.to_thread(self._store.batch, self._batch.id)

    async def _refuse_rest(self, journal: Journal, end: Status) -> None:
        code, message = _UNRUN[end]
        lines = self._lines()
        while chunk := await asyncio.to_thread(_take, lines):
            self._fresh = {
                number: refused_line(answer_id(self._batch.id, number), custom_id_of(line), code, message)
                for number, line in chunk
                if number not in journal.done
            }
            await self._flush(journal)

    # -- the end ----------------------------------------------------------------------------------------------

    async def _finish(self, journal: Journal, end: Status) -> None:
        now = self._clock()
        ttl_s = self._stored.output_ttl_s or self._file_ttl_s
        shown = {"output": (journal.output, journal.num_completed), "error": (journal.errors, journal.num_failed)}
        files = [
            _output_file(path, f"{self._batch.id}_{kind}.jsonl", now, ttl_s) for kind, (path, n) in shown.items() if n
        ]

        def finish(stored: StoredBatch) -> None:
            batch = stored.batch
            batch.output_file_id = stored.output_id if journal.num_completed else None
            batch.error_file_id = stored.error_id if journal.num_failed else None
            counts = batch.request_counts
            counts.total = max(counts.total, counts.completed + counts.failed)  # cancelled before it was counted
            batch.finalizing_at = int(now)
            batch.enter(end, now)

        await self._change(finish, files, now + self._file_ttl_s)
        for path, n in shown.values():
            if not n:
                path.unlink(missing_ok=True)
        counts = self._batch.request_counts
        logger.info("%s is %s: %d answered, %d failed", self._batch.id, end, counts.completed, counts.failed)

    async def _fail(self, code: str, message: str) -> None:
        def fail(stored: StoredBatch) -> None:
            error = {"code": code, "message": message, "param": None, "line": None}
            stored.batch.errors = {"object": "list", "data": [error]}
            stored.batch.enter("failed", self._clock())

        await self._change(fail, delete_at=self._clock() + self._file_ttl_s)
        logger.info("%s has failed: %s", self._batch.id, message)

    async def _change(
        self,
        fn: Callable[[StoredBatch], None],
        new_files: Sequence[StoredFile] = (),
        delete_at: float | None = None,
    ) -> None:
        self._stored = await asyncio.to_thread(self._store.change, self._batch.id, fn, new_files, delete_at)


async def _end(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)


def _take(lines: Iterator[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The next ones; none when there are no more."""
    taken, size = [], 0
    for number, line in lines:
        taken.append((number, line))
        size += len(line)
        if size >= _READ_AHEAD_BYTES:
            break
    return taken


def _first_use(line: bytes, number: int, seen: dict[bytes, int]) -> int | None:
    """The earlier line with the same custom_id, if there is one."""
    try:
        custom_id = decode_line(line).custom_id
    except UserError:
        return None
    first = seen.setdefault(blake2b(custom_id.encode("utf-8", "surrogatepass"), digest_size=16).digest(), number)
    return first if first != number else None


def _output_file(path: Path, filename: str, now: float, ttl_s: float) -> StoredFile:
    return StoredFile(
        id=path.name,
        bytes=path.stat().st_size,
        created_at=int(now),
        expires_at=int(now + ttl_s),
        filename=filename,
        purpose=OUTPUT_PURPOSE,
    )
