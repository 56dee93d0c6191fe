"""The routes of the Responses API."""

from starlette.routing import Route

from kvasir.entrypoints.http.generate import GenerateRoute
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.responses.routes import RetrieveRoute, StoredRoutes
from kvasir.entrypoints.http.responses.schema import InputTokensRequest, ResponsesRequest
from kvasir.entrypoints.http.responses.service import Responses
from kvasir.entrypoints.http.responses.store import ResponseStore
from kvasir.entrypoints.http.routes import JsonRoute
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.observability import Metrics

_ONE = "/v1/responses/{response_id}"


def responses_routes(
    serving: Serving,
    settings: ServerSettings,
    inflight: Inflight,
    metrics: Metrics | None,
    store: ResponseStore | None = None,
) -> list[Route]:
    """Without a `store` these responses have one of their own, and the routes to look into it."""
    looking = []
    if store is None:
        store = make_store(settings)
        looking = stored_routes(store, settings, inflight)
    responses = Responses(serving, store, inflight)
    create = GenerateRoute(ResponsesRequest, responses.create, settings, inflight, metrics)
    count = JsonRoute(InputTokensRequest, responses.count_input_tokens, settings)
    return [
        Route("/v1/responses", create, methods=["POST"]),
        Route("/v1/responses/input_tokens", count, methods=["POST"]),
        *looking,
    ]


def make_store(settings: ServerSettings) -> ResponseStore:
    return ResponseStore(settings.responses_store_bytes, settings.responses_ttl_s)


def stored_routes(store: ResponseStore, settings: ServerSettings, inflight: Inflight) -> list[Route]:
    stored = StoredRoutes(store)
    return [
        Route(_ONE, RetrieveRoute(store, inflight, settings.headers_wait_s), methods=["GET"]),
        Route(_ONE, stored.delete, methods=["DELETE"]),
        Route(_ONE + "/cancel", stored.cancel, methods=["POST"]),
        Route(_ONE + "/input_items", stored.input_items, methods=["GET"]),
    ]
