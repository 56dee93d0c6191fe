"""Several models behind one port, over scripted engines: loading, waiting, room, failures, every API."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI

from kvasir.config import EngineArgs
from kvasir.config.batch import BatchConfig
from kvasir.entrypoints.http.app import model_routes
from kvasir.entrypoints.http.inflight import Inflight
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.entrypoints.router import dispatch
from kvasir.entrypoints.router.app import MODEL_PATHS, build_router
from kvasir.entrypoints.router.catalog import Catalog
from kvasir.entrypoints.router.pool import Bounds, ModelPool
from tests.http.closed import assert_closed
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import LiveServer, running
from tests.router.starters import FakeStarter

ADMIN = "an-admin-key-for-tests"
HEADERS = {"authorization": f"Bearer {ADMIN}"}
HI: Any = [{"role": "user", "content": "Hi"}]
YAML = """
models:
  a: {aliases: [gpt-4o]}
  b: {}
  c: {}
  pinned: {pin: true}
"""


CLIENT = httpx.Client(verify=False, trust_env=False, headers=HEADERS)


class Bench:
    def __init__(self, live: LiveServer, pool: ModelPool, starter: FakeStarter):
        self.live, self.pool, self.starter = live, pool, starter
        self.url = live.url
        self.client = OpenAI(base_url=live.url + "/v1", api_key=ADMIN, max_retries=0)

    def ask(self, model: str | None, **more: Any) -> str:
        body = {"model": model, "messages": HI, **more}
        response = CLIENT.post(self.url + "/v1/chat/completions", json=body, timeout=30)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["message"]["content"]

    def states(self) -> dict[str, str]:
        data = CLIENT.get(self.url + "/v1/models").json()["data"]
        return {model["id"]: model["status"]["value"] for model in data}

    def loaded(self) -> set[str]:
        return {name for name, state in self.states().items() if state == "loaded"}

    def admin(self, what: str, model: str, wait: bool = True) -> httpx.Response:
        return CLIENT.post(f"{self.url}/admin/models/{what}", json={"model": model, "wait": wait}, timeout=30)

    def until(self, done: Callable[[], bool], timeout_s: float = 10) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            assert time.monotonic() < deadline, self.states()
            time.sleep(0.01)

    def open_late(self, model: str, after_s: float = 0.5) -> None:
        """The model's load takes so long, from when it begins."""
        gate = self.starter.gates[model] = threading.Event()

        def run() -> None:
            self.until(lambda: self.pool.find(model).state == "loading")
            time.sleep(after_s)
            gate.set()

        threading.Thread(target=run).start()

    def in_thread(self, *args: Any, **more: Any) -> "Asked":
        return Asked(lambda: self.ask(*args, **more))


class Asked:
    """A request under way."""

    def __init__(self, call: Callable[[], Any]):
        self.answer: Any = None

        def run() -> None:
            try:
                self.answer = call()
            except Exception as e:
                self.answer = e

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def join(self) -> Any:
        self._thread.join(30)
        assert not self._thread.is_alive()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    from contextlib import ExitStack

    with ExitStack() as stack:

        def make(text: str = YAML, settings: ServerSettings | None = None, **bounds: Any) -> Bench:
            path = tmp_path / "models.yaml"
            path.write_text(text)
            starter = FakeStarter()
            bounds = {"max_loaded": 2, **bounds}
            settings = replace(settings or ServerSettings(headers_wait_s=0.1), admin_keys=(ADMIN,))
            pool, app = build_router(Catalog(EngineArgs(), None, str(path)), starter, Bounds(**bounds), settings, 16)  # type: ignore[arg-type]
            return Bench(stack.enter_context(running(app, FakeEngine())), pool, starter)

        yield make


def test_loaded_when_asked_for_and_the_least_recently_used_goes(make: Callable[..., Bench]) -> None:
    bench = make()
    assert bench.states() == dict.fromkeys(("a", "b", "c", "pinned"), "unloaded")
    assert bench.ask("a") == "I am a." and bench.ask("b") == "I am b." and bench.ask("gpt-4o") == "I am a."
    assert bench.loaded() == {"a", "b"}
    assert bench.ask("c") == "I am c."
    assert bench.loaded() == {"a", "c"}, "b was used longest ago"
    assert not bench.starter.engine("b").is_alive and len(bench.starter.started["a"]) == 1
    assert bench.ask("b") == "I am b." and len(bench.starter.started["b"]) == 2
    status = CLIENT.get(bench.url + "/v1/models/gpt-4o").json()
    assert status["id"] == "a" and status["aliases"] == ["gpt-4o"] and status["status"]["value"] == "unloaded"
    with pytest.raises(openai.NotFoundError, match="a, b, c, pinned"):
        bench.client.chat.completions.create(model="nothing", messages=HI)
    response = CLIENT.post(bench.url + "/v1/chat/completions", json={"messages": HI})
    assert response.status_code == 404 and "model is required" in response.text


def test_memory_is_bounded(make: Callable[..., Bench]) -> None:
    bench = make(max_loaded=10, max_bytes=25)
    bench.starter.needs.update(c=20, pinned=30)
    bench.ask("a"), bench.ask("b")
    assert bench.loaded() == {"a", "b"}
    bench.ask("c")
    assert bench.loaded() == {"c"}
    with pytest.raises(openai.InternalServerError, match="30 B, and all models together may take 25 B"):
        bench.client.chat.completions.create(model="pinned", messages=HI)
    assert bench.loaded() == {"c"}, "nothing is unloaded for what can never fit"


def test_pinned_models_stay(make: Callable[..., Bench]) -> None:
    bench = make(max_loaded=1)
    bench.ask("pinned")
    with pytest.raises(openai.InternalServerError, match="pinned"):
        bench.client.chat.completions.create(model="a", messages=HI)
    assert bench.loaded() == {"pinned"} and bench.states()["a"] == "failed"
    assert bench.admin("unload", "pinned").json()["status"]["value"] == "unloaded"
    assert bench.admin("load", "a").json()["status"]["value"] == "loaded"


def test_all_who_wait_share_one_load(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.starter.gates["a"] = threading.Event()
    asked = [bench.in_thread("a") for _ in range(20)]
    bench.until(lambda: bench.states()["a"] == "loading" and bench.pool.find("a").num_wanted == 20)
    assert CLIENT.get(bench.url + "/load").json() == {"server_load": 20}
    bench.starter.gates["a"].set()
    assert [one.join() for one in asked] == ["I am a."] * 20
    assert len(bench.starter.started["a"]) == 1
    bench.until(lambda: bench.pool.find("a").is_idle)


def test_loaded_models_answer_while_another_loads(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.ask("b")
    bench.starter.gates["a"] = threading.Event()
    waiting = bench.in_thread("a")
    bench.until(lambda: bench.states()["a"] == "loading")
    assert bench.ask("b") == "I am b."
    bench.starter.gates["a"].set()
    assert waiting.join() == "I am a."


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses"])
def test_streams_are_kept_alive_while_they_wait(
    make: Callable[..., Bench], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "KEEP_ALIVE_S", 0.1)
    bench = make()
    bench.open_late("a")
    body = {"model": "a", "messages": HI, "input": "Hi", "max_tokens": 50, "stream": True}
    if path == "/v1/responses":
        del body["max_tokens"]
    response = CLIENT.post(bench.url + path, json=body, timeout=30)
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
    assert 2 <= response.text.count(": waiting\n\n") <= 8
    text = response.text.replace(": waiting\n\n", "")
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    assert events and "I am a." in "".join(_text(event) for event in events)


def _text(event: dict[str, Any]) -> str:
    if "choices" in event:
        return "".join(choice["delta"].get("content") or "" for choice in event["choices"])
    delta = event.get("delta")
    return delta.get("text", "") if isinstance(delta, dict) else delta or ""


def test_a_failure_ends_a_stream_that_has_begun(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.starter.broken["a"] = "its weights are torn."

    def fail_soon() -> None:
        bench.pool.find("a").forgive()
        bench.open_late("a")

    fail_soon()
    with pytest.raises(openai.APIError, match="its weights are torn"):
        list(bench.client.chat.completions.create(model="a", messages=HI, stream=True))
    fail_soon()
    (event,) = bench.client.responses.create(model="a", input="Hi", stream=True)
    assert event.type == "error" and "its weights are torn" in event.message and event.code == "model_failed"
    fail_soon()
    messages = Anthropic(base_url=bench.url, api_key=ADMIN, max_retries=0).messages
    with pytest.raises(anthropic.APIError, match="its weights are torn"):
        list(messages.create(model="a", messages=HI, max_tokens=5, stream=True))


def test_a_model_that_fails_touches_no_other(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.ask("b")
    bench.starter.broken["a"] = "its weights are torn."
    for _ in range(2):  # the second time without trying
        response = CLIENT.post(bench.url + "/v1/chat/completions", json={"model": "a", "messages": HI})
        assert response.status_code == 503 and int(response.headers["retry-after"]) >= 1
        assert response.json()["error"]["type"] == "model_failed" and "torn" in response.text
    assert bench.ask("b") == "I am b." and CLIENT.get(bench.url + "/health").status_code == 200
    shown = CLIENT.get(bench.url + "/v1/models/a").json()["status"]
    assert (shown["value"], shown["reason"]) == ("failed", "its weights are torn.")
    assert bench.admin("load", "a").status_code == 503
    bench.starter.broken.clear()
    assert bench.admin("load", "a").json()["status"]["value"] == "loaded"
    assert bench.ask("a") == "I am a."


def test_an_engine_that_dies_is_started_anew(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.ask("a"), bench.ask("b")
    engine = bench.starter.engine("a")
    engine.is_alive, engine.dead_error = False, "the card fell off the bus."
    bench.until(lambda: bench.states()["a"] == "failed")
    assert "fell off" in CLIENT.get(bench.url + "/v1/models/a").json()["status"]["reason"]
    assert bench.ask("b") == "I am b."
    bench.pool.find("a").forgive()
    assert bench.ask("a") == "I am a." and len(bench.starter.started["a"]) == 2


def test_requests_in_flight_end_before_their_model_goes(make: Callable[..., Bench]) -> None:
    bench = make(max_loaded=1)
    bench.ask("a")
    engine = bench.starter.engine("a")
    engine.script = Script(text="x" * 60, delay_s=0.01)
    slow = bench.in_thread("a")
    bench.until(lambda: engine.running == 1)
    other = bench.in_thread("b")
    bench.until(lambda: bench.states()["a"] == "unloading")
    late = bench.in_thread("a")  # comes when the model is on its way out, and gets it back afterwards
    assert engine.is_alive
    assert slow.join() == "x" * 60
    assert other.join() == "I am b."
    assert late.join() == "I am a." and len(bench.starter.started["a"]) == 2


def test_background_responses_end_before_their_model_goes(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.ask("a")
    bench.starter.engine("a").script = Script(text="x" * 50, delay_s=0.01)
    started = bench.client.responses.create(model="a", input="Hi", background=True)
    bench.admin("unload", "a")
    response = bench.client.responses.retrieve(started.id)
    assert response.status == "completed" and response.output_text == "x" * 50
    more = bench.client.responses.create(model="b", input="And?", previous_response_id=started.id)
    assert more.output_text == "I am b."


def test_waiting_is_bounded(make: Callable[..., Bench]) -> None:
    bench = make(max_waiting=2, wait_s=0.5)
    bench.starter.gates["a"] = threading.Event()
    asked = [bench.in_thread("a") for _ in range(2)]
    bench.until(lambda: bench.pool.find("a").num_wanted == 2)
    with pytest.raises(openai.RateLimitError, match="--models-max-waiting"):
        bench.client.chat.completions.create(model="a", messages=HI)
    for one in asked:
        with pytest.raises(AssertionError, match=r"503|--models-wait"):
            one.join()
    bench.starter.gates["a"].set()
    bench.until(lambda: bench.states()["a"] == "loaded")
    assert bench.ask("a") == "I am a."


def test_who_hangs_up_waits_no_more(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.starter.gates["a"] = threading.Event()
    for stream in (False, True):
        with pytest.raises(httpx.TimeoutException), httpx.Client(timeout=0.3, headers=HEADERS) as client:
            body = {"model": "a", "messages": HI, "stream": stream}
            with client.stream("POST", bench.url + "/v1/chat/completions", json=body) as response:
                response.read()
    bench.until(lambda: bench.pool.find("a").num_wanted == 0)
    bench.starter.gates["a"].set()
    bench.until(lambda: bench.states()["a"] == "loaded")
    bench.until(lambda: bench.pool.find("a").is_idle)
    assert CLIENT.get(bench.url + "/load").json() == {"server_load": 0}


def test_loaded_at_start(make: Callable[..., Bench]) -> None:
    bench = make("models: {a: {load: true}, b: {}}")
    bench.until(lambda: bench.loaded() == {"a"})


def test_load_and_unload_without_waiting(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.starter.gates["a"] = threading.Event()
    assert bench.admin("load", "a", wait=False).json()["status"]["value"] in ("unloaded", "loading")
    bench.starter.gates["a"].set()
    bench.until(lambda: bench.loaded() == {"a"})
    bench.admin("unload", "a", wait=False)
    bench.until(lambda: bench.loaded() == set())
    assert bench.admin("unload", "a").json()["status"]["value"] == "unloaded"
    assert bench.admin("load", "nothing").status_code == 404


def test_server_options_of_a_model(make: Callable[..., Bench]) -> None:
    bench = make("models: {a: {response_role: pirate}, b: {}}")
    for name, role in (("a", "pirate"), ("b", "assistant")):
        body = {"model": name, "messages": HI}
        message = CLIENT.post(bench.url + "/v1/chat/completions", json=body).json()["choices"][0]["message"]
        assert message["role"] == role


def test_every_route_of_a_model_is_routed(make: Callable[..., Bench]) -> None:
    serving = Serving(FakeEngine(), ServerSettings())  # type: ignore[arg-type]
    routes = model_routes(serving, ServerSettings(), Inflight(), None)
    stored = {route.path for route in routes if "{" in route.path}
    assert {route.path for route in routes} - stored == set(MODEL_PATHS)
    bench = make()
    for path in MODEL_PATHS:
        response = CLIENT.post(bench.url + path, json={"model": "a"})
        assert response.status_code in (200, 400), (path, response.text)
        assert CLIENT.post(bench.url + path, content=b"{").status_code == 400
    assert CLIENT.post(bench.url + "/v1/nothing", json={"model": "a"}).status_code == 404
    assert CLIENT.get(bench.url + "/v1/chat/completions").status_code == 405
    assert bench.ask("a") == "I am a."


def test_metrics_of_all_models_are_one_page(make: Callable[..., Bench]) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    bench = make(max_loaded=1)
    bench.ask("a"), bench.ask("b"), bench.ask("b")
    text = CLIENT.get(bench.url + "/metrics").text
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    counted = {
        sample.labels["model_name"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "kvasir:request_success_total" and sample.labels["finished_reason"] == "stop"
    }
    assert counted == {"a": 1, "b": 2}


def test_engine_state(make: Callable[..., Bench]) -> None:
    bench = make()
    url = bench.url + "/v1/engine/state"
    assert CLIENT.get(url).json()["core"] is None
    bench.ask("a"), bench.ask("b")
    assert CLIENT.get(url).json()["models"] == ["b"]
    assert CLIENT.get(url + "?model=a").json()["models"] == ["a", "gpt-4o"]
    assert "not loaded" in CLIENT.get(url + "?model=c").json()["core_error"]
    assert CLIENT.get(url + "?model=nothing").status_code == 404


def test_keys_hold_for_everything(make: Callable[..., Bench]) -> None:
    bench = make(settings=ServerSettings(api_keys=("a-secret-key-of-a-user",)))
    user = {"authorization": "Bearer a-secret-key-of-a-user", "x-request-id": "mine"}
    asked = {"model": "a", "messages": HI}
    with httpx.Client() as client:
        for path in ("/v1/chat/completions", "/admin/models/load"):
            assert client.post(bench.url + path, json=asked).status_code == 401
        assert client.get(bench.url + "/v1/models").status_code == 401 and bench.starter.started == {}
        assert client.post(bench.url + "/admin/models/load", json=asked, headers=user).status_code == 403
        response = client.post(bench.url + "/v1/chat/completions", json=asked, headers=user)
        assert response.status_code == 200 and response.headers.get_list("x-request-id") == ["mine"]
        assert client.get(bench.url + "/v1/requests/mine/timeline", headers=user).status_code == 200
    assert bench.starter.engine("a").seen[0].terms.tenant == "key-1"


def test_every_route_is_closed_to_strangers(make: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make(settings=ServerSettings(batches=BatchConfig(batch_dir=str(tmp_path / "kept"))))
    paths = {route.path for route in bench.live.app.routes}
    assert paths >= {"/admin/models/load", "/v1/batches/{batch_id}/cancel", "/v1/responses/{response_id}"}
    with httpx.Client() as client:
        assert assert_closed(client, bench.url, paths, [{}, {"authorization": "Bearer wrong"}]) > 400
    assert bench.starter.started == {}


def test_admin_routes_of_every_server(make: Callable[..., Bench]) -> None:
    bench = make()
    bench.ask("a")
    assert CLIENT.post(bench.url + "/pause").status_code == 200
    response = CLIENT.post(bench.url + "/v1/chat/completions", json={"model": "a", "messages": HI})
    assert response.status_code == 503 and "paused" in response.text
    CLIENT.post(bench.url + "/resume")
    assert bench.ask("a") == "I am a."


def test_batches_over_several_models(make: Callable[..., Bench], tmp_path: Path) -> None:
    bench = make(settings=ServerSettings(batches=BatchConfig(batch_dir=str(tmp_path / "kept"))))
    lines = [
        json.dumps({"custom_id": f"{i}", "url": "/v1/chat/completions", "body": {"model": name, "messages": HI}})
        for i, name in enumerate(["a", "b", "c", "nothing"] * 3)
    ]
    file = bench.client.files.create(file="\n".join(lines).encode(), purpose="batch")
    batch = bench.client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    bench.until(lambda: bench.client.batches.retrieve(batch.id).status == "completed")
    batch = bench.client.batches.retrieve(batch.id)
    assert (batch.request_counts.completed, batch.request_counts.failed) == (9, 3)
    assert batch.output_file_id is not None
    for row in map(json.loads, bench.client.files.content(batch.output_file_id).text.splitlines()):
        name = "abc"[int(row["custom_id"]) % 4]
        assert row["response"]["body"]["choices"][0]["message"]["content"] == f"I am {name}."


def test_many_at_once(make: Callable[..., Bench]) -> None:
    """Three models, room for two, forty callers: everybody gets the model that they asked for."""
    bench = make()
    asked = [(name, bench.in_thread(name)) for name in ["a", "b", "c", "b", "a"] * 8]
    for name, one in asked:
        assert one.join() == f"I am {name}."
    assert len(bench.loaded()) <= 2
    bench.until(lambda: all(model.is_idle for model in bench.pool.models()))
    alive = [engine for engines in bench.starter.started.values() for engine in engines if engine.is_alive]
    assert len(alive) == len(bench.loaded())
