"""Request ids and API keys, for every route. Plain ASGI: they add no task and no buffer to a stream."""

import hashlib
import hmac
import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvasir.entrypoints.http.error_shapes import MESSAGES_PATH, shape_for
from kvasir.errors import UnauthorizedError

OPEN_PATHS = frozenset(("/health", "/ping"))
"""Routes that need no key: load balancers have none. Everything else is closed, whatever is added later."""

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


class ApiKeyMiddleware:
    """`Authorization: Bearer KEY` or Anthropic's `x-api-key`, by digest in constant time. Closed by default."""

    def __init__(self, app: ASGIApp, api_keys: tuple[str, ...]):
        self._app = app
        self._digests = [hashlib.sha256(key.encode()).digest() for key in api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route(scope) in OPEN_PATHS or self._allowed(_key(scope)):
            await self._app(scope, receive, send)
            return
        error = UnauthorizedError("this server needs an API key: send the header 'Authorization: Bearer KEY'.")
        response = shape_for(route(scope)).response(error, scope["kvasir.request_id"])
        await response(scope, receive, send)

    def _allowed(self, key: bytes) -> bool:
        digest = hashlib.sha256(key.strip()).digest()
        matches = [hmac.compare_digest(digest, known) for known in self._digests]  # all of them, always
        return any(matches)


def _key(scope: Scope) -> bytes:
    scheme, _, key = (header(scope, b"authorization") or b"").partition(b" ")
    return key if scheme.lower() == b"bearer" else header(scope, b"x-api-key") or b""
