"""Errors as OpenAI clients read them: `{"error": {message, type, param, code}}` and the right status."""

from typing import Any

import msgspec
from starlette.responses import Response

from kvasir.errors import (
    CapacityError,
    EngineRestartingError,
    KvasirError,
    NotFoundError,
    PromptTooLongError,
    QueueFullError,
    RequestFailedError,
    UnauthorizedError,
    UserError,
)
from kvasir.logger import get_logger

logger = get_logger(__name__)


class ClientGone(Exception):
    """The client hung up: there is nobody to answer."""


class BodyTooLargeError(UserError):
    status = 413


class BodyTimeoutError(UserError):
    status = 408


class MethodError(UserError):
    status = 405


class ForbiddenError(UserError):
    """The key is known and does not open this."""

    status = 403
    kind = "permission_error"


class RateLimitError(CapacityError):
    """The key has used up its rate."""

    status = 429
    kind = "rate_limit_error"


class QuotaError(CapacityError):
    """The key has used up its day or month."""

    status = 429
    kind = "insufficient_quota"


class DrainingError(CapacityError):
    """The server has been asked to stop."""

    kind = "server_draining"


_CODES: tuple[tuple[type[KvasirError], str], ...] = (
    (PromptTooLongError, "context_length_exceeded"),
    (UnauthorizedError, "invalid_api_key"),
    (QueueFullError, "rate_limit_exceeded"),
    (RateLimitError, "rate_limit_exceeded"),
    (QuotaError, "insufficient_quota"),
    (ForbiddenError, "insufficient_scope"),
)
_INTERNAL = "the server failed on this request; its log has the details."


def error_body(error: BaseException) -> dict[str, Any]:
    """The one place where an error becomes text for a client; unexpected ones do not show their insides."""
    if not isinstance(error, KvasirError):
        return {"error": {"message": _INTERNAL, "type": "internal_error", "param": None, "code": None}}
    code = next((code for cls, code in _CODES if isinstance(error, cls)), None)
    if isinstance(error, NotFoundError) and error.param == "model":
        code = "model_not_found"
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": code}}


def error_status(error: BaseException) -> int:
    return error.status if isinstance(error, KvasirError) else 500


def error_response(error: BaseException, body: dict[str, Any] | None = None) -> Response:
    """`body` stands in for OpenAI's where another shape is wanted; status and headers are the same for all."""
    headers = {}
    if isinstance(error, CapacityError | EngineRestartingError):
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    if isinstance(error, RequestFailedError):
        headers["x-should-retry"] = "false"  # OpenAI's clients would else send it again, twice
    if isinstance(error, UnauthorizedError):
        headers["www-authenticate"] = "Bearer"
    content = msgspec.json.encode(body or error_body(error))
    return Response(content, error_status(error), headers=headers, media_type="application/json")


def log_unexpected(error: BaseException, request_id: str) -> None:
    if not isinstance(error, KvasirError):
        logger.error("request %s failed", request_id, exc_info=error)
