"""Request ids, for every route. Plain ASGI: no task and no buffer is added to a stream."""

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvasir.entrypoints.http.error_shapes import MESSAGES_PATH

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def header(scope: Scope, name: bytes) -> bytes | None:
    return next((v for k, v in scope["headers"] if k == name), None)


def route(scope: Scope) -> str:
    """The path without the prefix that a proxy strips (--root-path)."""
    return scope["path"].removeprefix(scope.get("root_path", ""))


class RequestIdMiddleware:
    """Takes `X-Request-Id` when it is printable and short, makes one otherwise, and sends it back.

    A route may put another one into the scope when the client's header gave none.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        usable = given is not None and _REQUEST_ID.fullmatch(given) is not None
        scope["kvasir.request_id_given"] = usable
        scope["kvasir.request_id"] = given.decode("ascii") if given and usable else uuid.uuid4().hex
        is_messages = route(scope).startswith(MESSAGES_PATH)  # Anthropic's name for the header has no x

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                request_id = scope["kvasir.request_id"].encode("ascii")
                names = (b"x-request-id", b"request-id") if is_messages else (b"x-request-id",)
                message["headers"] = [*message.get("headers", ()), *((name, request_id) for name in names)]
            await send(message)

        await self._app(scope, receive, send_with_id)
