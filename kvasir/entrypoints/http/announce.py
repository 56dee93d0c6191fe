"""What a server that has started says of itself in the log, whether it is one process or several."""

import socket
from collections.abc import Sequence

from kvasir.entrypoints.http.listener import address, is_public
from kvasir.logger import get_logger

logger = get_logger(__name__)


def announce(
    names: Sequence[str], sock: socket.socket, *, has_tls: bool, has_page: bool, has_keys: bool, num_processes: int = 1
) -> None:
    """`names`: of the models; `sock`: where the server listens."""
    where = address(sock, has_tls)
    offers = "a page at /, OpenAI API under /v1" if has_page else "OpenAI API under /v1"
    processes = "" if num_processes == 1 else f", {num_processes} processes"
    logger.info("serving %s on %s (%s%s)", ", ".join(names), where, offers, processes)
    if not has_keys and is_public(sock):
        logger.warning("no API key is set and others can reach %s: anybody may use the model", where)
