"""`kvasir run-batch`: a file of lines through an engine of its own, answers in the order of the lines."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

import msgspec

from kvasir.entrypoints.batch.answerer import LineAnswerer, OneModel
from kvasir.entrypoints.batch.lines import BatchAnswer, bounded_lines
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import ConfigError, UserError

if TYPE_CHECKING:
    from kvasir.config import EngineArgs

_WINDOW = 4
"""How far answers may run ahead of the first unfinished one, in multiples of the concurrency."""


@dataclass
class BatchCounts:
    total: int = 0
    failed: int = 0


class OrderedRun:
    """Answers lines with at most `concurrency` of them in the engine."""

    def __init__(self, answerer: LineAnswerer, concurrency: int):
        if concurrency < 1:
            raise ConfigError(f"--concurrency must be at least 1, got {concurrency}.")
        self._answerer = answerer
        self._concurrency = concurrency
        self._places = asyncio.Semaphore(concurrency)

    async def answers(self, lines: Iterable[bytes]) -> AsyncIterator[BatchAnswer]:
        """In the order of the lines; blank lines are passed over. Memory is bounded whatever the file's length.

        Raises:
            EngineDeadError: nothing that follows can be answered.
            UserError: a line is longer than the bound.
        """
        queue: asyncio.Queue[asyncio.Task[BatchAnswer] | None] = asyncio.Queue(self._concurrency * _WINDOW)

        async def feed() -> None:
            try:
                for line in lines:
                    if line.strip():
                        await queue.put(asyncio.create_task(self._answer(line)))
            finally:
                await queue.put(None)

        feeder = asyncio.create_task(feed())
        try:
            while (task := await queue.get()) is not None:
                yield await task
            await feeder
        finally:
            feeder.cancel()
            while not queue.empty():
                if (task := queue.get_nowait()) is not None:
                    task.cancel()

    async def _answer(self, line: bytes) -> BatchAnswer:
        async with self._places:
            return await self._answerer.answer(line, f"batch_req_{uuid.uuid4().hex}")


def run_batch_file(
    args: "EngineArgs", input_path: str, output_path: str, *, concurrency: int | None, progress: bool
) -> BatchCounts:
    """Runs a file through an engine of its own."""
    from kvasir.engine.async_llm import AsyncLLM

    try:
        source, sink = open(input_path, "rb"), open(output_path, "wb")
    except OSError as e:
        raise ConfigError(f"cannot open {e.filename}: {e.strerror}.") from None
    with source, sink:
        engine = AsyncLLM.from_engine_args(args)
        places = concurrency or max(1, min(2 * engine.config.scheduler.max_num_seqs, 1024))

        async def run() -> BatchCounts:
            try:
                return await write_answers(Serving(engine, ServerSettings()), source, sink, places, progress)
            finally:
                engine.shutdown()  # here, since the engine's connection belongs to this event loop

        return asyncio.run(run())


async def write_answers(
    serving: Serving, source: IO[bytes], sink: IO[bytes], concurrency: int, progress: bool
) -> BatchCounts:
    """Raises ConfigError for an input that cannot be read as lines."""
    from tqdm import tqdm

    total = sum(1 for line in source if line.strip()) if source.seekable() else None
    if total is not None:
        source.seek(0)
    counts = BatchCounts()
    encoder = msgspec.json.Encoder()
    run = OrderedRun(LineAnswerer(OneModel(serving)), concurrency)
    with tqdm(total=total, unit="req", disable=not progress) as bar:
        try:
            async for answer in run.answers(bounded_lines(source)):
                counts.total += 1
                counts.failed += not answer.succeeded
                sink.write(encoder.encode(answer) + b"\n")
                bar.update()
        except UserError as e:
            raise ConfigError(e.message) from None
    return counts
