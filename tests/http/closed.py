"""What a stranger finds at a server that has keys: routes that are closed, and sockets that listen."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

import httpx

from kvasir.entrypoints.http.guard.middleware import OPEN_PATHS

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH")
NO_ROUTES = ("/nothing/here", "//health", "/health/", "/v1/../health/x", "/web/../admin/usage", "/Health")


def assert_closed(
    client: httpx.Client, url: str, paths: Iterable[str], headers: Iterable[dict[str, str]] = ({},)
) -> int:
    """Every path by every method answers 401 but those that are open to all; how many were asked.

    Args:
        paths: as routes have them; what is in braces is made up.
        headers: of a stranger, who may guess.
    """
    asked = 0
    for path in {re.sub(r"\{.*?\}", "x", path) for path in paths} | set(NO_ROUTES):
        for method in METHODS:
            for given in headers:
                status = client.request(method, url + path, headers=given).status_code
                wanted = (200, 404, 405) if path in OPEN_PATHS else (401,)
                assert status in wanted, (method, path, given, status)
                asked += 1
    return asked


def family(pid: int) -> list[int]:
    """The process and its children."""
    children = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            children.append(int(path.parent.name))
    return [pid, *children]


def listening_sockets(pid: int) -> list[tuple[int, str, int]]:
    """Process, protocol and port of each socket of the server's processes that takes what anybody sends."""
    open_to_all = {}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if table.startswith("udp") or parts[3] == "0A":
                open_to_all[parts[9]] = (table, int(parts[1].rpartition(":")[2], 16))
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        parts = line.split()
        if int(parts[3], 16) & (1 << 16):  # it listens
            open_to_all[parts[6]] = ("unix", 0)
    found = []
    for process_id in family(pid):
        for fd in Path(f"/proc/{process_id}/fd").iterdir():
            try:
                inode = re.fullmatch(r"socket:\[(\d+)\]", os.readlink(fd))
            except OSError:
                continue
            if inode and inode[1] in open_to_all:
                found.append((process_id, *open_to_all[inode[1]]))
    return found
