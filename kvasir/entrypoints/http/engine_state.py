"""GET /v1/engine/state: the engine at this moment, as the live page shows it. Computed only when asked for."""

import asyncio
import logging
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from kvasir import __version__
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.peers import Peers
from kvasir.entrypoints.http.serving import Serving
from kvasir.errors import KvasirError
from kvasir.observability import Metrics

PATH = "/v1/engine/state"

_SHARED_S = 0.2
"""Everybody who asks within this time gets the same picture, so that many open pages cost the core no more than one."""

_CORE_WAIT_S = 5.0
"""A core answers between two steps; one that takes longer than this is not waited for."""


class EngineStateRoute:
    """What the front knows (totals, recent answers), and what the core says of itself when it can be asked."""

    def __init__(self, serving: Serving, inflight: Inflight, metrics: Metrics | None, peers: Peers | None = None):
        self._serving = serving
        self._inflight = inflight
        self._metrics = metrics
        self._peers = peers
        self._asked: tuple[float, asyncio.Future[dict[str, Any]]] | None = None

    async def show(self, request: Request) -> Response:
        metrics = self._metrics
        others = [] if self._peers is None else await self._peers.figures()
        body = {
            "object": "engine.state",
            "time": time.time(),
            "version": __version__,
            "models": self._serving.model_names,
            "max_model_len": self._serving.limits.max_model_len,
            "server_load": len(self._inflight),
            "draining": self._inflight.draining,
            "totals": {} if metrics is None else metrics.totals(others),
            "recent": [] if metrics is None else metrics.recent.list(),
            **await self._core(),
        }
        return Response(msgspec.json.encode(body), media_type="application/json", headers={"cache-control": "no-store"})

    async def _core(self) -> dict[str, Any]:
        now = time.monotonic()
        if self._asked is None or now - self._asked[0] > _SHARED_S:
            self._asked = now, asyncio.ensure_future(self._ask())
        return await asyncio.shield(self._asked[1])

    async def _ask(self) -> dict[str, Any]:
        """`core` is None while there is none that answers; `core_error` then says why."""
        try:
            return {"core": await asyncio.wait_for(self._serving.engine.call("state"), _CORE_WAIT_S)}
        except TimeoutError:
            return {"core": None, "core_error": f"the engine core has been busy for {_CORE_WAIT_S:g} s."}
        except KvasirError as error:
            return {"core": None, "core_error": error.message}


class NoPollingInAccessLog(logging.Filter):
    """An open live page asks once a second; those lines would bury the others."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (isinstance(record.args, tuple) and len(record.args) > 2 and PATH in str(record.args[2]))
