"""The routes of files: upload, list, look, read, delete."""

import asyncio

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from kvasir.config.batch import BatchConfig
from kvasir.entrypoints.http.batches.queries import guarded, number, page
from kvasir.entrypoints.http.batches.schema import BATCH_PURPOSE, MAX_WINDOW_S, StoredFile
from kvasir.entrypoints.http.batches.store import Store
from kvasir.entrypoints.http.batches.upload import Form, read_form
from kvasir.entrypoints.http.errors import BodyTooLargeError, ClientGone, error_response, log_unexpected
from kvasir.entrypoints.http.guard.caller import current_caller
from kvasir.entrypoints.http.routes import json_response
from kvasir.errors import QueueFullError, UserError

MAX_UPLOADS = 8
MAX_PAGE = 10_000
_MIN_TTL_S = 3600


class UploadRoute:
    """POST /v1/files, as an ASGI app: the body is read as it comes."""

    def __init__(self, store: Store, config: BatchConfig, idle_s: float):
        self._store = store
        self._config = config
        self._idle_s = idle_s
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response
        try:
            if self._running >= MAX_UPLOADS:
                raise QueueFullError(f"{MAX_UPLOADS} uploads are running, which is the bound; try again shortly.")
            self._running += 1
            try:
                response = json_response(await self._receive(scope, receive))
            finally:
                self._running -= 1
        except ClientGone:
            return
        except Exception as e:
            log_unexpected(e, scope["kvasir.request_id"])
            response = error_response(e)
        await response(scope, receive, send)

    async def _receive(self, scope: Scope, receive: Receive) -> StoredFile:
        bound = self._config.batch_max_storage
        stored = await asyncio.to_thread(self._store.num_bytes)
        if stored >= bound:
            raise BodyTooLargeError(
                f"the files here have {stored} bytes together, and the bound is {bound} (--batch-max-storage): delete "
                "some with DELETE /v1/files/ID.",
                param="file",
            )
        path = self._store.upload_path()
        try:
            form = await read_form(scope, receive, path, self._config.batch_max_file_size, self._idle_s)
            filename, purpose, ttl_s = self._checked(form)
            owner = current_caller().account.key.name
            return await asyncio.to_thread(self._store.add_file, path, filename, purpose, ttl_s, owner)
        finally:
            path.unlink(missing_ok=True)

    def _checked(self, form: Form) -> tuple[str, str, float]:
        if form.filename is None:
            raise UserError("file is required.", param="file")
        purpose = form.fields.get("purpose", "")
        if purpose != BATCH_PURPOSE:
            raise UserError(f"purpose must be {BATCH_PURPOSE!r}, got {purpose!r:.80}.", param="purpose")
        seconds = form.fields.get("expires_after[seconds]")
        if seconds is None:
            return form.filename, purpose, self._config.batch_file_ttl
        if not seconds.isdigit() or not _MIN_TTL_S <= int(seconds) <= MAX_WINDOW_S:
            raise UserError(
                f"expires_after[seconds] must be a whole number between {_MIN_TTL_S} and {MAX_WINDOW_S}, "
                f"got {seconds!r:.40}.",
                param="expires_after[seconds]",
            )
        return form.filename, purpose, float(seconds)


class FileRoutes:
    """The routes of a stored file."""

    def __init__(self, store: Store):
        self._store = store

    @guarded
    async def list(self, request: Request) -> Response:
        query = request.query_params
        newest_first, owner = query.get("order", "desc") == "desc", current_caller().sees_only
        limit = number(request, "limit", MAX_PAGE, MAX_PAGE)
        found = await asyncio.to_thread(
            self._store.files, query.get("purpose"), limit, query.get("after"), newest_first, owner
        )
        return json_response(page(*found))

    @guarded
    async def show(self, request: Request) -> Response:
        return json_response(await self._file(request))

    @guarded
    async def content(self, request: Request) -> Response:
        file = await self._file(request)
        return FileResponse(self._store.path(file.id), media_type="application/jsonl", filename=file.filename)

    @guarded
    async def delete(self, request: Request) -> Response:
        file_id = request.path_params["file_id"]
        await asyncio.to_thread(self._store.delete_file, file_id, current_caller().sees_only)
        return json_response({"id": file_id, "object": "file", "deleted": True})

    async def _file(self, request: Request) -> StoredFile:
        owner = current_caller().sees_only
        return await asyncio.to_thread(self._store.file, request.path_params["file_id"], owner)
