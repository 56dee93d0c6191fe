"""The answers on disk: what a crash may leave behind, and what is found of it."""

import json
from pathlib import Path

import pytest

from kvasir.entrypoints.batch.lines import BatchAnswer, BatchResponse, refused_line
from kvasir.entrypoints.http.batches.journal import Journal, answer_id

BATCH = "batch_00ff"


def good(line: int) -> BatchAnswer:
    return BatchAnswer(answer_id(BATCH, line), f"c{line}", BatchResponse(200, "r", {"text": "é\n"}), None)


def bad(line: int) -> BatchAnswer:
    return refused_line(answer_id(BATCH, line), None, "x", "y")


def test_every_cut_is_survived(tmp_path: Path) -> None:
    output, errors = tmp_path / "out", tmp_path / "err"
    journal = Journal(output, errors)
    journal.write({1: good(1), 7: bad(7)})
    journal.write({3: good(3)})
    assert (journal.done, journal.num_completed, journal.num_failed) == ({1, 3, 7}, 2, 1)
    journal.close()
    whole = output.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        output.write_bytes(whole[:cut])
        again = Journal(output, errors)
        expected = {7} | ({1} if cut >= first else set()) | ({3} if cut == len(whole) else set())
        assert again.done == expected
        again.write({n: good(n) for n in {1, 3} - again.done})
        again.close()
        rows = [json.loads(text) for text in output.read_text().splitlines()]
        assert sorted(row["custom_id"] for row in rows) == ["c1", "c3"]


def test_foreign_files_are_not_taken(tmp_path: Path) -> None:
    for text in ('{"id": "something"}\n', "nonsense\n"):
        (tmp_path / "out").write_text(text)
        with pytest.raises(ValueError):
            Journal(tmp_path / "out", tmp_path / "err")
