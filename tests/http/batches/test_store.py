"""The folder: age, orphans, two processes."""

import os
from pathlib import Path

import pytest

from kvasir.entrypoints.http.batches.schema import Batch, StoredBatch
from kvasir.entrypoints.http.batches.store import Store
from kvasir.errors import ConfigError, NotFoundError, UserError


class Clock:
    now = 1e9

    def __call__(self) -> float:
        return self.now


def upload(store: Store, content: bytes = b"x", ttl_s: float = 7200, owner: str = "a") -> str:
    path = store.upload_path()
    path.write_bytes(content)
    return store.add_file(path, "f", "batch", ttl_s, owner).id


def batch(input_id: str, n: int = 1) -> StoredBatch:
    inner = Batch(
        id=f"batch_{n}", endpoint="/v1/completions", input_file_id=input_id, completion_window="24h",
        created_at=1, expires_at=2,
    )  # fmt: skip
    return StoredBatch(batch=inner, owner="a", output_id=f"file-o{n}", error_id=f"file-e{n}")


def test_what_is_old_goes_and_what_is_used_stays(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(str(tmp_path), clock)
    used, unused = upload(store), upload(store)
    store.add_batch(batch(used))
    growing, orphan, arriving = store.path("file-o1"), store.path("file-lost"), store.upload_path()
    for path in (growing, orphan, arriving):
        path.touch()
        os.utime(path, (clock.now, clock.now))
    clock.now += 3000
    assert store.sweep() == 0 and orphan.exists() and arriving.exists()
    clock.now += 7000
    assert store.sweep() == 1
    assert growing.exists() and not orphan.exists() and not arriving.exists() and not store.path(unused).exists()
    with pytest.raises(NotFoundError):
        store.file(unused, None)
    with pytest.raises(UserError, match="reads this file"):
        store.delete_file(used, None)
    store.change("batch_1", lambda stored: stored.batch.enter("completed", clock.now), delete_at=clock.now + 10)
    store.change("batch_1", lambda stored: None)  # does not forget when it is to go
    clock.now += 20
    assert store.sweep() == 1
    with pytest.raises(NotFoundError):
        store.batch("batch_1")


def test_two_processes_see_the_same(tmp_path: Path) -> None:
    one, other = Store(str(tmp_path)), Store(str(tmp_path))
    file_id = upload(one, b"abc")
    other.add_batch(batch(file_id))
    assert other.num_bytes() == 3
    other.change("batch_1", lambda stored: stored.batch.enter("cancelling", 5.0))
    assert one.batch("batch_1").batch.status == "cancelling"
    assert [stored.batch.id for stored in one.unfinished(10)] == ["batch_1"]


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.add_batch(batch(upload(store)))

    def fail(stored: StoredBatch) -> None:
        stored.batch.status = "completed"
        raise UserError("no")

    with pytest.raises(UserError):
        store.change("batch_1", fail)
    assert store.batch("batch_1").batch.status == "validating"


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--batch-dir"):
        Store(str(tmp_path / "file"))
    (tmp_path / "batches.sqlite3").write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match="--batch-dir"):
        Store(str(tmp_path))


def test_everybody_finds_their_own_only(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    mine, theirs = upload(store), upload(store, owner="b")
    store.add_batch(batch(mine))
    with pytest.raises(NotFoundError, match="no file"):
        store.add_batch(batch(theirs, 2))
    assert [file.id for file in store.files(None, 10, None, True, "b")[0]] == [theirs]
    assert len(store.files(None, 10, None, True, None)[0]) == 2
    for look in (
        lambda owner: store.file(mine, owner),
        lambda owner: store.batch("batch_1", owner),
        lambda owner: store.change("batch_1", lambda stored: None, owner=owner),
        lambda owner: store.batches(10, "batch_1", owner),
    ):
        look("a"), look(None)
        with pytest.raises(UserError):
            look("b")
    upload(store), store.change("batch_1", lambda stored: stored.batch.enter("completed", 1.0))
    with pytest.raises(NotFoundError):
        store.delete_file(mine, "b")
    store.delete_file(mine, "a")
