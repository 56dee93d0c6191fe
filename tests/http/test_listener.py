"""Taking an address, and letting go of it."""

import socket
from pathlib import Path

import pytest

from kvasir.entrypoints.http.listener import address, bind, close, listen
from kvasir.errors import ConfigError


def test_a_taken_port_is_refused() -> None:
    first = bind("127.0.0.1", 0, None)
    port = first.getsockname()[1]
    assert address(first) == f"http://127.0.0.1:{port}"
    second = bind("127.0.0.1", port, None)  # nobody listens yet: the system allows it
    listen(first)
    with pytest.raises(ConfigError, match=str(port)):
        listen(second)
    with pytest.raises(ConfigError, match=str(port)):
        bind("127.0.0.1", port, None)
    close(first)
    close(second)


def test_small_chunks_do_not_wait() -> None:
    """What is accepted has Nagle's algorithm off; with it, each token can wait 40 ms for an ACK."""
    sock = bind("127.0.0.1", 0, None)
    listen(sock)
    with socket.create_connection(sock.getsockname()), sock.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    close(sock)


def test_unix_sockets(tmp_path: Path) -> None:
    path = str(tmp_path / "k.sock")
    sock = bind("", 0, path)
    listen(sock)
    with pytest.raises(ConfigError, match="cannot listen"):
        bind("", 0, path)
    sock.close()  # as after a kill: the file stays
    again = bind("", 0, path)
    assert address(again) == f"unix:{path}"
    close(again)
    assert not Path(path).exists()
