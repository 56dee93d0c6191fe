"""A request on its way: one stream of deltas, written by one format, read once, as a stream or as a whole."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from kvasir.entrypoints.http.deltas import Delta, DeltaStream


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

    def __init__(self, stream: DeltaStream, fmt: Format):
        self._stream = stream
        self._format = fmt

    async def lines(self) -> AsyncGenerator[bytes]:
        """Server-sent events; one piece of bytes for each engine output that says something, then the end."""
        async with aclosing(self._stream.deltas()) as stream:
            async for deltas in stream:
                piece = self._format.chunks(deltas)
                if piece:
                    yield piece
        yield self._format.end()

    async def whole(self) -> bytes:
        """The stream, collected."""
        async with aclosing(self._stream.deltas()) as stream:
            async for deltas in stream:
                self._format.collect(deltas)
        return self._format.whole()

    def failure(self, error: BaseException) -> bytes:
        return self._format.failure(error)
