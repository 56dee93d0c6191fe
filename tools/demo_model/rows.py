"""Training rows: one chat a row, of a few fixed lengths, so that no row has to be packed or masked."""

from __future__ import annotations

import multiprocessing as mp
import random
import threading
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from chats import WEIGHTS, Composer, segments
from tokenizer import load_encoder

# Row length and its share of all trained tokens.
BUCKETS: dict[int, float] = {96: 0.35, 256: 0.3, 768: 0.2, 2048: 0.15}
SHORT_BUCKETS: dict[int, float] = {96: 0.5, 256: 0.4, 768: 0.06, 2048: 0.04}
PAD = 3


class RowMaker:
    """Draws rows of chats; the same seed gives the same rows."""

    def __init__(self, folder: Path, seed: int, weights: Sequence[float] | None = None) -> None:
        self.encode = load_encoder(folder)
        self.composer = Composer(random.Random(seed), weights)

    def rows(self, length: int, count: int) -> np.ndarray:
        """``count`` rows of ``length + 1`` tokens; trained tokens have 32768 added."""
        out = np.full((count, length + 1), PAD, dtype=np.uint16)
        for row in out:
            messages, tools = self.composer.chat(lambda text: len(self.encode(text)), length)
            ids: list[int] = []
            for text, trained in segments(messages, tools):
                tokens = self.encode(text)
                ids += [token | 32768 for token in tokens] if trained else tokens
            ids = ids[: length + 1]
            row[: len(ids)] = ids
        return out


def _work(
    folder: Path, seed: int, queue: mp.Queue, weights: Sequence[float], buckets: dict[int, float], tokens: int
) -> None:
    maker = RowMaker(folder, seed, weights)
    rng = random.Random(seed)
    lengths, shares = zip(*buckets.items(), strict=True)
    while True:
        length = rng.choices(lengths, shares)[0]
        queue.put(maker.rows(length, tokens // length))


class RowPool:
    """Rows made by worker processes while training runs; old rows are used again if new ones are late."""

    def __init__(self, folder: Path, workers: int, seed: int, buckets: dict[int, float], tokens: int) -> None:
        context = mp.get_context("spawn")
        self.weights = context.Array("d", list(WEIGHTS.values()), lock=False)
        self.fresh: dict[int, list[np.ndarray]] = defaultdict(list)
        self.used: dict[int, list[np.ndarray]] = defaultdict(list)
        self.rng = random.Random(seed)
        self.made = 0
        self.reused = 0
        self.maker = RowMaker(folder, seed, self.weights) if workers == 0 else None
        self.processes = []
        if workers:
            queue: mp.Queue = context.Queue(maxsize=workers * 2)
            for worker in range(workers):
                process = context.Process(
                    target=_work, args=(folder, seed + 1 + worker, queue, self.weights, buckets, tokens), daemon=True
                )
                process.start()
                self.processes.append(process)
            threading.Thread(target=self._collect, args=(queue,), daemon=True).start()

    def _collect(self, queue: mp.Queue) -> None:
        while True:
            rows = queue.get()
            self.made += rows.size
            self.fresh[rows.shape[1] - 1].append(rows)

    def batch(self, length: int, count: int) -> np.ndarray:
        """``count`` rows of one length."""
        if self.maker is not None:
            return self.maker.rows(length, count)
        parts: list[np.ndarray] = []
        have = 0
        while have < count:
            if self.fresh[length]:
                part = self.fresh[length].pop()
                self.used[length].append(part)
            elif self.used[length]:
                part = self.rng.choice(self.used[length])
                self.reused += part.size
            else:
                threading.Event().wait(0.05)
                continue
            parts.append(part)
            have += len(part)
        return np.concatenate(parts)[:count]

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
