"""Responses that can be asked for again: in memory, bounded in bytes, each for a limited time."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import msgspec

from kvasir.entrypoints.http.guard.caller import current_caller
from kvasir.entrypoints.http.responses.format import ResponseFormat
from kvasir.entrypoints.http.schema import ChatMessage
from kvasir.errors import NotFoundError, UserError

MAX_LOG_BYTES = 4 << 20
"""Events of one response that are kept for readers who come back."""


class EventLog:
    """The events of a response that runs by itself, for readers who come and go. The oldest are forgotten first."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._first = 0  # number of the oldest event that is kept
        self.num_bytes = 0
        self._closed = False
        self._readers: list[EventReader] = []

    def append(self, piece: bytes) -> None:
        """One or more whole events, numbered in order."""
        for event in piece.split(b"\n\n")[:-1]:
            self._events.append(event + b"\n\n")
            self.num_bytes += len(event) + 2
        while self.num_bytes > MAX_LOG_BYTES:
            self.num_bytes -= len(self._events.pop(0))
            self._first += 1
        self._wake()

    def close(self) -> None:
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        for reader in list(self._readers):
            reader.on_news()

    def reader(self, after: int) -> "EventReader":
        """The events behind number `after` (-1: all), those to come included."""
        return EventReader(self, after + 1)

    def listen(self, reader: "EventReader") -> None:
        self._readers.append(reader)

    def forget(self, reader: "EventReader") -> None:
        if reader in self._readers:
            self._readers.remove(reader)

    def since(self, at: int) -> list[bytes]:
        """Raises UserError when the events from `at` on are not kept any more."""
        if at < self._first:
            raise UserError(
                f"events up to number {self._first - 1} are no longer kept; ask for the response without stream.",
                param="starting_after",
            )
        return self._events[at - self._first :]

    def is_over(self, at: int) -> bool:
        """Whether nothing comes at `at` and behind."""
        return self._closed and at >= self._first + len(self._events)


class EventReader:
    """A source of events. A slow reader gets them in batches."""

    def __init__(self, log: EventLog, at: int):
        self._log = log
        self._at = at
        self.on_news: Callable[[], None] = lambda: None
        self.finished = False

    async def start(self, on_news: Callable[[], None]) -> None:
        self.on_news = on_news
        self._log.listen(self)
        on_news()

    def take(self) -> bytes:
        batch = self._log.since(self._at)
        self._at += len(batch)
        self.finished = self._log.is_over(self._at)
        return b"".join(batch)

    def close(self) -> None:
        self._log.forget(self)


class Record:
    """One response: running (`fmt` knows its state) or final (`final` is its JSON).

    Attributes:
        owner: name of the key that asked for it; others do not see it.
        messages: what the next response of the conversation has to know, without this one's output.
        log: of a background response.
    """

    def __init__(
        self, fmt: ResponseFormat, input_items: list[dict[str, Any]], messages: list[ChatMessage], log: EventLog | None
    ):
        self.response_id = fmt.response_id
        self.owner = current_caller().account.key.name
        self.input_items = input_items
        self.messages = messages
        self.log = log
        self.task: asyncio.Task[None] | None = None
        self._format: ResponseFormat | None = fmt
        self._final = b""
        self._input_bytes = len(msgspec.json.encode(input_items)) + sum(map(_num_bytes, messages))

    def set_final(self, body: dict[str, Any]) -> None:
        self._final, self._format = msgspec.json.encode(body), None

    @property
    def is_running(self) -> bool:
        return self._format is not None

    @property
    def body(self) -> bytes:
        return self._final if self._format is None else msgspec.json.encode(self._format.body())

    def output_items(self) -> list[dict[str, Any]]:
        """Of a final response."""
        return msgspec.json.decode(self._final)["output"]

    @property
    def num_bytes(self) -> int:
        return self._input_bytes + len(self._final) + (self.log.num_bytes if self.log is not None else 0)

    def cancel(self) -> None:
        if self._format is not None:
            self._format.cancel()
        if self.task is not None:
            self.task.cancel()


class ResponseStore:
    """Final responses go when they are too old, or the oldest of too many; running ones stay.

    Args:
        max_bytes: of JSON, events and messages; 0 keeps nothing.
        ttl_s: how long one is kept after it was put here, or became final.
    """

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic):
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._records: OrderedDict[str, tuple[float, int, Record]] = OrderedDict()
        self._num_bytes = 0

    @property
    def enabled(self) -> bool:
        return self._max_bytes > 0

    def __len__(self) -> int:
        return len(self._records)

    def put(self, record: Record) -> None:
        """Again for a record whose size has changed."""
        if not self.enabled:
            return
        self.remove(record.response_id)
        self._records[record.response_id] = (self._clock(), record.num_bytes, record)
        self._num_bytes += record.num_bytes
        self._shrink()

    def get(self, response_id: str) -> Record:
        """Raises NotFoundError, also for what belongs to another key."""
        self._shrink()
        found = self._records.get(response_id)
        if found is None or not current_caller().may_see(found[2].owner):
            raise NotFoundError(
                f"there is no response {response_id!r:.100} here: it was not stored, was deleted, or is older than "
                f"{self._ttl_s:g} s (--responses-ttl); responses do not outlive the server.",
                param="response_id",
            )
        return found[2]

    def remove(self, response_id: str) -> None:
        """Does nothing when it is not here."""
        found = self._records.pop(response_id, None)
        if found is not None:
            self._num_bytes -= found[1]

    def _shrink(self) -> None:
        oldest = self._clock() - self._ttl_s
        for response_id, (since, _, record) in list(self._records.items()):
            if since >= oldest and self._num_bytes <= self._max_bytes:
                return
            if not record.is_running:
                self.remove(response_id)


def _num_bytes(message: ChatMessage) -> int:
    """Earlier turns are shared with their own records; the list of them is not."""
    return 64 + (len(message.content) if isinstance(message.content, str) else 0)
