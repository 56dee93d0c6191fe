"""Files and batches, as they are stored and as they are shown."""

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from kvasir.errors import UserError

BATCH_PURPOSE = "batch"
OUTPUT_PURPOSE = "batch_output"
MAX_WINDOW_S = 30 * 24 * 3600

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
UNFINISHED: tuple[Status, ...] = ("validating", "in_progress", "finalizing", "cancelling")

_WINDOW = re.compile(r"(\d{1,6})([mhd])")
_UNIT_S = {"m": 60, "h": 3600, "d": 86400}


class StoredFile(Struct, kw_only=True):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"


class Counts(Struct):
    """`failed` are lines in the error file: refused, broken, or not run because the batch ended before."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class ExpiresAfter(Struct, kw_only=True):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=3600, le=MAX_WINDOW_S)]


class BatchRequest(Struct, kw_only=True):
    """The body of POST /v1/batches."""

    input_file_id: Annotated[str, Meta(max_length=128)]
    endpoint: Annotated[str, Meta(max_length=256)]
    completion_window: Annotated[str, Meta(max_length=16)] = "24h"
    metadata: (
        Annotated[dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=512)]], Meta(max_length=16)]
        | None
    ) = None
    output_expires_after: ExpiresAfter | None = None


class Batch(Struct, kw_only=True):
    """OpenAI's object. Times are whole seconds since the epoch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: dict[str, Any] | None = None
    input_file_id: str
    completion_window: str
    status: Status = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = msgspec.field(default_factory=Counts)
    metadata: dict[str, str] | None = None

    @property
    def is_unfinished(self) -> bool:
        return self.status in UNFINISHED

    def enter(self, status: Status, now: float) -> None:
        """Changes the status and notes when; `validating` has no time of its own."""
        self.status = status
        setattr(self, f"{status}_at", int(now))


class StoredBatch(Struct, kw_only=True):
    """A batch with what is not shown.

    Attributes:
        output_id, error_id: under which answers are written from the start; shown once they are complete.
        output_ttl_s: of those files; None: the server's.
        owner: name of the key that made it.
    """

    batch: Batch
    owner: str
    output_id: str
    error_id: str
    output_ttl_s: int | None = None


def window_seconds(text: str) -> int:
    """Raises UserError."""
    found = _WINDOW.fullmatch(text)
    seconds = int(found[1]) * _UNIT_S[found[2]] if found else 0
    if not 60 <= seconds <= MAX_WINDOW_S:
        raise UserError(
            f"completion_window must be a time such as 24h, between 1m and 30d, got {text!r}.",
            param="completion_window",
        )
    return seconds
