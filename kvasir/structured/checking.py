"""Reads a grammar for the first time, in a process of its own: native code that recurses too deeply or never comes
back ends that process, and the request is answered with a sentence.

`python -m kvasir.structured.checking FD` is that process. It gets formats and answers with what is wrong, or nothing.
"""

import contextlib
import hashlib
import queue
import resource
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict

from kvasir.errors import EngineError, UserError
from kvasir.structured.backend import GrammarError
from kvasir.structured.formats import decode
from kvasir.utils import frames

TIMEOUT_S = 5
MAX_HELPERS = 2
MAX_REMEMBERED = 4096
MEMORY_BYTES = 2 << 30
WAIT_S = 60.0
"""A helper keeps its time itself; this is for a machine that hardly runs at all."""
STACK_BYTES = 32 << 20
"""A quarter of what the core gives: what passes here does not fail there."""

_SAID = b"!"  # a frame has at least a byte


class GrammarChecker:
    """Called from any thread. Helpers are started when they are needed and kept for the next."""

    def __init__(self, timeout_s: int = TIMEOUT_S):
        self._timeout_s = timeout_s
        self._places = threading.BoundedSemaphore(MAX_HELPERS)
        self._idle: queue.LifoQueue[_Helper] = queue.LifoQueue()
        self._verdicts: OrderedDict[bytes, str] = OrderedDict()
        self._lock = threading.Lock()
        weakref.finalize(self, _stop_all, self._idle)

    def knows(self, text: str) -> bool:
        """Whether `check` of this format takes no time."""
        return _name(text) in self._verdicts

    def check(self, text: str) -> None:
        """Raises UserError that says what is wrong with an encoded format."""
        name = _name(text)
        verdict = self._verdicts.get(name)
        if verdict is None:
            verdict = self._ask(text)
        with self._lock:
            self._verdicts[name] = verdict
            self._verdicts.move_to_end(name)
            while len(self._verdicts) > MAX_REMEMBERED:
                self._verdicts.popitem(last=False)
        if verdict:
            raise UserError(f"the grammar cannot be used: {verdict}", param="structured_outputs")

    def _ask(self, text: str) -> str:
        with self._places:
            try:
                helper = self._idle.get_nowait()
            except queue.Empty:
                helper = _Helper(self._timeout_s)
            verdict = helper.ask(text)
            if helper.is_alive:
                self._idle.put(helper)
            return verdict


class _Helper:
    def __init__(self, timeout_s: int):
        self._timeout_s = timeout_s
        self._sock, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kvasir.structured.checking", str(theirs.fileno()), str(timeout_s)],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._sock.settimeout(WAIT_S)
        self.is_alive = True
        if self._answer() is None:
            self.stop()
            raise EngineError("the process that reads grammars could not be started; see the log above.")

    def ask(self, text: str) -> str:
        with contextlib.suppress(OSError):
            frames.send(self._sock, text.encode())
        answer = self._answer()
        if answer is not None:
            return answer
        if self.stop() == -signal.SIGPROF:
            return f"it takes more than {self._timeout_s} s to read. Make it smaller or simpler."
        return "it is nested too deeply or takes too much memory to read. Make it smaller or simpler."

    def _answer(self) -> str | None:
        try:
            frame = frames.receive(self._sock)
        except OSError:
            return None
        return None if frame is None else frame[1:].decode()

    def stop(self) -> int:
        """The exit code: of its own end, if it has ended."""
        self.is_alive = False
        self._sock.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(1.0)
        self._process.kill()
        return self._process.wait()


def _stop_all(idle: "queue.LifoQueue[_Helper]") -> None:
    while not idle.empty():
        idle.get_nowait().stop()


def _name(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def main(fd: int, timeout_s: int) -> None:
    """Sets the bounds; what is bounded runs on a thread, whose stack has the size we want."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # ends the process, wherever it is
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=_serve, args=(socket.socket(fileno=fd), timeout_s))
    thread.start()
    thread.join()


def _serve(sock: socket.socket, timeout_s: int) -> None:
    """Answers until the other end is closed."""
    from kvasir.structured.guidance import import_llguidance, make_matcher

    tokenizer = import_llguidance().LLTokenizer("byte")
    frames.send(sock, _SAID)
    while (frame := frames.receive(sock)) is not None:
        signal.setitimer(signal.ITIMER_PROF, timeout_s)  # of computing, so that a busy machine fails nobody
        try:
            make_matcher(tokenizer, decode(frame.decode()), {})
            answer = ""
        except (GrammarError, ValueError) as error:
            answer = str(error) or type(error).__name__
        signal.setitimer(signal.ITIMER_PROF, 0)
        frames.send(sock, _SAID + answer.encode())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
