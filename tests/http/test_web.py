"""The web page's files and the state behind its live view, without a browser."""

import asyncio
import re
import time
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from kvasir.config import ObservabilityConfig, ServerArgs
from kvasir.entrypoints.http import web
from kvasir.entrypoints.http.app import build_app
from kvasir.entrypoints.http.engine_state import NoPollingInAccessLog
from kvasir.entrypoints.http.server import settings_of
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import EngineDeadError
from kvasir.observability import Metrics
from kvasir.observability.recent import MAX_RECENT
from tests.http.fake_engine import FakeEngine, Script

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
FILES = sorted(web.FOLDER.iterdir())
ASK = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}


class WatchedEngine(FakeEngine):
    """A FakeEngine whose core answers when it is asked how it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.calls: list[str] = []
        self.delay_s = 0.0

    async def call(self, name: str, **args: Any) -> Any:
        self.calls.append(name)
        await asyncio.sleep(self.delay_s)
        await self.check_health()
        return {"num_running": 3}


def client(engine: FakeEngine | None = None, **settings: Any) -> TestClient:
    engine = engine or WatchedEngine()
    return TestClient(build_app(engine, ServerSettings(**settings), Metrics("fake")))  # type: ignore[arg-type]


# ---- files


def test_the_page_and_all_its_files_are_served() -> None:
    with client() as http:
        page = http.get("/")
        assert page.status_code == 200 and page.headers["content-type"] == TYPES[".html"]
        assert "<title>Kvasir</title>" in page.text
        for file in FILES:
            response = http.get(f"/web/{file.name}")
            assert response.content == file.read_bytes(), file.name
            assert response.headers["content-type"] == TYPES[file.suffix]
            assert response.headers["x-content-type-options"] == "nosniff"


def test_what_the_page_names_is_there_and_nothing_is_left_over() -> None:
    html = (web.FOLDER / "index.html").read_text()
    named = set(re.findall(r'(?:href|src)="web/([^"]+)"', html))
    imported = {
        name for file in FILES if file.suffix == ".js" for name in re.findall(r'from "\./([^"]+)"', file.read_text())
    }
    assert named == {file.name for file in FILES} - {"index.html"}
    assert imported <= named, "each module is preloaded, so that they come in one round trip"


def test_the_policy_is_strict() -> None:
    with client() as http:
        headers = http.get("/").headers
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["connect-src"] == "'self'" and policy["frame-ancestors"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'" and policy["trusted-types"] == "'none'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["referrer-policy"] == "no-referrer"


def test_nothing_comes_from_elsewhere_and_text_never_becomes_markup() -> None:
    for file in FILES:
        text = file.read_text()
        urls = set(re.findall(r"https?://[a-z0-9.-]+", text)) - {"http://www.w3.org"}  # the name of SVG
        assert not urls, f"{file.name} names {urls}"
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert not re.search(r'\sstyle="|\son[a-z]+="', text) or file.suffix != ".html", "the policy forbids it"


def test_etags() -> None:
    with client() as http:
        first = http.get("/web/app.js")
        again = http.get("/web/app.js", headers={"if-none-match": first.headers["etag"]})
        assert again.status_code == 304 and not again.content and again.headers["etag"] == first.headers["etag"]
        assert "content-security-policy" in http.get("/", headers={"if-none-match": '"other"'}).headers
        assert first.headers["cache-control"] == "no-cache"
        head = http.head("/web/app.js")
        assert head.status_code == 200 and not head.content
        assert head.headers["content-length"] == str(len(first.content))


@pytest.mark.parametrize(
    "path",
    [
        "/web/",
        "/web/nothing.js",
        "/web/../__init__.py",
        "/web/../kvasir-demo/config.json",
        "/web//etc/passwd",
        "//app.js",
    ],
)
async def test_there_is_no_way_out_of_the_folder(path: str) -> None:
    """As ASGI, for clients take the dots out of a path before they send it."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "query_string": b"", "headers": []}
    await build_app(WatchedEngine(), ServerSettings(), Metrics("fake"))(scope, receive, send)  # type: ignore[arg-type]
    assert sent[0]["status"] == 404 and b"not_found_error" in sent[1]["body"]


def test_only_get_and_head() -> None:
    with client() as http:
        assert http.post("/").status_code in (404, 405)
        assert http.post("/web/app.js").status_code in (404, 405)


def test_it_can_be_turned_off() -> None:
    args = ServerArgs(disable_web=True)
    settings = settings_of(args, ObservabilityConfig())
    assert not settings.web_page and settings_of(ServerArgs(), ObservabilityConfig()).web_page
    with client(web_page=False) as http:
        assert http.get("/").status_code == http.get("/web/app.js").status_code == 404
        assert http.get("/v1/engine/state").status_code == 200
    with client(web_page=False, api_keys=("key",)) as http:
        assert http.get("/").status_code == 401


def test_the_page_opens_without_a_key_and_the_api_does_not() -> None:
    with client(api_keys=("key",)) as http:
        for path in ("/", "/web/app.js", "/web/base.css"):
            assert http.get(path).status_code == 200
        for path in ("/v1/engine/state", "/v1/models", "/web/nothing.js", "/web", "/webx/app.js"):
            assert http.get(path).status_code == 401, path
        assert http.get("/v1/engine/state", headers={"authorization": "Bearer key"}).status_code == 200


def test_behind_a_prefix() -> None:
    app = build_app(WatchedEngine(), ServerSettings(api_keys=("key",)), Metrics("fake"))  # type: ignore[arg-type]
    with TestClient(app, root_path="/kvasir") as http:
        assert http.get("/kvasir/").status_code == 200
        assert http.get("/kvasir/web/app.js").status_code == 200
        assert http.get("/kvasir/v1/models").status_code == 401


def test_nothing_is_read_before_somebody_opens_the_page() -> None:
    web._known.cache_clear()
    web._load.cache_clear()
    with client() as http:
        http.get("/v1/models")
        http.get("/health")
        assert web._known.cache_info().currsize == web._load.cache_info().currsize == 0
        http.get("/")
        assert web._load.cache_info().currsize == 1


# ---- state


def test_state() -> None:
    engine = WatchedEngine()
    with client(engine) as http:
        assert http.post("/v1/chat/completions", json=ASK).status_code == 200
        response = http.get("/v1/engine/state")
        state = response.json()
        assert response.headers["cache-control"] == "no-store"
        assert state["core"] == {"num_running": 3} and state["models"] == ["fake", "fake-alias"]
        assert state["totals"]["generation_tokens"] == 9 and state["totals"]["prompt_tokens"] > 0
        (answer,) = state["recent"]
        assert answer["finish_reason"] == "length" and answer["num_output_tokens"] == 9
        assert answer["arrival_time"] <= answer["first_token_time"] <= answer["finish_time"] <= state["time"]
        assert abs(state["time"] - time.time()) < 60
        assert "Hello" not in response.text and "Hi" not in response.text, "no text of anybody"


def test_all_who_ask_at_once_cost_the_core_one_call() -> None:
    engine = WatchedEngine()
    engine.delay_s = 0.05
    app = build_app(engine, ServerSettings(), Metrics("fake"))  # type: ignore[arg-type]

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://h") as http:
            return await asyncio.gather(*(http.get("/v1/engine/state") for _ in range(20)))

    assert all(r.json()["core"] for r in asyncio.run(ask()))
    assert engine.calls == ["state"]


def test_a_core_that_is_away_or_busy_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = WatchedEngine()
    with client(engine) as http:
        engine.is_alive, engine.dead_error = False, "it is being started again"
        state = http.get("/v1/engine/state").json()
        assert state["core"] is None and state["core_error"] == "it is being started again"
    monkeypatch.setattr("kvasir.entrypoints.http.engine_state._CORE_WAIT_S", 0.05)
    engine = WatchedEngine()
    engine.delay_s = 5.0
    with client(engine) as http:
        state = http.get("/v1/engine/state").json()
        assert state["core"] is None and "busy" in state["core_error"]


def test_recent_answers_are_bounded_and_those_cut_off_are_said_to_be() -> None:
    engine = WatchedEngine()
    with client(engine) as http:
        for _ in range(3):
            http.post("/v1/completions", json={"prompt": ["a"] * 30, "n": 2, "max_tokens": 1})
        recent = http.get("/v1/engine/state").json()["recent"]
        assert len(recent) == MAX_RECENT
        assert {a["index"] for a in recent} == {0, 1}
        engine.script = Script(fail_after=3, fail_with=EngineDeadError("gone"))
        assert http.post("/v1/chat/completions", json=ASK).status_code == 503
        last = http.get("/v1/engine/state").json()["recent"][-1]
        assert last["finish_reason"] == "error" and last["num_output_tokens"] == 3 and last["finish_time"] > 0


def test_polling_stays_out_of_the_access_log() -> None:
    import logging

    def record(path: str) -> logging.LogRecord:
        args = ("127.0.0.1:1", "GET", path, "1.1", 200)
        return logging.LogRecord("uvicorn.access", logging.INFO, "", 0, '%s - "%s %s HTTP/%s" %d', args, None)

    assert not NoPollingInAccessLog().filter(record("/v1/engine/state"))
    assert NoPollingInAccessLog().filter(record("/v1/models"))
