"""The routes of batches: create, look, list, cancel."""

import asyncio
import time
import uuid
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from kvasir.entrypoints.batch.urls import URLS, url_error
from kvasir.entrypoints.http.batches.queries import guarded, number, page
from kvasir.entrypoints.http.batches.schema import Batch, BatchRequest, StoredBatch, window_seconds
from kvasir.entrypoints.http.batches.store import Store, new_file_id
from kvasir.entrypoints.http.guard.caller import current_caller
from kvasir.entrypoints.http.routes import json_response
from kvasir.errors import UserError

MAX_PAGE = 100


class BatchRoutes:
    """Args: `wake` tells the worker that there is something to do."""

    def __init__(self, store: Store, wake: Callable[[], None]):
        self._store = store
        self._wake = wake

    async def create(self, request: BatchRequest) -> Batch:
        if request.endpoint not in URLS:
            error = url_error(request.endpoint, None)
            raise type(error)(error.message, param="endpoint")
        now = int(time.time())
        expires = request.output_expires_after
        stored = StoredBatch(
            owner=current_caller().account.key.name,
            batch=Batch(
                id=f"batch_{uuid.uuid4().hex}",
                endpoint=request.endpoint,
                input_file_id=request.input_file_id,
                completion_window=request.completion_window,
                created_at=now,
                expires_at=now + window_seconds(request.completion_window),
                metadata=request.metadata,
            ),
            output_id=new_file_id(),
            error_id=new_file_id(),
            output_ttl_s=expires.seconds if expires is not None else None,
        )
        await asyncio.to_thread(self._store.add_batch, stored)
        self._wake()
        return stored.batch

    @guarded
    async def show(self, request: Request) -> Response:
        batch_id, owner = request.path_params["batch_id"], current_caller().sees_only
        stored = await asyncio.to_thread(self._store.batch, batch_id, owner)
        return json_response(stored.batch)

    @guarded
    async def list(self, request: Request) -> Response:
        limit, after = number(request, "limit", 20, MAX_PAGE), request.query_params.get("after")
        rows, has_more = await asyncio.to_thread(self._store.batches, limit, after, current_caller().sees_only)
        return json_response(page([stored.batch for stored in rows], has_more))

    @guarded
    async def cancel(self, request: Request) -> Response:
        """A batch that is over stays what it is, and says so; cancelling twice is no error."""

        def cancel(stored: StoredBatch) -> None:
            batch = stored.batch
            if batch.status in ("validating", "in_progress"):
                batch.enter("cancelling", time.time())
            elif batch.status not in ("cancelling", "cancelled"):
                raise UserError(f"the batch is {batch.status} and cannot be cancelled.", param="batch_id")

        batch_id, owner = request.path_params["batch_id"], current_caller().sees_only
        stored = await asyncio.to_thread(self._store.change, batch_id, cancel, owner=owner)
        self._wake()
        return json_response(stored.batch)
