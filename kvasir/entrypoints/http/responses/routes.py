"""What happens to stored responses over HTTP: look, list the input, cancel, delete."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from kvasir.entrypoints.http.errors import ClientGone, error_response, log_unexpected
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.reply import Reply
from kvasir.entrypoints.http.responses.store import Record, ResponseStore
from kvasir.entrypoints.http.routes import json_response
from kvasir.errors import KvasirError, UserError

MAX_PAGE = 100


class RetrieveRoute:
    """GET one: as JSON, or with `stream=true` the events of a background response, from `starting_after` on."""

    def __init__(self, store: ResponseStore, inflight: Inflight, headers_wait_s: float):
        self._store = store
        self._inflight = inflight
        self._headers_wait_s = headers_wait_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        reply = Reply(scope, send, self._headers_wait_s)
        try:
            record = self._store.get(request.path_params["response_id"])
            if request.query_params.get("stream", "").lower() in ("true", "1"):
                after = _number(request, "starting_after", -1, low=-1)
                if record.log is None:
                    raise UserError("only responses made with background=true can be streamed again.", param="stream")
                await self._inflight.run(receive, reply.stream(record.log.reader(after)))
            else:
                await reply.json(record.body)
        except ClientGone:
            return
        except Exception as e:
            log_unexpected(e, scope["kvasir.request_id"])
            if reply.started:
                await reply.finish_with(b"")
            else:
                await error_response(e)(scope, receive, send)


class StoredRoutes:
    """The other routes of a stored response."""

    def __init__(self, store: ResponseStore):
        self._store = store

    async def cancel(self, request: Request) -> Response:
        try:
            record = self._record(request)
            if record.log is None:
                raise UserError("only responses made with background=true can be cancelled.", param="response_id")
            record.cancel()
            return Response(record.body, media_type="application/json")
        except KvasirError as e:
            return error_response(e)

    async def delete(self, request: Request) -> Response:
        try:
            record = self._record(request)
            record.cancel()
            self._store.remove(record.response_id)
        except KvasirError as e:
            return error_response(e)
        return json_response({"id": record.response_id, "object": "response", "deleted": True})

    async def input_items(self, request: Request) -> Response:
        """Newest first unless `order=asc`; `after` is the id of the last item of the page before."""
        try:
            items = _with_ids(self._record(request))
            if request.query_params.get("order", "desc") == "desc":
                items.reverse()
            limit = _number(request, "limit", 20, low=1, high=MAX_PAGE)
            after = request.query_params.get("after")
            start = next((i + 1 for i, item in enumerate(items) if item["id"] == after), 0)
            page = items[start : start + limit]
        except KvasirError as e:
            return error_response(e)
        return json_response(
            {
                "object": "list",
                "data": page,
                "first_id": page[0]["id"] if page else None,
                "last_id": page[-1]["id"] if page else None,
                "has_more": start + limit < len(items),
            }
        )

    def _record(self, request: Request) -> Record:
        return self._store.get(request.path_params["response_id"])


def _with_ids(record: Record) -> list[dict[str, Any]]:
    stem = record.response_id.removeprefix("resp_")
    return [{"type": "message", "id": f"in_{stem}{i:04x}", **item} for i, item in enumerate(record.input_items)]


def _number(request: Request, name: str, default: int, low: int, high: int = 2**31) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    try:
        value = int(text)
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise UserError(f"{name} must be a whole number between {low} and {high}, got {text!r:.40}.", param=name)
    return value
