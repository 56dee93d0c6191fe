"""`return_progress`: how far the prompts of a stream are, said until its first token, in chunks without choices."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from kvasir.errors import KvasirError

if TYPE_CHECKING:
    from kvasir.engine.async_llm import AsyncLLM

EVERY_S = 0.5


class ProgressBody(Struct):
    """Tokens of all prompts of the request; `processed` counts those from the cache as well."""

    total: int
    cache: int
    processed: int
    time_ms: int


class PromptProgress:
    """What one stream has to say of its prompts, as `write` puts it. `take` gives news once."""

    def __init__(
        self, board: "ProgressBoard", core_ids: Sequence[str], total: int, write: Callable[[ProgressBody], bytes]
    ):
        self.core_ids = core_ids
        self._board = board
        self._total = total
        self._write = write
        self._figures: dict[str, tuple[int, int]] = {}  # core id -> cached, computed
        self._said: tuple[int, int] | None = None
        self._began = time.monotonic()
        self._on_news: Callable[[], None] = lambda: None

    def start(self, on_news: Callable[[], None]) -> None:
        self._on_news = on_news
        self._board.add(self)

    def stop(self) -> None:
        self._board.remove(self)

    def hear(self, found: dict[str, tuple[int, int]]) -> None:
        self._figures |= {core_id: found[core_id] for core_id in self.core_ids if core_id in found}
        if self._figures and self._sums() != self._said:
            self._on_news()

    def take(self) -> bytes:
        if not self._figures or self._sums() == self._said:
            return b""
        self._said = cached, computed = self._sums()
        took_ms = round((time.monotonic() - self._began) * 1000)
        return self._write(ProgressBody(self._total, cached, computed, took_ms))

    def _sums(self) -> tuple[int, int]:
        return sum(c for c, _ in self._figures.values()), sum(n for _, n in self._figures.values())


class ProgressBoard:
    """Asks the cores twice a second, once for all streams that want to know, and not at all while none does."""

    def __init__(self, engine: "AsyncLLM"):
        self._engine = engine
        self._watchers: dict[str, PromptProgress] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, watcher: PromptProgress) -> None:
        self._watchers.update(dict.fromkeys(watcher.core_ids, watcher))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask())

    def remove(self, watcher: PromptProgress) -> None:
        for core_id in watcher.core_ids:
            self._watchers.pop(core_id, None)

    async def _ask(self) -> None:
        while self._watchers:
            await asyncio.sleep(EVERY_S)
            try:
                found = await self._engine.call("progress", request_ids=list(self._watchers))
            except KvasirError:  # the core is away; whoever waits for it is told by the request itself
                continue
            for watcher in set(self._watchers.values()):
                watcher.hear(found)
