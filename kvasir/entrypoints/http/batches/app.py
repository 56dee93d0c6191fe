"""The Files and Batches API: on with a folder, and without one a sentence that says how to turn it on."""

from collections.abc import Callable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kvasir.entrypoints.batch.answerer import ServedModels
from kvasir.entrypoints.http.errors import error_response
from kvasir.entrypoints.http.guard.account import Account
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import UserError

_PATHS = ("/v1/files", "/v1/files/{rest:path}", "/v1/batches", "/v1/batches/{rest:path}")


Accounts = Callable[[str], Account | None]


class BatchesOffError(UserError):
    kind = "not_supported_error"


class Worker(Protocol):
    """Something that runs beside the routes."""

    def start(self) -> None:
        """On the server's event loop."""

    async def stop(self) -> None:
        """Before the engine goes."""


def batch_routes(
    models: ServedModels, settings: ServerSettings, inflight: Inflight, capacity: int, accounts: Accounts
) -> tuple[list[Route], list[Worker]]:
    """The routes, and what is to be started and stopped with the server.

    Args:
        capacity: requests that run in the engine at the same time.
        accounts: of keys by their names.

    Raises:
        ConfigError: the folder cannot be used.
    """
    folder = settings.batches.batch_dir
    if folder is None:
        return [Route(path, _off, methods=["GET", "POST", "DELETE"]) for path in _PATHS], []
    from kvasir.entrypoints.http.batches.service import make_batches  # a server without batches need not import it

    routes, worker = make_batches(folder, models, settings, inflight, capacity, accounts)
    return routes, [worker]


async def _off(request: Request) -> Response:
    return error_response(
        BatchesOffError(
            "files and batches are off on this server: start it with --batch-dir FOLDER to keep them there."
        )
    )
