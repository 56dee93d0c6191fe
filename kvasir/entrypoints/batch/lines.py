"""Lines of a batch, as they come in and as they go out."""

from collections.abc import Iterator
from typing import IO, Annotated, Any

import msgspec
from msgspec import Meta, Struct

from kvasir.errors import UserError

MAX_LINE_BYTES = 64 << 20


class BatchLine(Struct, kw_only=True):
    custom_id: Annotated[str, Meta(max_length=1024)]
    url: Annotated[str, Meta(max_length=256)]
    body: msgspec.Raw
    method: Annotated[str, Meta(max_length=16)] = "POST"


class BatchResponse(Struct):
    status_code: int
    request_id: str
    body: Any


class BatchAnswer(Struct):
    """`response` of a request that was tried, `error` of a line that never became one."""

    id: str
    custom_id: str | None
    response: BatchResponse | None
    error: dict[str, Any] | None

    @property
    def succeeded(self) -> bool:
        return self.response is not None and self.response.status_code == 200


_LINE = msgspec.json.Decoder(BatchLine)


def decode_line(line: bytes) -> BatchLine:
    """Raises UserError when the line is no request."""
    try:
        return _LINE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise UserError(f"the line is no batch request: {e}") from None


def custom_id_of(line: bytes) -> str | None:
    """The id of a broken line, if it has one: the caller wants to know which it was."""
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    custom_id = value.get("custom_id") if isinstance(value, dict) else None
    return custom_id if isinstance(custom_id, str) else None


def refused_line(answer_id: str, custom_id: str | None, code: str, message: str) -> BatchAnswer:
    """The answer to a line that is not tried."""
    return BatchAnswer(answer_id, custom_id, None, {"code": code, "message": message})


def bounded_lines(source: IO[bytes], max_bytes: int = MAX_LINE_BYTES) -> Iterator[bytes]:
    """Raises UserError at a line that is longer than that."""
    while line := source.readline(max_bytes):
        if len(line) == max_bytes and not line.endswith(b"\n"):
            raise UserError(f"a line of the input has {max_bytes} bytes or more; that is the bound.")
        yield line
