"""Composition of the HTTP app: routes and middleware, from a list, in one place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from kvasir.entrypoints.batch.answerer import OneModel
from kvasir.entrypoints.http.anthropic.app import messages_routes
from kvasir.entrypoints.http.batches.app import Worker, batch_routes
from kvasir.entrypoints.http.engine_state import PATH, EngineStateRoute
from kvasir.entrypoints.http.error_shapes import on_http_exception, on_unexpected
from kvasir.entrypoints.http.generate import GenerateRoute
from kvasir.entrypoints.http.guard.admin import AdminRoutes
from kvasir.entrypoints.http.guard.caller import current_caller
from kvasir.entrypoints.http.guard.gate import Gate, gate_settings
from kvasir.entrypoints.http.guard.middleware import GuardMiddleware
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.middleware import RequestIdMiddleware
from kvasir.entrypoints.http.peers import Peers
from kvasir.entrypoints.http.pooling import pooling_routes
from kvasir.entrypoints.http.profile import ProfileRoutes
from kvasir.entrypoints.http.responses.app import responses_routes
from kvasir.entrypoints.http.responses.store import ResponseStore
from kvasir.entrypoints.http.routes import JsonRoute, SystemRoutes, TokenRoutes
from kvasir.entrypoints.http.schema import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.entrypoints.http.web import WebPageMiddleware
from kvasir.observability import Metrics

if TYPE_CHECKING:
    from kvasir.engine.async_llm import AsyncLLM


def build_app(
    engine: "AsyncLLM",
    settings: ServerSettings | None = None,
    metrics: Metrics | None = None,
    peers: Peers | None = None,
) -> Starlette:
    """The app of a server with one model. `peers`: of the other processes, where several answer as one.

    Raises:
        ConfigError: the keys or the folder of batches cannot be read.
    """
    settings = settings or ServerSettings()
    gate = make_gate(settings)
    serving = Serving(engine, settings, metrics)
    inflight = Inflight(lambda: engine.check_room(deadline=current_caller().deadline))
    system = SystemRoutes(serving, inflight, metrics, peers)
    capacity = engine.config.scheduler.max_num_seqs * engine.config.parallel.data_parallel_size
    batches, workers = batch_routes(OneModel(serving), settings, inflight, capacity, gate.account_named)
    routes = [
        *batches,
        *model_routes(serving, settings, inflight, metrics),
        Route("/v1/models", system.models),
        Route("/v1/models/{name:path}", system.model),
        Route("/health", system.health),
        Route("/ready", system.ready),
        Route("/ping", system.health, methods=["GET", "POST"]),
        Route("/version", system.version),
        Route("/metrics", system.metrics),
        Route("/load", system.load),
        Route(PATH, EngineStateRoute(serving, inflight, metrics, peers).show),
        Route("/v1/requests/{request_id}/timeline", system.timeline),
        *ProfileRoutes(serving, settings).routes(),
        Route("/openapi.json", system.openapi),
        *AdminRoutes(engine, inflight, gate).routes(),
    ]
    return make_app(routes, settings, gate, inflight, workers)


def make_gate(settings: ServerSettings) -> Gate:
    return Gate(gate_settings(settings.api_keys, settings.admin_keys, settings.api_keys_file, settings.usage_db))


def model_routes(
    serving: Serving,
    settings: ServerSettings,
    inflight: Inflight,
    metrics: Metrics | None,
    store: ResponseStore | None = None,
) -> list[Route]:
    """What one model answers. `store` has the responses of several models, where there are several."""
    tokens = TokenRoutes(serving)
    chat = GenerateRoute(ChatCompletionRequest, serving.chat, settings, inflight, metrics)
    completion = GenerateRoute(CompletionRequest, serving.completion, settings, inflight, metrics)
    return [
        *responses_routes(serving, settings, inflight, metrics, store),
        *messages_routes(serving, settings, inflight, metrics),
        *pooling_routes(serving, settings),
        Route("/v1/chat/completions", chat, methods=["POST"]),
        Route("/v1/completions", completion, methods=["POST"]),
        Route(
            "/v1/chat/completions/render",
            JsonRoute(ChatCompletionRequest, tokens.render_chat, settings),
            methods=["POST"],
        ),
        Route(
            "/v1/completions/render", JsonRoute(CompletionRequest, tokens.render_completion, settings), methods=["POST"]
        ),
        Route("/tokenize", JsonRoute(TokenizeRequest, tokens.tokenize, settings), methods=["POST"]),
        Route("/detokenize", JsonRoute(DetokenizeRequest, tokens.detokenize, settings), methods=["POST"]),
    ]


def make_app(
    routes: list[Route], settings: ServerSettings, gate: Gate, inflight: Inflight, workers: Sequence[Worker] = ()
) -> Starlette:
    """`app.state.inflight` is what a graceful stop waits for; `app.state.gate` has the keys and their counters;
    `app.state.workers` run as long as the server does.
    """
    app = Starlette(
        routes=routes,
        middleware=_middleware(settings, gate),
        exception_handlers={HTTPException: on_http_exception, Exception: on_unexpected},
    )
    app.router.redirect_slashes = False  # a redirect would lose the body of a POST
    app.state.inflight = inflight
    app.state.gate = gate
    app.state.workers = workers
    return app


def _middleware(settings: ServerSettings, gate: Gate) -> list[Middleware]:
    """Outermost first."""
    middleware = [Middleware(RequestIdMiddleware)]
    if settings.allowed_origins:
        from starlette.middleware.cors import CORSMiddleware

        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=list(settings.allowed_origins),
                allow_methods=list(settings.allowed_methods),
                allow_headers=list(settings.allowed_headers),
                expose_headers=["x-request-id"],
            )
        )
    if settings.web_page:
        middleware.append(Middleware(WebPageMiddleware))
    middleware.append(
        Middleware(
            GuardMiddleware, gate=gate, timeout_s=settings.request_timeout_s, public_metrics=settings.public_metrics
        )
    )
    return middleware
