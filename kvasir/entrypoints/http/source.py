"""SEAM: a stream in pieces of bytes that somebody else makes and somebody else sends."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Protocol


class Source(Protocol):
    """Told to start once; then `take` gives what has come, whenever there is news. Pieces wait where they are made."""

    @property
    def finished(self) -> bool:
        """The last piece has been taken."""

    async def start(self, on_news: Callable[[], None]) -> None:
        """`on_news` is called on the event loop, also before this returns, when `take` has something to give."""

    def take(self) -> bytes:
        """Everything since the last call, as one piece; empty when that is nothing. Raises what ends the stream."""

    def close(self) -> None:
        """Nobody will take more. Called once, in the end, however that came, and before `start` returned as well."""


async def pieces(source: Source) -> AsyncGenerator[bytes]:
    """The pieces of a source, for readers that can wait."""
    news = asyncio.Event()
    try:
        await source.start(news.set)
        while not source.finished:
            await news.wait()
            news.clear()
            piece = source.take()
            if piece:
                yield piece
    finally:
        source.close()
