"""A stream that begins before its answer does: the head and comments first, then what the model says."""

import msgspec
from starlette.types import Message, Send

from kvasir.entrypoints.http.error_shapes import MESSAGES_PATH
from kvasir.entrypoints.http.reply import KEEP_ALIVE, SSE_HEADERS


class PatientSend:
    """Passes everything on until the first `beat`; from then on, the head of the answer is already out.

    An answer that turns out to be an error becomes the stream's last event, in the words of its API.
    """

    def __init__(self, send: Send, path: str):
        self._send = send
        self._path = path
        self.started = False
        self._error: bytearray | None = None

    async def beat(self) -> None:
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": 200, "headers": list(SSE_HEADERS)})
        await self._send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})

    async def __call__(self, message: Message) -> None:
        if not self.started:
            await self._send(message)
        elif message["type"] == "http.response.start":
            if message["status"] != 200:
                self._error = bytearray()
        elif self._error is None:
            await self._send(message)
        else:
            self._error += message.get("body", b"")
            if not message.get("more_body", False):
                await self._send({"type": "http.response.body", "body": error_event(self._path, bytes(self._error))})


def error_event(path: str, body: bytes) -> bytes:
    """The body of an error answer as what ends a stream."""
    if path.startswith(MESSAGES_PATH):
        return b"event: error\ndata: " + body + b"\n\n"
    if path == "/v1/responses":
        error = msgspec.json.decode(body)["error"]
        event = {"type": "error", "code": error["code"] or error["type"], "message": error["message"]}
        data = msgspec.json.encode({**event, "param": error["param"], "sequence_number": 0})
        return b"event: error\ndata: " + data + b"\n\n"
    return b"data: " + body + b"\n\ndata: [DONE]\n\n"
