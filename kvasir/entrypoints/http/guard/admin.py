"""Routes for whoever runs the server. The guard lets only admin keys through to them; without one they do not exist."""

import logging
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kvasir.entrypoints.http.errors import error_response, log_unexpected
from kvasir.entrypoints.http.guard.caller import current_caller
from kvasir.entrypoints.http.guard.gate import Gate
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.routes import json_response
from kvasir.errors import CapacityError, UserError
from kvasir.logger import get_logger

logger = get_logger(__name__)

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


class Resettable(Protocol):
    """One engine, or several."""

    async def reset_prefix_cache(self) -> bool:
        """False while requests hold blocks of it."""


class AdminRoutes:
    """Each is logged with the name of the key that asked."""

    def __init__(self, engine: Resettable, inflight: Inflight, gate: Gate):
        self._engine = engine
        self._inflight = inflight
        self._gate = gate

    def routes(self) -> list[Route]:
        return [
            Route("/reset_prefix_cache", self.reset_prefix_cache, methods=["POST"]),
            Route("/pause", self.pause, methods=["POST"]),
            Route("/resume", self.resume, methods=["POST"]),
            Route("/is_paused", self.is_paused),
            Route("/log_level", self.log_level, methods=["GET", "POST"]),
            Route("/admin/usage", self.usage),
            Route("/admin/reload", self.reload, methods=["POST"]),
            Route("/v1/usage", self.own_usage),
        ]

    async def reset_prefix_cache(self, request: Request) -> Response:
        """Refused while requests hold blocks of it."""
        _log(request)
        try:
            if not await self._engine.reset_prefix_cache():
                raise CapacityError("requests are running on cached prefixes: pause, wait until they end, try again.")
        except Exception as error:
            log_unexpected(error, request.scope["kvasir.request_id"])
            return error_response(error)
        return json_response({"reset": True})

    async def pause(self, request: Request) -> Response:
        """New requests get 503 until resume; those in flight go on."""
        _log(request)
        self._inflight.paused = True
        return json_response({"is_paused": True, "running": len(self._inflight)})

    async def resume(self, request: Request) -> Response:
        _log(request)
        self._inflight.paused = False
        return json_response({"is_paused": False})

    async def is_paused(self, request: Request) -> Response:
        return json_response({"is_paused": self._inflight.paused})

    async def log_level(self, request: Request) -> Response:
        """`POST /log_level?level=DEBUG`, of this process."""
        log = logging.getLogger("kvasir")
        if request.method == "POST":
            level = request.query_params.get("level", "").upper()
            if level not in LEVELS:
                return error_response(UserError(f"level must be one of {', '.join(LEVELS)}, got {level!r:.40}."))
            _log(request)
            log.setLevel(level)
        return json_response({"level": logging.getLevelName(log.level)})

    async def usage(self, request: Request) -> Response:
        return json_response({"keys": self._gate.reports()})

    async def own_usage(self, request: Request) -> Response:
        """For every key: its own counters."""
        return json_response(current_caller().account.report())

    async def reload(self, request: Request) -> Response:
        """As SIGHUP does for keys."""
        _log(request)
        return json_response({"reloaded": self._gate.reload(), "keys": len(self._gate.ring)})


def _log(request: Request) -> None:
    logger.info("%s %s by the key %r", request.method, request.url.path, current_caller().account.key.name)
