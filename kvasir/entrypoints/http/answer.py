"""A request on its way: one stream of deltas, written by one format, read once, as a stream or as a whole."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from kvasir.entrypoints.http.deltas import Delta, DeltaStream
from kvasir.entrypoints.http.progress import PromptProgress
from kvasir.entrypoints.http.source import Source
from kvasir.messages import RequestOutputKind


class Format(Protocol):
    """SEAM: how one API writes one answer. Either `chunks` ... `end`, or `collect` ... `whole` is used."""

    def chunks(self, deltas: list[Delta]) -> bytes:
        """The events of a stream that say `deltas`; empty when there is nothing to say."""

    def end(self) -> bytes:
        """The last events of a stream that went well."""

    def failure(self, error: BaseException) -> bytes:
        """The last events of a stream that began and then failed."""

    def collect(self, deltas: list[Delta]) -> None:
        """Takes note of `deltas` for the whole answer."""

    def whole(self) -> bytes:
        """All that was collected, as one JSON object."""


class Answer:
    """One request that passed every check, not started yet."""

    def __init__(self, stream: DeltaStream, fmt: Format, progress: PromptProgress | None = None):
        self._stream = stream
        self._format = fmt
        self._progress = progress

    def source(self) -> Source:
        """Server-sent events, the last ones included."""
        events = _Events(self._stream, self._format)
        return events if self._progress is None else _EventsWithProgress(events, self._progress)

    async def whole(self) -> bytes:
        """The stream, collected: nothing is read before a job is complete, and then all of it at once."""
        news = asyncio.Event()
        try:
            await self._stream.start(news.set, RequestOutputKind.FINAL_ONLY)
            while not self._stream.finished:
                await news.wait()
                news.clear()
                self._format.collect(self._stream.take())
        finally:
            self._stream.close()
        return self._format.whole()

    def failure(self, error: BaseException) -> bytes:
        return self._format.failure(error)


class _Events:
    """The source of an answer's events."""

    def __init__(self, stream: DeltaStream, fmt: Format):
        self._stream = stream
        self._format = fmt
        self.finished = False

    async def start(self, on_news: Callable[[], None]) -> None:
        await self._stream.start(on_news)

    def take(self) -> bytes:
        stream = self._stream
        deltas = stream.take()
        piece = self._format.chunks(deltas) if deltas else b""
        if stream.finished:
            self.finished = True
            piece += self._format.end()
        return piece

    def close(self) -> None:
        self._stream.close()


class _EventsWithProgress:
    """An answer's events, and before the first of them how far its prompts are."""

    def __init__(self, events: _Events, progress: PromptProgress):
        self._events = events
        self._progress: PromptProgress | None = progress

    @property
    def finished(self) -> bool:
        return self._events.finished

    async def start(self, on_news: Callable[[], None]) -> None:
        await self._events.start(on_news)
        if self._progress is not None:
            self._progress.start(on_news)

    def take(self) -> bytes:
        piece = self._events.take()
        if self._progress is None:
            return piece
        if not piece:
            return self._progress.take()
        self._stop()
        return piece

    def close(self) -> None:
        self._stop()
        self._events.close()

    def _stop(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()
