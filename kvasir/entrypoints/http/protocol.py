"""uvicorn's HTTP protocol with a bound on the request line and the headers; it has none of its own."""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
MAX_HEADERS = 128


class BoundedHttpProtocol(HttpToolsProtocol):
    """Raising inside a parser callback makes uvicorn answer 400 and close the connection."""

    _head_bytes = 0

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        if len(self.headers) >= MAX_HEADERS:
            raise ValueError(f"a request may have {MAX_HEADERS} headers")
        super().on_header(name, value)

    def _count(self, num_bytes: int) -> None:
        self._head_bytes += num_bytes
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError(f"the head of a request may have {MAX_HEAD_BYTES} bytes")
