"""Counters of keys on disk, in SQLite, so that a restart forgets nothing.

Sums are added to, never overwritten: two servers may share a file. A write that fails is tried again with the next
one; requests go on meanwhile, since a full disk is no reason to stop answering.
"""

import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from kvasir.entrypoints.http.guard.account import Account, Counts, day_of
from kvasir.errors import ConfigError
from kvasir.logger import get_logger

logger = get_logger(__name__)

KEEP_DAYS = 400
_FIELDS = Counts.__struct_fields__
_TABLES = f"""
CREATE TABLE IF NOT EXISTS usage (name TEXT, day TEXT, {", ".join(f"{f} INTEGER NOT NULL" for f in _FIELDS)},
    PRIMARY KEY (name, day)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS buckets (name TEXT, kind TEXT, level REAL, at REAL,
    PRIMARY KEY (name, kind)) WITHOUT ROWID;
"""
_ADD = (
    f"INSERT INTO usage VALUES ({', '.join('?' * (2 + len(_FIELDS)))}) ON CONFLICT (name, day) DO UPDATE SET "
    + ", ".join(f"{f} = {f} + excluded.{f}" for f in _FIELDS)
)
_SUM = (
    f"SELECT {', '.join(f'COALESCE(SUM({f}), 0)' for f in _FIELDS)} FROM usage WHERE name = ? AND day BETWEEN ? AND ?"
)


class UsageStore:
    """Raises ConfigError if the file cannot be made or is no database."""

    def __init__(self, path: str):
        self._path = path
        self._failing = False
        self._lock = threading.Lock()  # the last save may begin while one is on its way
        try:
            # Written by one thread at a time, but not always the same one.
            self._db = sqlite3.connect(path, timeout=5.0, check_same_thread=False, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_TABLES)
            oldest = day_of(time.time() - KEEP_DAYS * 86_400)
            self._db.execute("DELETE FROM usage WHERE day < ?", (oldest,))
        except sqlite3.Error as error:
            raise ConfigError(
                f"--usage-db {path}: {error}. Name a file in a folder that this process may write to."
            ) from None
        Path(path).chmod(0o600)

    def load(self, account: Account, now: float) -> None:
        name, today = account.key.name, day_of(now)
        account.restore(self._sum(name, today, today), self._sum(name, today[:8] + "01", today))
        for kind, level, at in self._db.execute("SELECT kind, level, at FROM buckets WHERE name = ?", (name,)):
            (account.requests if kind == "requests" else account.tokens).restore(level, at)

    def _sum(self, name: str, first: str, last: str) -> Counts:
        return Counts(*self._db.execute(_SUM, (name, first, last)).fetchone())

    def save(self, usage: list[tuple[Any, ...]], buckets: list[tuple[Any, ...]]) -> bool:
        """Rows of (name, day, counts...) to add and of (name, kind, level, at) to set; whether that worked."""
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(_ADD, usage)
                self._db.executemany("INSERT OR REPLACE INTO buckets VALUES (?, ?, ?, ?)", buckets)
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._note(error)
                return False
        self._note(None)
        return True

    def _note(self, error: sqlite3.Error | None) -> None:
        """Says once that it fails, and once that it works again."""
        if error is not None and not self._failing:
            logger.error("usage cannot be written to %s (%s); it is kept and tried again", self._path, error)
        elif error is None and self._failing:
            logger.info("usage is written again")
        self._failing = error is not None

    def close(self) -> None:
        with self._lock:
            self._db.close()
