"""POST /start_profile, /stop_profile and /v1/engine/step_times: looking at a running engine's steps."""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kvasir.entrypoints.http.body import decode, read_body
from kvasir.entrypoints.http.errors import ClientGone, error_response, log_unexpected
from kvasir.entrypoints.http.routes import json_response
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import EngineDeadError, EngineError, UserError


class StartProfile(msgspec.Struct):
    num_steps: int | None = None


class StopProfile(msgspec.Struct):
    pass


class SwitchStepTimes(msgspec.Struct):
    on: bool = True


class ProfileRoutes:
    """Calls of the engine that take an optional JSON body."""

    def __init__(self, serving: Serving, settings: ServerSettings):
        self._engine = serving.engine
        self._settings = settings

    def routes(self) -> list[Route]:
        """The first two exist only where a folder for traces was given at the start: a trace costs time and disk."""
        routes = [self._route("/v1/engine/step_times", SwitchStepTimes, self._step_times)]
        if self._settings.profile:
            routes.append(self._route("/start_profile", StartProfile, self._start))
            routes.append(self._route("/stop_profile", StopProfile, self._stop))
        return routes

    async def _start(self, request: StartProfile) -> dict[str, Any]:
        await self._engine.start_profile(request.num_steps)
        return {"profiling": True}

    async def _stop(self, request: StopProfile) -> dict[str, Any]:
        return {"profiling": False, "file": await self._engine.stop_profile()}

    async def _step_times(self, request: SwitchStepTimes) -> dict[str, Any]:
        await self._engine.call("step_times", on=request.on)
        return {"on": request.on}

    def _route(self, path: str, cls: type[msgspec.Struct], call: Callable[[Any], Awaitable[dict[str, Any]]]) -> Route:
        async def answer(request: Request) -> Response:
            settings = self._settings
            try:
                body = await read_body(request.scope, request.receive, settings.max_body_bytes, settings.body_timeout_s)
                return json_response(await call(decode(body or b"{}", cls)))
            except ClientGone:
                return Response(status_code=499)
            except EngineDeadError as error:
                return error_response(error)
            except EngineError as error:  # the core's words about what was asked of it
                return error_response(UserError(error.message))
            except Exception as error:
                log_unexpected(error, request.scope["kvasir.request_id"])
                return error_response(error)

        return Route(path, answer, methods=["POST"])
