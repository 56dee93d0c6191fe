"""OpenAI's batch format: a JSONL file of requests in, a JSONL file of answers out, in the same order.

The requests go through the same checks and the same rendering as those of the HTTP server; a wrong line is
answered with an error object and the others go on.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from kvasir.entrypoints.http.body import decode
from kvasir.entrypoints.http.errors import error_body, error_status, log_unexpected
from kvasir.entrypoints.http.schema import ChatCompletionRequest, CompletionRequest
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import ConfigError, EngineDeadError, QueueFullError, UserError

if TYPE_CHECKING:
    from kvasir.config import EngineArgs

MAX_LINE_BYTES = 64 << 20
_WINDOW = 4
"""How far answers may run ahead of the first unfinished one, in multiples of the concurrency."""
_RETRY_S = 0.2


class BatchLine(Struct, kw_only=True):
    custom_id: Annotated[str, Meta(max_length=1024)]
    url: str
    body: msgspec.Raw
    method: str = "POST"


class BatchResponse(Struct):
    status_code: int
    request_id: str
    body: Any


class BatchAnswer(Struct):
    id: str
    custom_id: str | None
    response: BatchResponse | None
    error: dict[str, Any] | None


@dataclass
class BatchCounts:
    total: int = 0
    failed: int = 0


class BatchRunner:
    """Answers lines with at most `concurrency` requests in the engine."""

    def __init__(self, serving: Serving, concurrency: int):
        if concurrency < 1:
            raise ConfigError(f"--concurrency must be at least 1, got {concurrency}.")
        self._serving = serving
        self._concurrency = concurrency
        self._places = asyncio.Semaphore(concurrency)
        self._decoder = msgspec.json.Decoder(BatchLine)

    async def answers(self, lines: Iterable[bytes]) -> AsyncIterator[BatchAnswer]:
        """In the order of the lines; blank lines are passed over. Memory is bounded whatever the file's length."""
        queue: asyncio.Queue[asyncio.Task[BatchAnswer] | None] = asyncio.Queue(self._concurrency * _WINDOW)

        async def feed() -> None:
            for line in lines:
                if line.strip():
                    await queue.put(asyncio.create_task(self._answer(line)))
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
        answer_id = f"batch_req_{uuid.uuid4().hex}"
        try:
            item = self._decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            return BatchAnswer(answer_id, _custom_id(line), None, _line_error(f"the line is no batch request: {e}"))
        request_id = uuid.uuid4().hex
        try:
            async with self._places:
                body: Any = msgspec.Raw(await self._body(item, request_id))
                status = 200
        except Exception as e:
            log_unexpected(e, item.custom_id)
            body, status = error_body(e), error_status(e)
            if isinstance(e, EngineDeadError):
                raise  # nothing that follows can be answered; stop with what there is
        return BatchAnswer(answer_id, item.custom_id, BatchResponse(status, request_id, body), None)

    async def _body(self, item: BatchLine, request_id: str) -> bytes:
        make, cls = self._route(item)
        request = decode(bytes(item.body), cls)
        if request.stream:
            raise UserError("stream is not available in a batch; leave it out.", param="stream")
        while True:
            answer = await make(request, request_id)
            try:
                return await answer.whole()
            except QueueFullError:
                await asyncio.sleep(_RETRY_S)

    def _route(self, item: BatchLine) -> tuple[Callable[..., Any], Any]:
        routes: dict[str, tuple[Callable[..., Any], Any]] = {
            "/v1/chat/completions": (self._serving.chat, ChatCompletionRequest),
            "/v1/completions": (self._serving.completion, CompletionRequest),
        }
        if item.method.upper() != "POST" or item.url not in routes:
            raise UserError(f"{item.method} {item.url} is not available in a batch; use POST {' or '.join(routes)}.")
        return routes[item.url]


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
                return await _write_answers(Serving(engine, ServerSettings()), source, sink, places, progress)
            finally:
                engine.shutdown()  # here, since the engine's connection belongs to this event loop

        return asyncio.run(run())


async def _write_answers(
    serving: Serving, source: IO[bytes], sink: IO[bytes], concurrency: int, progress: bool
) -> BatchCounts:
    from tqdm import tqdm

    total = sum(1 for line in source if line.strip()) if source.seekable() else None
    if total is not None:
        source.seek(0)
    counts = BatchCounts()
    encoder = msgspec.json.Encoder()
    with tqdm(total=total, unit="req", disable=not progress) as bar:
        async for answer in BatchRunner(serving, concurrency).answers(_bounded_lines(source)):
            counts.total += 1
            counts.failed += answer.response is None or answer.response.status_code != 200
            sink.write(encoder.encode(answer) + b"\n")
            bar.update()
    return counts


def _bounded_lines(source: IO[bytes]) -> Iterator[bytes]:
    while line := source.readline(MAX_LINE_BYTES):
        if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
            raise ConfigError(f"a line of the input has {MAX_LINE_BYTES} bytes or more; that is the bound.")
        yield line


def _custom_id(line: bytes) -> str | None:
    """The id of a broken line, if it has one: the caller wants to know which it was."""
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    custom_id = value.get("custom_id") if isinstance(value, dict) else None
    return custom_id if isinstance(custom_id, str) else None


def _line_error(message: str) -> dict[str, Any]:
    return {"code": "invalid_request", "message": message}
