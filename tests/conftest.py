"""Set before anything imports torch or kvasir: one thread each, no network, every audit on."""

import logging
import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("KVASIR_CHECK_MESSAGES", "1")
os.environ.setdefault("KVASIR_CHECK_INTEGRITY", "1")


@pytest.fixture
def kvasir_log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """`caplog` that hears Kvasir's log, which is not passed on to the root logger."""
    log = logging.getLogger("kvasir")
    log.addHandler(caplog.handler)
    yield caplog
    log.removeHandler(caplog.handler)
