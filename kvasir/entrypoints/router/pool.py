"""Which models are loaded: on demand, within bounds, the least recently used making room."""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from kvasir.config.units import format_bytes
from kvasir.entrypoints.http.errors import DrainingError, log_unexpected
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.router.catalog import Catalog
from kvasir.entrypoints.router.model import Loaded, Model
from kvasir.entrypoints.router.starter import Plan, Starter, too_large
from kvasir.errors import CapacityError, ConfigError, EngineDeadError, QueueFullError
from kvasir.logger import get_logger

if TYPE_CHECKING:
    from kvasir.engine.async_llm import AsyncLLM

logger = get_logger(__name__)

T = TypeVar("T")

_LOOK_S = 0.05


@dataclass(frozen=True)
class Bounds:
    """max_bytes None: what the device suggests."""

    max_loaded: int = 4
    max_bytes: int | None = None
    wait_s: float = 600.0
    max_waiting: int = 256


class ModelPool:
    """Loads one model at a time; models that are loaded answer meanwhile.

    Args:
        make_loaded: wires up an engine that has just started.
    """

    def __init__(
        self,
        catalog: Catalog,
        starter: Starter,
        bounds: Bounds,
        make_loaded: Callable[[Model, "AsyncLLM", int], Loaded],
        clock: Callable[[], float] = time.monotonic,
    ):
        self._catalog = catalog
        self._starter = starter
        self._bounds = bounds
        self._make_loaded = make_loaded
        self._clock = clock
        self._models: dict[str, Model] = {}
        self._loads: dict[str, asyncio.Task[None]] = {}
        self._unloads: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()
        self._num_waiting = 0
        self._closed = False

    # -- what there is ----------------------------------------------------------------------------------------

    def models(self) -> list[Model]:
        """In the order of the catalog; a model that is no longer there stays while it is loaded."""
        self.notice_deaths()
        specs = {spec.name: spec for spec in self._catalog.specs()}
        for name, spec in specs.items():
            self._models.setdefault(name, Model(spec, self._clock))
        for name, model in list(self._models.items()):
            if name not in specs and model.loaded is None and name not in self._loads:
                del self._models[name]
        return [*(self._models[name] for name in specs), *(m for n, m in self._models.items() if n not in specs)]

    def find(self, name: str | None) -> Model:
        """Raises NotFoundError."""
        spec = self._catalog.find(name)
        return self._models.setdefault(spec.name, Model(spec, self._clock))

    def latest(self) -> Model | None:
        """The loaded model that was used last."""
        loaded = [model for model in self._models.values() if model.loaded is not None]
        return max(loaded, key=lambda model: model.last_used, default=None)

    # -- using ------------------------------------------------------------------------------------------------

    def try_take(self, model: Model) -> Loaded | None:
        """The model, if it is loaded; to be given back with `give_back`."""
        self._notice_death(model)
        if model.state != "loaded":
            return None
        model.num_leases += 1
        model.use()
        return model.loaded

    async def take(self, model: Model) -> Loaded:
        """The model, loaded first if need be.

        Raises:
            ModelFailedError: it cannot be loaded.
            QueueFullError: too many requests wait for models.
            CapacityError: it was not loaded in time.
        """
        deadline = self._clock() + self._bounds.wait_s
        while (loaded := self.try_take(model)) is None:
            model.check_failed()
            if self._closed:
                raise DrainingError("the server is shutting down and loads no more models.", retry_after_s=5.0)
            if self._num_waiting >= self._bounds.max_waiting:
                raise QueueFullError(
                    f"{self._num_waiting} requests wait for their models, which is the bound (--models-max-waiting)."
                )
            left = deadline - self._clock()
            if left <= 0:
                raise CapacityError(
                    f"{model.spec.name} was not loaded within {self._bounds.wait_s:g} s (--models-wait): try again.",
                    retry_after_s=10.0,
                )
            self._num_waiting += 1
            model.num_wanted += 1
            try:
                await asyncio.wait((self._loading(model),), timeout=left)
            finally:
                self._num_waiting -= 1
                model.num_wanted -= 1
        return loaded

    def give_back(self, model: Model) -> None:
        model.num_leases -= 1
        model.use()

    @asynccontextmanager
    async def lease(self, name: str | None) -> AsyncGenerator[Serving]:
        """For batches, which wait like everybody else."""
        model = self.find(name)
        loaded = await self.take(model)
        try:
            yield loaded.serving
        finally:
            self.give_back(model)

    async def reset_prefix_cache(self) -> bool:
        """Of all models that are loaded."""
        loaded = [model.loaded.engine for model in self._models.values() if model.loaded is not None]
        return all([await engine.reset_prefix_cache() for engine in loaded])

    # -- loading and unloading --------------------------------------------------------------------------------

    async def load(self, model: Model, wait: bool = True) -> None:
        """On request: tries at once what has failed before. The model's state says how it went."""
        model.forgive()
        if self.try_take(model) is not None:
            self.give_back(model)
            return
        loading = self._loading(model)
        if wait:
            await asyncio.shield(loading)

    async def unload(self, model: Model, wait: bool = True) -> None:
        """On request: lets requests in flight end first."""
        unloading = asyncio.create_task(self._unload_on_request(model))
        self._unloads.add(unloading)
        unloading.add_done_callback(self._unloads.discard)
        if wait:
            await asyncio.shield(unloading)

    async def _unload_on_request(self, model: Model) -> None:
        async with self._changing:
            if model.loaded is not None:
                await self._unload(model, "asked for")
            elif model.state == "failed":
                model.become_unloaded()

    def _loading(self, model: Model) -> "asyncio.Task[None]":
        """The one task that loads the model, for all who wait."""
        name = model.spec.name
        if name not in self._loads:
            self._loads[name] = asyncio.create_task(self._load(model), name=f"kvasir-load-{name}")
            self._loads[name].add_done_callback(lambda task: self._loads.pop(name))
        return self._loads[name]

    async def _load(self, model: Model) -> None:
        """Never raises: what went wrong is the model's state."""
        model.state = "loading" if model.loaded is None else model.state
        async with self._changing:
            if model.loaded is not None:
                return
            model.state, started = "loading", self._clock()
            engine = None
            try:
                plan = await in_thread(self._starter.plan, model.spec)
                await self._make_room(model, plan)
                engine = await in_thread(self._start, plan)
                loaded = self._make_loaded(model, engine, plan.num_bytes)
                await engine.check_health()
            except Exception as error:
                if engine is not None:
                    await engine.aclose()
                log_unexpected(error, f"load of {model.spec.name}")
                model.fail(error)
                logger.error("%s could not be loaded: %s", model.spec.name, model.reason)
            except BaseException:
                model.become_unloaded()
                raise
            else:
                model.become_loaded(loaded, self._clock() - started)
                logger.info("%s is loaded, %s", model.spec.name, format_bytes(plan.num_bytes))

    def _start(self, plan: Plan) -> "AsyncLLM":
        """In a thread, where nobody may be waiting any more."""
        engine = self._starter.start(plan)
        if self._closed:
            engine.shutdown()
            raise EngineDeadError("the server stopped while the model was loading.")
        return engine

    async def _make_room(self, model: Model, plan: Plan) -> None:
        """Unloads until the plan fits: idle models first, the longest unused of them first.

        Raises:
            ConfigError: it can never fit.
            CapacityError: what is loaded is pinned.
        """
        bound = self._bounds.max_bytes or plan.device_bytes
        if bound and plan.num_bytes > bound:
            raise ConfigError(too_large(model.spec.name, plan.num_bytes, bound))
        while True:
            loaded = [other for other in self._models.values() if other.loaded is not None]
            used = sum(other.loaded.num_bytes for other in loaded if other.loaded is not None)
            if len(loaded) < self._bounds.max_loaded and (not bound or used + plan.num_bytes <= bound):
                return
            victims = [other for other in loaded if not other.spec.pin]
            if not victims:
                raise CapacityError(f"there is no room for {model.spec.name}: what is loaded is pinned.")
            victim = min(victims, key=lambda other: (not other.is_idle, other.last_used))
            await self._unload(victim, f"room for {model.spec.name}")

    async def _unload(self, model: Model, why: str) -> None:
        """Under the lock. Whoever waited for the model's load gets it before it goes."""
        while model.num_wanted and model.state == "loaded":
            await asyncio.sleep(0)
        assert model.loaded is not None
        model.state = "unloading"
        try:
            while model.num_leases or model.loaded.engine.num_unfinished:
                if not model.loaded.engine.is_alive:
                    break
                await asyncio.sleep(_LOOK_S)
        except BaseException:
            model.state = "loaded"
            raise
        engine = model.loaded.engine
        model.become_unloaded()
        await engine.aclose()
        logger.info("%s is unloaded: %s", model.spec.name, why)

    def _notice_death(self, model: Model) -> None:
        if model.state == "loaded" and model.loaded is not None and not model.loaded.engine.is_alive:
            engine = model.loaded.engine
            model.fail(EngineDeadError(engine.dead_error or "its engine is gone."))
            engine.shutdown()
            logger.error("%s has failed: %s", model.spec.name, model.reason)

    # -- with the server --------------------------------------------------------------------------------------

    def start(self) -> None:
        """Loads what is to be loaded at start."""
        for model in self.models():
            if model.spec.load:
                self._loading(model)

    async def stop(self) -> None:
        """Loads no more; what is loaded goes on answering until `shutdown`."""
        self._closed = True
        tasks = [*self._loads.values(), *self._unloads]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def shutdown(self, timeout_s: float) -> None:
        for model in self._models.values():
            if model.loaded is not None:
                model.loaded.engine.shutdown(timeout_s)

    def notice_deaths(self) -> None:
        for model in self._models.values():
            self._notice_death(model)


async def in_thread(fn: Callable[..., T], *args: object) -> T:
    """Like `asyncio.to_thread`, in a thread that does not hold up the end of the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def tell(error: BaseException | None, value: T | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(value)  # type: ignore[arg-type]

    def run() -> None:
        value, error = None, None
        try:
            value = fn(*args)
        except BaseException as e:
            error = e
        try:
            loop.call_soon_threadsafe(tell, error, value)
        except RuntimeError:  # the loop has ended
            return

    threading.Thread(target=run, name=f"kvasir-{fn.__name__}", daemon=True).start()
    return await done
