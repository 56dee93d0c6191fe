"""Routes about models: what there is, load, unload; and what a server with one model says of itself, for several."""

import time
from typing import Annotated, Any

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from kvasir import __version__
from kvasir.entrypoints.http.errors import error_response, log_unexpected
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.openapi import openapi
from kvasir.entrypoints.http.routes import json_response, timeline_response
from kvasir.entrypoints.router.metrics import merge
from kvasir.entrypoints.router.model import Model
from kvasir.entrypoints.router.pool import ModelPool
from kvasir.errors import KvasirError


class ModelRequest(Struct, kw_only=True):
    """`wait` false: answered at once, while the work goes on."""

    model: Annotated[str, Meta(min_length=1, max_length=1024)]
    wait: bool = True


class ModelRoutes:
    """/v1/models and the routes that load and unload."""

    def __init__(self, pool: ModelPool):
        self._pool = pool
        self._created = int(time.time())

    async def list(self, request: Request) -> Response:
        return json_response({"object": "list", "data": [self._shown(model) for model in self._pool.models()]})

    async def show(self, request: Request) -> Response:
        try:
            return json_response(self._shown(self._pool.find(request.path_params["name"])))
        except KvasirError as e:
            return error_response(e)

    async def load(self, request: ModelRequest) -> dict[str, Any]:
        model = self._pool.find(request.model)
        await self._pool.load(model, wait=request.wait)
        if request.wait:
            model.check_failed()
        return self._shown(model)

    async def unload(self, request: ModelRequest) -> dict[str, Any]:
        model = self._pool.find(request.model)
        await self._pool.unload(model, wait=request.wait)
        return self._shown(model)

    def _shown(self, model: Model) -> dict[str, Any]:
        name = model.spec.name
        return {
            "id": name,
            "object": "model",
            "created": self._created,
            "owned_by": "kvasir",
            "root": name,
            "parent": None,
            "aliases": model.spec.aliases,
            "max_model_len": None if model.loaded is None else model.loaded.serving.limits.max_model_len,
            "status": model.status(),
        }


class RouterSystemRoutes:
    """What operators ask."""

    def __init__(self, pool: ModelPool, inflight: Inflight):
        self._pool = pool
        self._inflight = inflight

    async def health(self, request: Request) -> Response:
        """A model that has failed is no reason to restart the server: the others answer."""
        try:
            self._inflight.check_open()
        except KvasirError as e:
            return error_response(e)
        return Response(status_code=200)

    async def version(self, request: Request) -> Response:
        return json_response({"version": __version__})

    async def load(self, request: Request) -> Response:
        return json_response({"server_load": len(self._inflight)})

    async def metrics(self, request: Request) -> Response:
        pages = (model.metrics.render() for model in self._pool.models() if model.metrics is not None)
        return Response(merge(pages), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def timeline(self, request: Request) -> Response:
        """Of the latest requests; a key sees its own, an admin's all."""
        return timeline_response(request, [m.metrics for m in self._pool.models() if m.metrics is not None])

    async def openapi(self, request: Request) -> Response:
        return json_response(openapi())

    async def engine_state(self, request: Request) -> Response:
        """Of `?model=NAME`, else of the model that was used last; nothing is loaded for it."""
        try:
            name = request.query_params.get("model")
            model = self._pool.find(name) if name else self._pool.latest()
            if model is not None and model.loaded is not None:
                return await model.loaded.state_route.show(request)
        except Exception as e:
            log_unexpected(e, request.scope["kvasir.request_id"])
            return error_response(e)
        names = [model.spec.name] if model is not None else ["no model"]
        return json_response(
            {
                "object": "engine.state",
                "time": time.time(),
                "version": __version__,
                "models": names,
                "max_model_len": 0,
                "server_load": len(self._inflight),
                "draining": self._inflight.draining,
                "totals": {},
                "recent": [],
                "core": None,
                "core_error": f"{names[0]} is not loaded.",
            }
        )
