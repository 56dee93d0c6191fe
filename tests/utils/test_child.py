import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kvasir.utils.child import Child


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_work_is_done_elsewhere_and_collected(tmp_path: Path) -> None:
    child = Child(lambda: (tmp_path / "pid").write_text(str(os.getpid())) and None)
    pid = child.pid
    assert child.ends_before(time.monotonic() + 30)
    assert (tmp_path / "pid").read_text() == str(pid) != str(os.getpid())
    assert is_gone(pid), "no zombie"
    child.stop()  # twice is once


def test_it_keeps_what_it_is_told_to() -> None:
    (ours, theirs), (near, far) = os.pipe(), socket.socketpair()
    child = Child(lambda: (os.write(theirs, b"here"), time.sleep(60)) and None, theirs)
    os.close(theirs)
    assert os.read(ours, 9) == b"here"
    far.close()
    assert near.recv(1) == b"", "the child does not hold the other end"
    assert not child.ends_before(time.monotonic() + 0.01)
    child.stop()
    assert os.read(ours, 9) == b""
    os.close(ours)
    near.close()


def test_its_own_children_end_with_it(tmp_path: Path) -> None:
    def work() -> None:
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (tmp_path / "draft").write_text(str(started.pid))
        (tmp_path / "draft").rename(tmp_path / "pid")
        started.wait()

    child = Child(work)
    while not (tmp_path / "pid").exists():
        time.sleep(0.01)
    child.stop()
    pid, deadline = int((tmp_path / "pid").read_text()), time.monotonic() + 10
    while not _has_no_life(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert _has_no_life(pid)


def _has_no_life(pid: int) -> bool:
    """Gone, or a zombie that is not ours to collect."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_an_error_ends_it(capfd: pytest.CaptureFixture[str]) -> None:
    child = Child(lambda: (lambda: 1 / 0)() and None)
    assert child.ends_before(time.monotonic() + 30)
