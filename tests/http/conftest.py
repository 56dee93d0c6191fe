from collections.abc import Iterator

import pytest

from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import LiveServer, serving


@pytest.fixture(scope="session")
def shared_server() -> Iterator[LiveServer]:
    with serving(FakeEngine()) as live:
        yield live


@pytest.fixture
def server(shared_server: LiveServer) -> LiveServer:
    """The shared server with a fresh script."""
    engine = shared_server.engine
    engine.script = Script()
    engine.seen.clear()
    engine.default_sampling_params = {}
    engine.is_alive, engine.dead_error = True, None
    return shared_server
