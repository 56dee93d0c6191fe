"""A child by fork that does one piece of work beside us: it keeps no file of ours open, and ends with its work."""

import contextlib
import gc
import os
import signal
import time
import warnings
from collections.abc import Callable


class Child:
    """Runs `work` in a fork of this process that leads a group. Of our open files it has `keep` and the standard ones.

    The work must not touch what other threads of this process may hold: they do not exist in the child.
    """

    def __init__(self, work: Callable[[], None], *keep: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads, see above
            self.pid = os.fork()
        if not self.pid:
            try:
                signal.signal(signal.SIGINT, signal.SIG_DFL)
                os.setpgid(0, 0)
                _close_all_but(0, 1, 2, *keep)  # whoever waits for our end at a socket must not wait for the child's
                gc.disable()  # a collection would touch, and so copy, every page that the two of us share
                work()
            finally:
                os._exit(0)

    def ends_before(self, deadline: float) -> bool:
        """Waits, by `time.monotonic`."""
        while self.pid:
            if _has_ended(self.pid):
                self.pid = 0
            elif time.monotonic() > deadline:
                return False
            else:
                time.sleep(0.002)
        return True

    def stop(self) -> None:
        """Ends it and its own children, if it is still there."""
        if not self.pid or _has_ended(self.pid):
            self.pid = 0
            return
        for kill in (os.killpg, os.kill):  # it leads a group soon after it was forked, not at once
            with contextlib.suppress(ProcessLookupError, PermissionError):
                kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        self.pid = 0


def _has_ended(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:  # somebody else collected it
        return True


def _close_all_but(*kept: int) -> None:
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))
