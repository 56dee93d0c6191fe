"""Hub: one engine for several front processes. It has the cores; they have the HTTP, the text and the streams.

A front sends checked requests and aborts, and gets the rows of its own requests, as from a core (`RemoteCore`). The
hub notes each token, for it is the one who tells a restarted core where a request stood; it makes no text of it. A
front that is gone takes its requests with it and nobody else's.

*Ring*: front. *Knows nothing about* HTTP, or how front processes are started.
"""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

from kvasir.engine.async_llm import AsyncLLM
from kvasir.errors import EngineDeadError, EngineRestartingError, KvasirError
from kvasir.logger import get_logger
from kvasir.messages import (
    Control,
    EngineCoreOutput,
    EngineCoreRequest,
    Finished,
    FinishReason,
    Reply,
    RequestOutputKind,
    wire,
)
from kvasir.utils import frames

logger = get_logger(__name__)

MAX_UNREAD_BYTES = 256 << 20
"""A front that leaves so much unread hangs; it is cut off, and whoever watches it starts another."""

HubCall = Callable[[int, dict[str, Any]], Any]
"""(client index, arguments) -> the answer to a front's call that is not for the cores."""


class Hub:
    """Serves fronts until they close their sockets.

    Args:
        engine: without input processor and tokenizer.
        calls: what fronts may ask beside what the cores answer, by name.
    """

    def __init__(self, engine: AsyncLLM, calls: dict[str, HubCall] | None = None):
        self._engine = engine
        self._calls = calls or {}
        self._fronts: dict[int, _Front] = {}
        engine.add_output_listener(self._forward)

    async def serve(self, sock: socket.socket, client_index: int) -> None:
        """One front, until it is gone; then its requests are aborted."""
        protocol = frames.FrameProtocol()
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_unix_connection(lambda: protocol, sock=sock)
        front = self._fronts[client_index] = _Front(transport, client_index)
        tasks: set[asyncio.Task[None]] = set()
        try:
            while (received := await protocol.receive()) is not None:
                for frame in received:
                    message = wire.decode(frame)
                    if isinstance(message, EngineCoreRequest):
                        self._submit(front, message)
                    elif message.name == "abort":
                        for request_id in message.args["request_ids"]:
                            self._engine.abort_now(request_id)
                    else:
                        task = asyncio.create_task(self._answer(front, message))
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
        except Exception:
            logger.exception("front process %d said something that cannot be read; it is cut off", client_index)
        finally:
            if self._fronts.get(client_index) is front:
                del self._fronts[client_index]
            transport.close()
            for task in tasks:
                task.cancel()
            for request_id in list(front.live):
                self._engine.abort_now(request_id)

    def _submit(self, front: "_Front", request: EngineCoreRequest) -> None:
        request.client_index = front.index
        request.params.output_kind = RequestOutputKind.FINAL_ONLY  # its rows are passed on; only its end is of interest
        request_id = request.request_id
        try:
            collector = self._engine.submit(request, on_output=lambda: self._ended(front, request_id))
        except Exception as error:
            text = error.message if isinstance(error, KvasirError) else f"The engine failed on it: {error}"
            front.say_error(request_id, text)
            return
        front.live[request_id] = collector.get_nowait

    def _ended(self, front: "_Front", request_id: str) -> None:
        """Most ends were told by the core, and are passed on already; what ended here is told here."""
        read = front.live.pop(request_id, None)
        output = read() if read is not None else None
        if output is not None and output.error is not None:
            front.say_error(request_id, output.error, len(output.outputs[0].token_ids))

    def _forward(self, said: EngineCoreOutput) -> None:
        front = self._fronts.get(said.client_index)
        if front is not None and (said.request_ids or said.events):
            # The scheduler's figures are the hub's to count: once, not once a front.
            front.send(said if said.stats is None else msgspec.structs.replace(said, stats=None))

    async def _answer(self, front: "_Front", message: Control) -> None:
        try:
            if message.name == "check":
                value = await self._check(bool(message.args.get("fully")))
            elif message.name in self._calls:
                value = self._calls[message.name](front.index, message.args)
            else:
                value = await self._engine.call(message.name, **message.args)
            reply = Reply(message.call_id, value)
        except KvasirError as error:
            reply = Reply(message.call_id, error=error.message)
        except Exception as error:
            logger.exception("a front's call of %s failed", message.name)
            reply = Reply(message.call_id, error=f"{type(error).__name__}: {error}")
        if message.call_id:
            front.send(reply)

    async def _check(self, fully: bool) -> dict[str, Any] | None:
        try:
            await (self._engine.check_ready() if fully else self._engine.check_health())
        except EngineDeadError as error:
            return {"why": error.message, "is_restarting": isinstance(error, EngineRestartingError)}
        return None


class _Front:
    """One connected front. `live` maps its unfinished requests to how to read their end."""

    def __init__(self, transport: asyncio.WriteTransport, index: int):
        self._transport = transport
        self.index = index
        self.live: dict[str, Callable[[], Any]] = {}

    def send(self, message: EngineCoreOutput | Reply) -> None:
        if self._transport.is_closing():
            return
        self._transport.write(frames.pack(wire.encode(message)))
        if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            logger.error("front process %d does not read what it is sent; it is cut off", self.index)
            self._transport.abort()

    def say_error(self, request_id: str, error: str, num_tokens: int = 0) -> None:
        self.send(
            EngineCoreOutput(
                0,
                -1,
                time.time(),
                [request_id],
                [num_tokens],
                [0],
                finished=[Finished(0, FinishReason.ERROR, error=error)],
            )
        )
