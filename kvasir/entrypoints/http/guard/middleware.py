"""The guard: nobody passes without a key unless the server has none, and nobody passes what their key allows."""

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kvasir.entrypoints.http.error_shapes import shape_for
from kvasir.entrypoints.http.errors import ForbiddenError
from kvasir.entrypoints.http.guard.account import Account
from kvasir.entrypoints.http.guard.caller import Caller, set_caller
from kvasir.entrypoints.http.guard.gate import Gate
from kvasir.entrypoints.http.guard.keys import Scope as KeyScope
from kvasir.entrypoints.http.middleware import header, route
from kvasir.errors import KvasirError, NotFoundError, UnauthorizedError, UserError

OPEN_PATHS = frozenset(("/health", "/ping", "/ready"))
"""Routes that need no key: load balancers have none. Everything else is closed, whatever is added later."""
ADMIN_PATHS = frozenset(("/reset_prefix_cache", "/pause", "/resume", "/is_paused", "/log_level"))
ADMIN_PREFIX = "/admin/"
TRACE_PATHS = frozenset(("/start_profile", "/stop_profile", "/v1/engine/step_times"))
"""Admin routes where there are keys; a server that has none has them, too."""
MAX_TIMEOUT_S = 86_400.0


class GuardMiddleware:
    """Plain ASGI: adds no task and no buffer to a stream.

    Args:
        timeout_s: of requests that name none; 0.0: none.
        public_metrics: /metrics needs no key.
    """

    def __init__(self, app: ASGIApp, gate: Gate, timeout_s: float = 0.0, public_metrics: bool = False):
        self._app = app
        self._gate = gate
        self._timeout_s = timeout_s
        self._open = OPEN_PATHS | {"/metrics"} if public_metrics else OPEN_PATHS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route(scope)
        try:
            account = self._gate.nobody if path in self._open else self._admit(scope, path)
            set_caller(self._caller(scope, path, account))
            counts = scope["method"] == "POST" and path not in self._open and _needs(path) == "inference"
            if counts:
                account.begin()
        except KvasirError as error:
            await shape_for(path).response(error, scope["kvasir.request_id"])(scope, receive, send)
            return
        if not counts:
            await self._app(scope, receive, send)
            return
        try:
            await self._app(scope, receive, _with_headers(send, account))
        finally:
            account.end()

    def _admit(self, scope: Scope, path: str) -> Account:
        """Raises UnauthorizedError, ForbiddenError; NotFoundError for what nobody may use here."""
        needs = _needs(path)
        if self._gate.is_open and path in TRACE_PATHS:
            return self._gate.nobody
        if self._gate.is_open:
            account = self._gate.nobody
        else:
            found = self._gate.account_of(_secret(scope))
            if found is None:
                raise UnauthorizedError("this server needs an API key: send the header 'Authorization: Bearer KEY'.")
            account = found
        if needs == "admin" and not self._gate.ring.has_admin:
            raise NotFoundError(f"there is no {path} here: admin routes need a key with the scope admin.")
        if not account.key.opens(needs):
            raise ForbiddenError(f"the key {account.key.name!r} has no scope {needs!r}, which {path} needs.")
        return account

    def _caller(self, scope: Scope, path: str, account: Account) -> Caller:
        now = time.time()
        timeout_s = _timeout_of(scope) or self._timeout_s
        traceparent = header(scope, b"traceparent")
        return Caller(
            account,
            scope["kvasir.request_id"],
            path,
            now,
            now + timeout_s if timeout_s else 0.0,
            traceparent.decode("latin-1") if traceparent else None,
        )


def _needs(path: str) -> KeyScope:
    if path in ADMIN_PATHS or path in TRACE_PATHS or path.startswith(ADMIN_PREFIX):
        return "admin"
    return "metrics" if path == "/metrics" else "inference"


def _secret(scope: Scope) -> bytes:
    """`Authorization: Bearer`, as OpenAI's clients send it, or `X-API-Key`."""
    scheme, _, secret = (header(scope, b"authorization") or b"").partition(b" ")
    return secret.strip() if scheme.lower() == b"bearer" else header(scope, b"x-api-key") or b""


def _timeout_of(scope: Scope) -> float | None:
    given = header(scope, b"x-request-timeout")
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0.0 < seconds <= MAX_TIMEOUT_S:
        raise UserError(
            f"X-Request-Timeout must be a number of seconds above 0 and at most {MAX_TIMEOUT_S:.0f}, "
            f"got {given.decode('latin-1')!r:.80}.",
            param="X-Request-Timeout",
        )
    return seconds


def _with_headers(send: Send, account: Account) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *account.headers()]
        await send(message)

    return send_with_headers
