"""The web page at `/`: files of the package, read when somebody opens the page and not before."""

import hashlib
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from kvasir.entrypoints.http.middleware import header, route

FOLDER = Path(__file__).parents[2] / "assets" / "web"

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_NAME = re.compile(rf"[a-z][a-z0-9_-]*\.({'|'.join(_TYPES)})")

# The page loads nothing from elsewhere, talks to nobody else, is framed by nobody, and cannot turn text into markup:
# with Trusted Types and no policy, an assignment to innerHTML throws.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # kept, but asked for again: one 304 a file, and an upgrade is seen at once
}


class _Asset(NamedTuple):
    body: bytes
    media_type: str
    etag: str


class WebPageMiddleware:
    """Answers GET and HEAD of `/` and `/web/NAME`, in front of the key check.

    A browser that opens a page has no key to send, and there is nothing secret in the files: the page asks for the
    key itself and sends it with every call.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asset = _asset_of(scope) if scope["type"] == "http" else None
        if asset is None:
            await self._app(scope, receive, send)
            return
        headers = {**_HEADERS, "etag": asset.etag}
        if asset.etag.encode() in (header(scope, b"if-none-match") or b""):
            await Response(status_code=304, headers=headers)(scope, receive, send)
            return
        await Response(asset.body, headers=headers, media_type=asset.media_type)(scope, receive, send)


def _asset_of(scope: Scope) -> _Asset | None:
    path = route(scope)
    if scope["method"] not in ("GET", "HEAD"):
        return None
    if path == "/":
        return _read("index.html")
    return _read(path.removeprefix("/web/")) if path.startswith("/web/") else None


@cache
def _known() -> frozenset[str]:
    return frozenset(entry.name for entry in FOLDER.iterdir() if _NAME.fullmatch(entry.name))


def _read(name: str) -> _Asset | None:
    """None when there is no such file; names come from the folder's listing, so no path leads out of it."""
    return _load(name) if name in _known() else None


@cache
def _load(name: str) -> _Asset:
    body = (FOLDER / name).read_bytes()
    return _Asset(body, _TYPES[name.rpartition(".")[2]], f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"')
