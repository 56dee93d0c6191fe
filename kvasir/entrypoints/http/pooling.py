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
        Route(path, JsonRoute(PoolingRequest, _Refusal(serving, path), settings), methods=["POST"])
        for path in POOLING_PATHS
    ]


def pooling_error(path: str, model: str) -> PoolingError:
    return PoolingError(
        f"{POOLING_PATHS[path]} needs a pooling model, and {model} generates text. This version of Kvasir serves "
        "generating models only.",
        param="model",
    )


class _Refusal:
    def __init__(self, serving: Serving, path: str):
        self._serving = serving
        self._path = path

    async def __call__(self, request: PoolingRequest) -> None:
        raise pooling_error(self._path, self._serving.check_model(request.model))
