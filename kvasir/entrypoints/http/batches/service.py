"""Composition of the Files and Batches API where it is on: routes over a store, and the worker behind them."""

from starlette.routing import Route

from kvasir.entrypoints.batch.answerer import LineAnswerer, ServedModels
from kvasir.entrypoints.http.batches.app import Accounts
from kvasir.entrypoints.http.batches.files import FileRoutes, UploadRoute
from kvasir.entrypoints.http.batches.gate import Gate
from kvasir.entrypoints.http.batches.job import BatchJob
from kvasir.entrypoints.http.batches.routes import BatchRoutes
from kvasir.entrypoints.http.batches.schema import BatchRequest, StoredBatch
from kvasir.entrypoints.http.batches.store import Store
from kvasir.entrypoints.http.batches.worker import BatchWorker
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.routes import JsonRoute
from kvasir.entrypoints.http.settings import ServerSettings

PRIORITY = 1000
"""Of every line, under --scheduling-policy priority: behind whatever comes within the next hours."""


def make_batches(
    folder: str, models: ServedModels, settings: ServerSettings, inflight: Inflight, capacity: int, accounts: Accounts
) -> tuple[list[Route], BatchWorker]:
    """The routes, and the worker to start and stop with the server.

    Args:
        capacity: requests that run in the engine at the same time.
        accounts: of keys by their names.

    Raises:
        ConfigError: the folder cannot be used.
    """
    config = settings.batches
    store = Store(folder)
    gate = Gate(capacity, config.batch_concurrency, lambda: len(inflight))
    answerer = LineAnswerer(models, PRIORITY)

    def make_job(stored: StoredBatch) -> BatchJob:
        return BatchJob(
            stored,
            store,
            answerer,
            gate,
            accounts,
            max_line_bytes=settings.max_body_bytes,
            file_ttl_s=config.batch_file_ttl,
        )

    worker = BatchWorker(store, gate, make_job)
    files, batches = FileRoutes(store), BatchRoutes(store, worker.wake)
    routes = [
        Route("/v1/files", UploadRoute(store, config, settings.body_timeout_s), methods=["POST"]),
        Route("/v1/files", files.list, methods=["GET"]),
        Route("/v1/files/{file_id}", files.show, methods=["GET"]),
        Route("/v1/files/{file_id}", files.delete, methods=["DELETE"]),
        Route("/v1/files/{file_id}/content", files.content, methods=["GET"]),
        Route("/v1/batches", JsonRoute(BatchRequest, batches.create, settings), methods=["POST"]),
        Route("/v1/batches", batches.list, methods=["GET"]),
        Route("/v1/batches/{batch_id}", batches.show, methods=["GET"]),
        Route("/v1/batches/{batch_id}/cancel", batches.cancel, methods=["POST"]),
    ]
    return routes, worker
