"""What the routes of lists have in common: numbers in the query, pages in the answer, errors as JSON."""

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from kvasir.entrypoints.http.errors import error_response, log_unexpected
from kvasir.errors import UserError

T = TypeVar("T")
P = ParamSpec("P")
Route = Callable[Concatenate[T, Request, P], Awaitable[Response]]


def guarded(route: Route[T, P]) -> Route[T, P]:
    """Turns what a route raises into an error answer."""

    @wraps(route)
    async def run(self: T, request: Request, *args: P.args, **kwargs: P.kwargs) -> Response:
        try:
            return await route(self, request, *args, **kwargs)
        except Exception as e:
            log_unexpected(e, request.scope["kvasir.request_id"])
            return error_response(e)

    return run


def number(request: Request, name: str, default: int, high: int) -> int:
    """Raises UserError unless the query's value is a whole number from 1 to `high`."""
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= high:
        raise UserError(f"{name} must be a whole number between 1 and {high}, got {text!r:.40}.", param=name)
    return int(text)


def page(rows: Sequence[Any], has_more: bool) -> dict[str, Any]:
    """OpenAI's list; rows have an `id`."""
    return {
        "object": "list",
        "data": rows,
        "first_id": rows[0].id if rows else None,
        "last_id": rows[-1].id if rows else None,
        "has_more": has_more,
    }
