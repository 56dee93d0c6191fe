"""Taking an address and letting go of it. Imports nothing heavy: a taken port is found before anything is loaded."""

import contextlib
import ipaddress
import os
import socket
import stat

from kvasir.errors import ConfigError

BACKLOG = 2048


def bind(host: str, port: int, uds: str | None) -> socket.socket:
    """Takes the address; connections are refused until the server listens, which is what probes expect.

    Raises:
        ConfigError: it is taken or not ours.
    """
    try:
        if uds:
            return _bind_unix(uds)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        # With its protocol named, event loops turn Nagle's algorithm off: small chunks must not wait for an ACK.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            sock.close()
            raise
        return sock
    except OSError as e:
        place = uds or f"{host}:{port}"
        raise ConfigError(f"cannot listen on {place}: {e.strerror}. Choose another --port, --host or --uds.") from None


def bind_many(host: str, port: int, uds: str | None, count: int) -> list[socket.socket]:
    """One listening place for each of `count` processes, at one address; the kernel shares connections out evenly.

    They stay open here, so that what waits in the place of a process that died is there for the one after it. A Unix
    socket cannot be divided: all processes listen on the same one.

    Raises:
        ConfigError: the address is taken or not ours.
    """
    first = bind(host, port, uds)
    if uds or count == 1:
        return [first] * count
    # Bound once in the ordinary way: with the option set on both sides, a second server would share our port unseen.
    host, port = first.getsockname()[:2]
    first.close()
    places: list[socket.socket] = []
    try:
        for _ in range(count):
            place = socket.socket(first.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            places.append(place)
            place.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            place.bind((host, port))
    except OSError as e:
        for place in places:
            place.close()
        raise ConfigError(f"cannot listen on {host}:{port} {count} times: {e.strerror}.") from None
    return places


def _bind_unix(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(path).st_mode) and not _somebody_listens(path):
            os.unlink(path)  # left over from a run that was killed
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    return sock


def _somebody_listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


def listen(sock: socket.socket) -> None:
    """Another server may have bound the same address while both loaded; the second to listen learns of it here.

    The event loop would start listening as well, but uvloop does not report a failure.
    """
    try:
        sock.listen(BACKLOG)
    except OSError as e:
        raise ConfigError(f"cannot listen on {address(sock)}: {e.strerror}. Choose another --port.") from None


def close(sock: socket.socket) -> None:
    path = sock.getsockname() if sock.family == socket.AF_UNIX else None
    sock.close()
    if path:
        with contextlib.suppress(OSError):
            os.unlink(path)


def address(sock: socket.socket, tls: bool = False) -> str:
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return f"unix:{name}"
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{'https' if tls else 'http'}://{host}:{name[1]}"


def is_public(sock: socket.socket) -> bool:
    """Whether other machines may reach it."""
    if sock.family == socket.AF_UNIX:
        return False
    return not ipaddress.ip_address(sock.getsockname()[0].split("%")[0]).is_loopback
