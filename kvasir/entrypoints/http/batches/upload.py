"""multipart/form-data, straight to the disk: memory stays small whatever is sent, and so does what may be sent."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive, Scope

from kvasir.entrypoints.http.errors import BodyTimeoutError, BodyTooLargeError, ClientGone
from kvasir.entrypoints.http.middleware import header
from kvasir.errors import UserError

MAX_FIELDS = 16
MAX_FIELD_BYTES = 4096
MAX_NAME_CHARS = 255
_OVERHEAD_BYTES = 64 << 10
"""What boundaries, headers and small fields may add to the file's own size."""
_CHUNK_BYTES = 1 << 20
_MAX_UPLOAD_S = 3600.0


class Form:
    """The parts of one upload: small fields in memory, the part named `file` in `sink`.

    Attributes:
        filename: of the file; None until it has come.
    """

    def __init__(self, boundary: bytes, sink: IO[bytes], max_file_bytes: int):
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._sink = sink
        self._room = max_file_bytes
        self._max_file_bytes = max_file_bytes
        self._headers: dict[bytes, bytes] = {}
        self._header, self._value = b"", b""
        self._name, self._data = "", bytearray()
        self._is_file = False
        self.is_complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._on_header,
                "on_header_value": self._on_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._open,
                "on_part_data": self._on_data,
                "on_part_end": self._close,
                "on_end": self._end,
            },
        )

    def feed(self, data: bytes) -> None:
        """Raises UserError, BodyTooLargeError."""
        try:
            self._parser.write(data)
        except FormParserError as e:
            raise UserError(f"the body is no valid multipart/form-data: {e}.") from None

    def _begin(self) -> None:
        if len(self.fields) + (self.filename is not None) >= MAX_FIELDS:
            raise UserError(f"an upload may have {MAX_FIELDS} parts.")
        self._headers = {}

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header, self._value = b"", b""

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode("utf-8", errors="replace")
        self._data = bytearray()
        self._is_file = self._name == "file"
        if self._is_file:
            if self.filename is not None:
                raise UserError("an upload has one file; this one has two parts named file.", param="file")
            name = options.get(b"filename", b"").decode("utf-8", errors="replace")
            self.filename = name[:MAX_NAME_CHARS] or "upload"

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if self._is_file:
            self._room -= end - start
            if self._room < 0:
                raise too_large(self._max_file_bytes)
            self._sink.write(data[start:end])
            return
        self._data += data[start:end]
        if len(self._data) > MAX_FIELD_BYTES:
            raise UserError(f"the field {self._name!r:.80} may have {MAX_FIELD_BYTES} bytes.", param=self._name)

    def _close(self) -> None:
        if not self._is_file:
            self.fields[self._name] = self._data.decode("utf-8", errors="replace")

    def _end(self) -> None:
        self.is_complete = True


async def read_form(scope: Scope, receive: Receive, path: Path, max_file_bytes: int, idle_s: float) -> Form:
    """Reads a request's form; the file's bytes are in `path`, and on the disk, when it returns.

    Args:
        idle_s: how long the client may stay silent.

    Raises:
        UserError, BodyTooLargeError, BodyTimeoutError, ClientGone: `path` may have something in it.
    """
    kind, options = parse_options_header(header(scope, b"content-type") or b"")
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise UserError("send the file as multipart/form-data with the parts purpose and file.")
    length = header(scope, b"content-length") or b""
    if length.isdigit() and int(length) > max_file_bytes + _OVERHEAD_BYTES:
        raise too_large(max_file_bytes)
    with open(path, "wb") as sink:
        try:
            form = Form(options[b"boundary"], sink, max_file_bytes)
        except FormParserError as e:
            raise UserError(f"the body is no valid multipart/form-data: {e}.") from None
        try:
            async with asyncio.timeout(_MAX_UPLOAD_S):
                await _feed(form.feed, receive, idle_s, max_file_bytes + _OVERHEAD_BYTES)
        except TimeoutError:
            raise BodyTimeoutError(f"the upload did not arrive within {_MAX_UPLOAD_S:g} s.") from None
        if not form.is_complete:
            raise UserError("the upload ends in the middle of a part.")
        await asyncio.to_thread(_sync, sink)
    return form


async def _feed(feed: Callable[[bytes], None], receive: Receive, idle_s: float, max_bytes: int) -> None:
    waiting = bytearray()
    size, more = 0, True
    while more:
        try:
            message = await asyncio.wait_for(receive(), idle_s)
        except TimeoutError:
            raise BodyTimeoutError(f"nothing of the upload came for {idle_s:g} s.") from None
        if message["type"] == "http.disconnect":
            raise ClientGone
        waiting += message.get("body", b"")
        more = message.get("more_body", False)
        size += len(message.get("body", b""))
        if size > max_bytes:
            raise BodyTooLargeError(f"the upload has {size} bytes or more, and its bound is {max_bytes}.")
        if len(waiting) >= _CHUNK_BYTES or not more:
            await asyncio.to_thread(feed, bytes(waiting))  # parses and writes: not in the way of streams
            waiting.clear()


def too_large(max_bytes: int) -> BodyTooLargeError:
    return BodyTooLargeError(f"a file may have {max_bytes} bytes (--batch-max-file-size).", param="file")


def _sync(sink: IO[bytes]) -> None:
    sink.flush()
    os.fsync(sink.fileno())
