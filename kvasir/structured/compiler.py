"""Formats -> automata, on threads beside the engine's loop, with a bounded memory of grammars."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from kvasir.structured.backend import Automaton, Backend, Grammar
from kvasir.structured.formats import decode

MAX_GRAMMARS = 256
THREADS = 2
STACK_BYTES = 128 << 20
"""Grammar libraries recurse over what they read; only as much of this is used as they need."""

T = TypeVar("T")
_STACK_SIZE = threading.Lock()


class GrammarCompiler:
    """Compiles each format once for all that ask for it, as long as it is remembered (the last used MAX_GRAMMARS).

    Called from one thread, the engine's. What it returns is done when the work is; errors are in the future.

    Args:
        make_backend: called on a compiling thread, when the first format comes.
    """

    def __init__(self, make_backend: Callable[[], Backend], max_grammars: int = MAX_GRAMMARS):
        self._make_backend = make_backend
        self._backend: Backend | None = None
        self._starting = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="kvasir-grammar")
        self._grammars: OrderedDict[str, Future[Grammar]] = OrderedDict()
        self._max_grammars = max_grammars

    @property
    def backend(self) -> Backend:
        """Only after a grammar was compiled."""
        assert self._backend is not None
        return self._backend

    def grammar(self, text: str) -> "Future[Grammar]":
        """The grammar of an encoded format; compiling begins with the first question."""
        found = self._grammars.get(text)
        if found is None:
            found = self._grammars[text] = self._submit(lambda: self._compile(text))
            if len(self._grammars) > self._max_grammars:
                self._grammars.popitem(last=False)
        self._grammars.move_to_end(text)
        return found

    def automaton(self, text: str, token_ids: Sequence[int]) -> "Future[Automaton]":
        """An automaton that has consumed `token_ids`: at once if the grammar is there and nothing is to be consumed."""
        result: Future[Automaton] = Future()
        tokens = list(token_ids)

        def begin(compiled: "Future[Grammar]") -> None:
            try:
                automaton = compiled.result().start()
                automaton.advance(tokens)
                result.set_result(automaton)
            except Exception as error:
                result.set_exception(error)

        compiled = self.grammar(text)
        if tokens:
            compiled.add_done_callback(lambda done: self._submit(lambda: begin(done)))
        else:
            compiled.add_done_callback(begin)
        return result

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, work: Callable[[], T]) -> "Future[T]":
        with _STACK_SIZE:  # the pool starts its threads when work comes
            before = threading.stack_size(STACK_BYTES)
            try:
                return self._pool.submit(work)
            finally:
                threading.stack_size(before)

    def _compile(self, text: str) -> Grammar:
        with self._starting:
            if self._backend is None:
                self._backend = self._make_backend()
        return self._backend.compile(decode(text))
