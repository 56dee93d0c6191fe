"""From a request to the app of the model it names, which may have to be loaded first."""

import asyncio
from typing import Any

import msgspec
from starlette.types import Message, Receive, Scope, Send

from kvasir.entrypoints.http.body import decode, read_body
from kvasir.entrypoints.http.error_shapes import shape_for
from kvasir.entrypoints.http.errors import ClientGone, log_unexpected
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.middleware import route
from kvasir.entrypoints.http.reply import KEEP_ALIVE_S
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.entrypoints.router.model import Loaded, Model
from kvasir.entrypoints.router.patience import PatientSend
from kvasir.entrypoints.router.pool import ModelPool


class Peek(msgspec.Struct):
    """What the router reads of a body; all else is the model's business."""

    model: str | None = None
    stream: bool | None = None


class Dispatch:
    """An ASGI app for every route that a model answers."""

    def __init__(self, pool: ModelPool, settings: ServerSettings, inflight: Inflight):
        self._pool = pool
        self._settings = settings
        self._inflight = inflight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        patient = PatientSend(send, route(scope))
        try:
            self._inflight.check_open()
            body = await read_body(scope, receive, self._settings.max_body_bytes, self._settings.body_timeout_s)
            peek = decode(body, Peek)
            model = self._pool.find(peek.model)
            loaded = self._pool.try_take(model) or await self._wait(model, receive, patient if peek.stream else None)
        except ClientGone:
            return
        except Exception as e:
            log_unexpected(e, scope["kvasir.request_id"])
            await shape_for(route(scope)).response(e, scope["kvasir.request_id"])(scope, receive, patient)
            return
        try:
            await loaded.routes(scope, _again(body, receive), patient if patient.started else send)
        finally:
            self._pool.give_back(model)

    async def _wait(self, model: Model, receive: Receive, patient: PatientSend | None) -> Loaded:
        """Until the model is loaded; a stream gets its head and comments meanwhile, so that nothing cuts it off."""
        loaded: Loaded | None = None

        async def work() -> None:
            nonlocal loaded
            taking = asyncio.ensure_future(self._pool.take(model))
            try:
                pause_s = self._settings.headers_wait_s
                while patient is not None and not taking.done():
                    await asyncio.wait((taking,), timeout=pause_s)
                    if not taking.done():
                        await patient.beat()
                        pause_s = KEEP_ALIVE_S
                loaded = await taking
            finally:
                if loaded is None and not await _cancelled(taking):
                    self._pool.give_back(model)

        try:
            await self._inflight.run(receive, work())
        except BaseException:
            if loaded is not None:
                self._pool.give_back(model)
            raise
        assert loaded is not None
        return loaded


async def _cancelled(taking: "asyncio.Future[Loaded]") -> bool:
    """Whether nothing was taken in the end."""
    taking.cancel()
    await asyncio.wait((taking,))
    return taking.cancelled() or taking.exception() is not None


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives the body that was read once more, then what the connection says."""
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return dict[str, Any](type="http.request", body=body, more_body=False)

    return receive_again
