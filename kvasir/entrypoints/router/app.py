"""Composition of the router's app: its own routes, and one dispatch for all routes that models answer."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.routing import Route, Router

from kvasir.entrypoints.http.app import make_app, make_gate, model_routes
from kvasir.entrypoints.http.batches.app import batch_routes
from kvasir.entrypoints.http.engine_state import PATH, EngineStateRoute
from kvasir.entrypoints.http.guard.admin import AdminRoutes
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.pooling import POOLING_PATHS
from kvasir.entrypoints.http.responses.app import make_store, stored_routes
from kvasir.entrypoints.http.responses.store import ResponseStore
from kvasir.entrypoints.http.routes import JsonRoute
from kvasir.entrypoints.http.served import make_metrics
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.entrypoints.router.catalog import Catalog
from kvasir.entrypoints.router.dispatch import Dispatch
from kvasir.entrypoints.router.model import Loaded, Model
from kvasir.entrypoints.router.pool import Bounds, ModelPool
from kvasir.entrypoints.router.routes import ModelRequest, ModelRoutes, RouterSystemRoutes
from kvasir.entrypoints.router.starter import Starter

if TYPE_CHECKING:
    from kvasir.engine.async_llm import AsyncLLM

MODEL_PATHS = (
    "/v1/chat/completions",
    "/v1/chat/completions/render",
    "/v1/completions",
    "/v1/completions/render",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
    *POOLING_PATHS,
)
"""POST routes whose body names a model."""


def build_router(
    catalog: Catalog, starter: Starter, bounds: Bounds, settings: ServerSettings, batch_places: int
) -> tuple[ModelPool, Starlette]:
    """The pool and the app over it.

    Args:
        batch_places: requests that run in an engine at the same time, for batches.

    Raises:
        ConfigError: the keys or the folder of batches cannot be read.
    """
    gate, inflight = make_gate(settings), Inflight()
    store = make_store(settings)
    pool = ModelPool(catalog, starter, bounds, _wiring(settings, inflight, store))
    models, system = ModelRoutes(pool), RouterSystemRoutes(pool, inflight)
    dispatch = Dispatch(pool, settings, inflight)
    batches, workers = batch_routes(pool, settings, inflight, batch_places, gate.account_named)
    routes = [
        *batches,
        *(Route(path, dispatch, methods=["POST"]) for path in MODEL_PATHS),
        *stored_routes(store, settings, inflight),
        Route("/v1/models", models.list),
        Route("/v1/models/{name:path}", models.show),
        Route("/admin/models/load", JsonRoute(ModelRequest, models.load, settings), methods=["POST"]),
        Route("/admin/models/unload", JsonRoute(ModelRequest, models.unload, settings), methods=["POST"]),
        Route("/health", system.health),
        Route("/ready", system.health),
        Route("/ping", system.health, methods=["GET", "POST"]),
        Route("/version", system.version),
        Route("/metrics", system.metrics),
        Route("/load", system.load),
        Route(PATH, system.engine_state),
        Route("/v1/requests/{request_id}/timeline", system.timeline),
        Route("/openapi.json", system.openapi),
        *AdminRoutes(pool, inflight, gate).routes(),
    ]
    return pool, make_app(routes, settings, gate, inflight, [*workers, pool])


def _wiring(
    settings: ServerSettings, inflight: Inflight, store: ResponseStore
) -> Callable[[Model, "AsyncLLM", int], Loaded]:
    def make_loaded(model: Model, engine: "AsyncLLM", num_bytes: int) -> Loaded:
        own = replace(settings, **dict(model.spec.server))
        model.metrics = make_metrics(engine)
        serving = Serving(engine, own, model.metrics)
        routes = model_routes(serving, own, inflight, model.metrics, store)
        return Loaded(engine, serving, Router(routes), EngineStateRoute(serving, inflight, model.metrics), num_bytes)

    return make_loaded
