"""One model of several: what it is doing, what it has, and who is using it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from starlette.routing import Router

from kvasir.entrypoints.http.engine_state import EngineStateRoute
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.router.catalog import ModelSpec
from kvasir.errors import CapacityError, KvasirError
from kvasir.observability import Metrics

if TYPE_CHECKING:
    from kvasir.engine.async_llm import AsyncLLM

State = Literal["unloaded", "loading", "loaded", "unloading", "failed"]

_FIRST_PAUSE_S = 5.0
_MAX_PAUSE_S = 300.0


class ModelFailedError(CapacityError):
    """The model could not be loaded, or its engine is gone; it is tried again after a pause."""

    kind = "model_failed"


@dataclass(frozen=True)
class Loaded:
    """What a model has while it is loaded.

    Attributes:
        routes: its own app.
        num_bytes: that it was planned to take.
    """

    engine: "AsyncLLM"
    serving: Serving
    routes: Router
    state_route: EngineStateRoute
    num_bytes: int


class Model:
    """Only the pool changes it.

    Attributes:
        reason: why it failed.
        metrics: of its present load, or of its last one.
        num_leases: requests that use it now.
        num_wanted: requests that wait for it.
    """

    def __init__(self, spec: ModelSpec, clock: Callable[[], float] = time.monotonic):
        self.spec = spec
        self.state: State = "unloaded"
        self.reason: str | None = None
        self.loaded: Loaded | None = None
        self.metrics: Metrics | None = None
        self.num_leases = 0
        self.num_wanted = 0
        self.last_used = 0.0
        self.load_s: float | None = None
        self._clock = clock
        self._failures = 0
        self._retry_at = 0.0

    @property
    def is_idle(self) -> bool:
        """Nobody uses it: no request, and no answer that goes on by itself."""
        running = self.loaded.engine.num_unfinished if self.loaded is not None else 0
        return not (self.num_leases or self.num_wanted or running)

    def use(self) -> None:
        self.last_used = self._clock()

    def become_loaded(self, loaded: Loaded, load_s: float) -> None:
        self.state, self.reason, self.loaded, self.load_s = "loaded", None, loaded, load_s
        self.use()

    def become_unloaded(self) -> None:
        self.state, self.reason = "unloaded", None
        self._failures = 0
        self._let_go()

    def fail(self, error: BaseException) -> None:
        self.state = "failed"
        self._let_go()
        known = isinstance(error, KvasirError)
        self.reason = str(error) if known else "the server failed to load it; its log has the details."
        pause_s = min(_FIRST_PAUSE_S * 2**self._failures, _MAX_PAUSE_S)
        self._failures += 1
        self._retry_at = self._clock() + pause_s

    def _let_go(self) -> None:
        self.loaded = None
        if self.metrics is not None and self.metrics.tracer is not None:
            self.metrics.tracer.close()

    def check_failed(self) -> None:
        """Raises ModelFailedError until the pause after a failure is over."""
        left = self._retry_at - self._clock()
        if self.state == "failed" and left > 0:
            raise ModelFailedError(f"the model {self.spec.name} has failed: {self.reason}", retry_after_s=left)

    def forgive(self) -> None:
        """The next request may try at once."""
        self._retry_at = 0.0

    def status(self) -> dict[str, Any]:
        return {
            "value": self.state,
            "reason": self.reason,
            "memory_bytes": None if self.loaded is None else self.loaded.num_bytes,
            "load_seconds": self.load_s,
            "in_flight": self.num_leases,
            "waiting": self.num_wanted,
            "pinned": self.spec.pin,
        }
