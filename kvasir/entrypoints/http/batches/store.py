"""The folder: a database of files and batches, and the files' contents. Every change is on the disk when it returns.

All methods block; the routes and the worker call them in threads. Several processes may have the same folder open.
"""

import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from kvasir.entrypoints.http.batches.schema import UNFINISHED, StoredBatch, StoredFile
from kvasir.errors import ConfigError, NotFoundError, UserError

MAX_FILES = 100_000
MAX_BATCHES = 100_000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL, purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL, expires_at INTEGER, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, owner TEXT NOT NULL, status TEXT NOT NULL,
    input_id TEXT NOT NULL, delete_at INTEGER, body BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS batches_by_status ON batches (status);
"""
_OWNED = "(? IS NULL OR owner = ?)"
_BUSY_S = 30.0
_ORPHAN_S = 3600.0

S = TypeVar("S", StoredFile, StoredBatch)
Page = tuple[list[S], bool]
"""Rows, and whether there are more."""


class Store:
    """One connection, one thread at a time.

    What is asked for by somebody comes with `owner`, the only one whose things are found; None: everybody's.

    Raises:
        ConfigError: the folder cannot be used.
    """

    def __init__(self, folder: str, clock: Callable[[], float] = time.time):
        self.folder = Path(folder)
        self._clock = clock
        self._lock = threading.Lock()
        try:
            self._contents.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                self.folder / "batches.sqlite3", timeout=_BUSY_S, check_same_thread=False, isolation_level=None
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as e:
            raise ConfigError(f"--batch-dir {folder} cannot be used: {e}.", param="batch_dir") from None

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @property
    def _contents(self) -> Path:
        return self.folder / "files"

    def path(self, file_id: str) -> Path:
        """Of a file's content. Ids come from here or from the database, so no path leads out of the folder."""
        return self._contents / file_id

    def upload_path(self) -> Path:
        """For a file that is just arriving."""
        return self._contents / f"{uuid.uuid4().hex}.part"

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[tuple[bytes]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # -- files ------------------------------------------------------------------------------------------------

    def add_file(self, uploaded: Path, filename: str, purpose: str, ttl_s: float, owner: str) -> StoredFile:
        """Takes over a complete upload.

        Raises:
            UserError: there are too many files.
        """
        now = int(self._clock())
        file = StoredFile(
            id=new_file_id(),
            bytes=uploaded.stat().st_size,
            created_at=now,
            expires_at=int(now + ttl_s),
            filename=filename,
            purpose=purpose,
        )
        with self._transaction() as db:
            ((count,),) = db.execute("SELECT COUNT(*) FROM files").fetchall()
            if count >= MAX_FILES:
                raise UserError(f"there are {count} files, and the bound is {MAX_FILES}: delete some.")
            uploaded.rename(self.path(file.id))
            _insert_file(db, file, owner)
        sync_folder(self._contents)
        return file

    def file(self, file_id: str, owner: str | None) -> StoredFile:
        """Raises NotFoundError."""
        found = self._rows(f"SELECT body FROM files WHERE id = ? AND {_OWNED}", (file_id, owner, owner))
        if not found:
            raise NotFoundError(f"there is no file {file_id!r:.100} here.", param="file_id")
        return _decode(found[0], StoredFile)

    def files(
        self, purpose: str | None, limit: int, after: str | None, newest_first: bool, owner: str | None
    ) -> Page[StoredFile]:
        where, values = ("AND purpose = ?", (purpose,)) if purpose else ("", ())
        return self._page("files", StoredFile, where, values, limit, after, newest_first, owner)

    def delete_file(self, file_id: str, owner: str | None) -> None:
        """Raises NotFoundError; UserError while an unfinished batch reads it."""
        with self._transaction() as db:
            user = db.execute(
                f"SELECT id FROM batches WHERE input_id = ? AND status IN ({_marks(UNFINISHED)})",
                (file_id, *UNFINISHED),
            ).fetchone()
            if user:
                raise UserError(f"the batch {user[0]} reads this file: cancel it first, or wait.", param="file_id")
            if not db.execute(f"DELETE FROM files WHERE id = ? AND {_OWNED}", (file_id, owner, owner)).rowcount:
                raise NotFoundError(f"there is no file {file_id!r:.100} here.", param="file_id")
        self.path(file_id).unlink(missing_ok=True)

    def num_bytes(self) -> int:
        """Of all files together."""
        with self._lock:
            return int(self._db.execute("SELECT COALESCE(SUM(bytes), 0) FROM files").fetchone()[0])

    # -- batches ----------------------------------------------------------------------------------------------

    def add_batch(self, stored: StoredBatch) -> None:
        """Raises NotFoundError when its input is not here, UserError when there are too many batches."""
        batch = stored.batch
        with self._transaction() as db:
            asked = (batch.input_file_id, stored.owner)
            if not db.execute("SELECT 1 FROM files WHERE id = ? AND owner = ?", asked).fetchone():
                raise NotFoundError(f"there is no file {batch.input_file_id!r:.100} here.", param="input_file_id")
            ((count,),) = db.execute("SELECT COUNT(*) FROM batches").fetchall()
            if count >= MAX_BATCHES:
                raise UserError(f"there are {count} batches, and the bound is {MAX_BATCHES}.")
            db.execute(
                "INSERT INTO batches (id, owner, status, input_id, body) VALUES (?, ?, ?, ?, ?)",
                (batch.id, stored.owner, batch.status, batch.input_file_id, msgspec.json.encode(stored)),
            )

    def batch(self, batch_id: str, owner: str | None = None) -> StoredBatch:
        """Raises NotFoundError."""
        found = self._rows(f"SELECT body FROM batches WHERE id = ? AND {_OWNED}", (batch_id, owner, owner))
        if not found:
            raise _no_batch(batch_id)
        return _decode(found[0], StoredBatch)

    def batches(self, limit: int, after: str | None, owner: str | None) -> Page[StoredBatch]:
        return self._page("batches", StoredBatch, "", (), limit, after, True, owner)

    def unfinished(self, limit: int) -> list[StoredBatch]:
        """The oldest ones."""
        query = f"SELECT body FROM batches WHERE status IN ({_marks(UNFINISHED)}) ORDER BY seq LIMIT ?"
        return [_decode(row, StoredBatch) for row in self._rows(query, (*UNFINISHED, limit))]

    def change(
        self,
        batch_id: str,
        fn: Callable[[StoredBatch], None],
        new_files: Sequence[StoredFile] = (),
        delete_at: float | None = None,
        owner: str | None = None,
    ) -> StoredBatch:
        """Reads, changes and writes in one go; `new_files` come into being together with the change."""
        with self._transaction() as db:
            query = f"SELECT body FROM batches WHERE id = ? AND {_OWNED}"
            found = db.execute(query, (batch_id, owner, owner)).fetchone()
            if not found:
                raise _no_batch(batch_id)
            stored = _decode(found, StoredBatch)
            fn(stored)
            for file in new_files:
                _insert_file(db, file, stored.owner)
            db.execute(
                "UPDATE batches SET status = ?, body = ?, delete_at = COALESCE(?, delete_at) WHERE id = ?",
                (stored.batch.status, msgspec.json.encode(stored), delete_at, batch_id),
            )
        return stored

    # -- age --------------------------------------------------------------------------------------------------

    def sweep(self) -> int:
        """Deletes what is too old, and contents that belong to nothing; returns how many files went."""
        now = self._clock()
        used = f"SELECT input_id FROM batches WHERE status IN ({_marks(UNFINISHED)})"
        with self._transaction() as db:
            db.execute("DELETE FROM batches WHERE delete_at < ?", (now,))
            gone = db.execute(
                f"DELETE FROM files WHERE expires_at < ? AND id NOT IN ({used}) RETURNING id", (now, *UNFINISHED)
            ).fetchall()
            known = {file_id for (file_id,) in db.execute("SELECT id FROM files")}
            query = f"SELECT body FROM batches WHERE status IN ({_marks(UNFINISHED)})"
            for row in db.execute(query, UNFINISHED):
                stored = _decode(row, StoredBatch)
                known |= {stored.output_id, stored.error_id}
        for (file_id,) in gone:
            self.path(file_id).unlink(missing_ok=True)
        for path in self._contents.iterdir():
            if path.name not in known and _age(path, now) > _ORPHAN_S:
                path.unlink(missing_ok=True)
        return len(gone)

    # -- lists ------------------------------------------------------------------------------------------------

    def _page(
        self,
        table: str,
        cls: type[S],
        where: str,
        values: tuple[object, ...],
        limit: int,
        after: str | None,
        newest_first: bool,
        owner: str | None,
    ) -> Page[S]:
        order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
        if after is not None:
            last = self._rows(f"SELECT seq FROM {table} WHERE id = ? AND {_OWNED}", (after, owner, owner))
            if not last:
                raise UserError(f"after must be an id of this list, got {after!r:.100}.", param="after")
            where, values = f"{where} AND seq {beyond} ?", (*values, last[0][0])
        query = f"SELECT body FROM {table} WHERE {_OWNED} {where} ORDER BY seq {order} LIMIT ?"
        rows = self._rows(query, (owner, owner, *values, limit + 1))
        return [_decode(row, cls) for row in rows[:limit]], len(rows) > limit


def new_file_id() -> str:
    return f"file-{uuid.uuid4().hex}"


def _insert_file(db: sqlite3.Connection, file: StoredFile, owner: str) -> None:
    db.execute(
        "INSERT INTO files (id, owner, purpose, bytes, expires_at, body) VALUES (?, ?, ?, ?, ?, ?)",
        (file.id, owner, file.purpose, file.bytes, file.expires_at, msgspec.json.encode(file)),
    )


def _decode(row: tuple[bytes], cls: type[S]) -> S:
    return msgspec.json.decode(row[0], type=cls)


def _no_batch(batch_id: str) -> NotFoundError:
    return NotFoundError(f"there is no batch {batch_id!r:.100} here.", param="batch_id")


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except OSError:
        return 0.0


def sync_folder(folder: Path) -> None:
    """Makes new names in it survive a loss of power."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
