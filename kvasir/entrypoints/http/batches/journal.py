"""The answers of one batch on disk: two files that grow, and that know which lines they have after a crash."""

import os
import re
from pathlib import Path
from typing import IO

import msgspec

from kvasir.entrypoints.batch.lines import BatchAnswer
from kvasir.entrypoints.http.batches.store import sync_folder

_ID = re.compile(r"batch_req_[0-9a-f]+_(\d+)")


def answer_id(batch_id: str, line: int) -> str:
    """Of a line's answer: says which line it is, so that the file of answers is its own index."""
    return f"batch_req_{batch_id.removeprefix('batch_')}_{line}"


class _OnlyId(msgspec.Struct):
    id: str


class Journal:
    """Opens the files of a batch and finds out what is there; a line that was cut off by a crash is removed.

    Blocks; used in threads.

    Raises:
        OSError, ValueError: the files cannot be opened, or hold something else.

    Attributes:
        done: numbers of the lines that are answered on disk.
        num_completed, num_failed: answers in either file.
    """

    def __init__(self, output: Path, errors: Path):
        self.output, self.errors = output, errors
        succeeded, failed = _recover(output), _recover(errors)
        self.done = succeeded | failed
        self.num_completed, self.num_failed = len(succeeded), len(failed)
        self._files: dict[bool, IO[bytes]] = {True: open(output, "ab"), False: open(errors, "ab")}
        sync_folder(output.parent)
        self._encoder = msgspec.json.Encoder()

    def write(self, answers: dict[int, BatchAnswer]) -> None:
        """Answers by line number; they are on the disk when this returns, and count from then on.

        Raises:
            OSError: some of them may be there, whole or in part; the next to open the files will see.
        """
        touched = set()
        for answer in answers.values():
            self._files[answer.succeeded].write(self._encoder.encode(answer) + b"\n")
            touched.add(answer.succeeded)
        for kind in touched:
            self._files[kind].flush()
            os.fsync(self._files[kind].fileno())
        self.done |= answers.keys()
        succeeded = sum(answer.succeeded for answer in answers.values())
        self.num_completed += succeeded
        self.num_failed += len(answers) - succeeded

    def close(self) -> None:
        for file in self._files.values():
            try:
                file.close()
            except OSError:  # what could not be written was reported by `write`
                continue


def _recover(path: Path) -> set[int]:
    """The numbers of the lines in the file, once an unfinished last one has been cut off."""
    done: set[int] = set()
    if not path.exists():
        return done
    decoder = msgspec.json.Decoder(_OnlyId)
    with open(path, "r+b") as file:
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            found = _ID.fullmatch(decoder.decode(line).id)
            if found is None:
                raise ValueError(f"{path} holds a line that no batch has written")
            done.add(int(found[1]))
            end += len(line)
        file.truncate(end)
        os.fsync(file.fileno())
    return done
