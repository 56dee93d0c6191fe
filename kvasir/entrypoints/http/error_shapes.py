"""How each API writes errors that come before an answer, and which API a path belongs to."""

from typing import Any, Protocol

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from kvasir.entrypoints.http.errors import MethodError, error_body, error_response, error_status, log_unexpected
from kvasir.errors import KvasirError, NotFoundError, UserError

MESSAGES_PATH = "/v1/messages"
_MESSAGES_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


class ErrorShape(Protocol):
    @staticmethod
    def response(error: BaseException, request_id: str) -> Response:
        """Status, headers and body."""


class OpenAIErrors:
    @staticmethod
    def response(error: BaseException, request_id: str) -> Response:
        return error_response(error)


class MessagesErrors:
    """Anthropic's."""

    @staticmethod
    def response(error: BaseException, request_id: str) -> Response:
        return error_response(error, MessagesErrors.body(error, request_id))

    @staticmethod
    def body(error: BaseException, request_id: str) -> dict[str, Any]:
        status = error_status(error)
        kind = _MESSAGES_KINDS.get(status, "invalid_request_error" if status < 500 else "api_error")
        message = error_body(error)["error"]["message"]
        return {"type": "error", "error": {"type": kind, "message": message}, "request_id": request_id}


def shape_for(path: str) -> type[ErrorShape]:
    return MessagesErrors if path == MESSAGES_PATH or path.startswith(MESSAGES_PATH + "/") else OpenAIErrors


async def on_http_exception(request: Request, exc: Exception) -> Response:
    """Starlette's own 404 and 405."""
    assert isinstance(exc, HTTPException)
    path = request.url.path
    error: KvasirError
    if exc.status_code == 405:
        error = MethodError(f"{request.method} is not allowed on {path}.")
    elif exc.status_code == 404:
        error = NotFoundError(f"there is no {path} here; /openapi.json lists the routes.")
    else:
        error = UserError(str(exc.detail))
    response = shape_for(path).response(error, _request_id(request))
    response.status_code = exc.status_code
    for name, value in (exc.headers or {}).items():
        response.headers[name] = value
    return response


async def on_unexpected(request: Request, exc: Exception) -> Response:
    log_unexpected(exc, _request_id(request))
    return shape_for(request.url.path).response(exc, _request_id(request))


def _request_id(request: Request) -> str:
    return request.scope.get("kvasir.request_id", "?")
