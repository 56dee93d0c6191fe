"""Routes for models that give vectors and scores. There is no such model yet: each route says so."""

from typing import Annotated

from msgspec import Meta, Struct
from starlette.routing import Route

from kvasir.entrypoints.http.routes import JsonRoute
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import UserError

POOLING_PATHS = {
    "/v1/embeddings": "embeddings",
    "/v2/embed": "embeddings",
    "/pooling": "pooling",
    "/classify": "classification",
    "/score": "scoring",
    "/v1/score": "scoring",
    "/rerank": "reranking",
    "/v1/rerank": "reranking",
    "/v2/rerank": "reranking",
}


class PoolingRequest(Struct, kw_only=True):
    model: Annotated[str, Meta(max_length=1024)] | None = None


class PoolingError(UserError):
    kind = "not_supported_error"


def pooling_routes(serving: Serving, settings: ServerSettings) -> list[Route]:
    return [
        Route(path, JsonRoute(PoolingRequest, _Refusal(serving, what), settings), methods=["POST"])
        for path, what in POOLING_PATHS.items()
    ]


class _Refusal:
    def __init__(self, serving: Serving, what: str):
        self._serving = serving
        self._what = what

    async def __call__(self, request: PoolingRequest) -> None:
        name = self._serving.check_model(request.model)
        raise PoolingError(
            f"{self._what} needs a pooling model, and {name} generates text. This version of Kvasir serves generating "
            "models only.",
            param="model",
        )
