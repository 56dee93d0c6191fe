"""One-line logging: `HH:MM:SS LEVEL module message`, to stderr, plus once-only messages."""

import logging
import sys
from functools import lru_cache

from kvasir import envs

_FORMAT = "%(asctime)s %(levelname).1s %(shortname)s: %(message)s"


class _Short(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.shortname = record.name.removeprefix("kvasir.")
        return True


@lru_cache(maxsize=1)
def _configure() -> None:
    root = logging.getLogger("kvasir")
    if root.handlers:  # the application that imports us has its own taste
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT, "%H:%M:%S"))
    handler.addFilter(_Short())
    root.addHandler(handler)
    root.setLevel(envs.LOG_LEVEL.value.upper())
    root.propagate = False


def get_logger(name: str) -> logging.Logger:
    _configure()
    return logging.getLogger(name)


@lru_cache(maxsize=1024)
def log_once(name: str, level: int, message: str) -> None:
    """Logs `message` the first time only; bounded, so that it can be called with any text."""
    get_logger(name).log(level, message)
