"""SEAM: body pieces straight to the connection, past the ASGI `send` of every layer.

`send` is a chain of coroutines, and one that is called for each token of each stream was half of what the server
did. A protocol that can do better puts a `DirectWriter` into the scope's extensions, under `EXTENSION`. An
application may use it between its `http.response.start`, which must name no length, and its last
`http.response.body`, and must await each `send` before it writes. Layers in between see the start and the end of
such a body, not its pieces. Without the extension everything works, through `send`.
"""

from typing import Any, Protocol

from starlette.types import Scope

EXTENSION = "kvasir.direct"


class DirectWriter(Protocol):
    def is_ready(self) -> bool:
        """Whether the connection takes a piece now. If not, `send` one: that waits until the client has read."""

    def write(self, piece: bytes) -> None:
        """Sends a piece that is not empty."""


def direct_writer(scope: Scope) -> DirectWriter | None:
    extensions: dict[str, Any] = scope.get("extensions") or {}
    return extensions.get(EXTENSION)
