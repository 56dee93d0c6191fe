"""Keys: who may in, where to, how often, how much; and what is remembered."""

import asyncio
import hashlib
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from kvasir.config import ServerArgs
from kvasir.config.batch import BatchConfig
from kvasir.entrypoints.http.errors import QuotaError, RateLimitError
from kvasir.entrypoints.http.guard.account import Account, Counts
from kvasir.entrypoints.http.guard.gate import Gate, gate_settings
from kvasir.entrypoints.http.guard.keys import ApiKey, load_ring
from kvasir.entrypoints.http.guard.limits import Bucket
from kvasir.entrypoints.http.guard.middleware import ADMIN_PATHS, TRACE_PATHS
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import ConfigError
from kvasir.testing.clock import ManualClock
from tests.http.closed import assert_closed
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import CLIENT, LiveServer, serving

ALICE, BOB, ROOT, SCRAPER = (f"sk-{name}-0123456789abcdef" for name in ("alice", "bob", "root", "scraper"))
ASK = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 10}
CHAT = "/v1/chat/completions"


def write(path: Path, *entries: dict[str, Any]) -> str:
    path.write_text(yaml.safe_dump({"keys": list(entries)}))
    return str(path)


@pytest.fixture
def keys_file(tmp_path: Path) -> str:
    return write(
        tmp_path / "keys.yaml",
        {"name": "alice", "key": ALICE, "weight": 3.0, "priority": 2, "isolate_cache": True},
        {"name": "bob", "key_sha256": hashlib.sha256(BOB.encode()).hexdigest(), "requests_per_minute": 3},
        {"name": "root", "key": ROOT, "scopes": ["admin"]},
        {"name": "scraper", "key": SCRAPER, "scopes": ["metrics"]},
    )


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def post(live: LiveServer, secret: str, body: dict[str, Any] = ASK, path: str = CHAT) -> httpx.Response:
    return CLIENT.post(live.url + path, json=body, headers=bearer(secret))


# ---- who may in


@pytest.mark.parametrize("everything", [False, True])
def test_every_route_of_the_table_is_closed_but_the_listed(keys_file: str, tmp_path: Path, everything: bool) -> None:
    """Walks the routes of the app, so that one that is added later is covered; with all that can be turned on, too."""
    settings = ServerSettings(api_keys_file=keys_file)
    if everything:
        settings = replace(settings, profile=True, batches=BatchConfig(batch_dir=str(tmp_path / "kept")))
    with serving(FakeEngine(), settings) as live:
        paths = {r.path for r in live.app.routes}
        assert (paths >= ADMIN_PATHS and not everything) or paths >= TRACE_PATHS | {"/v1/files/{file_id}/content"}
        tries = [{}, bearer("wrong"), {"Authorization": ALICE}, {"Authorization": f"Basic {ALICE}"}, {"X-API-Key": "x"}]
        assert assert_closed(CLIENT, live.url, paths, tries) > 900
        assert live.engine.seen == []


def test_scopes(keys_file: str) -> None:
    with serving(FakeEngine(), ServerSettings(api_keys_file=keys_file)) as live:
        get = lambda path, secret: CLIENT.get(live.url + path, headers=bearer(secret)).status_code
        for path, allowed in {
            "/v1/models": {ALICE, BOB, ROOT},
            "/metrics": {ALICE, BOB, ROOT, SCRAPER},
            "/v1/usage": {ALICE, BOB, ROOT},
            "/admin/usage": {ROOT},
            "/log_level": {ROOT},
            "/is_paused": {ROOT},
        }.items():
            for secret in (ALICE, BOB, ROOT, SCRAPER):
                assert get(path, secret) == (200 if secret in allowed else 403), (path, secret)
        error = CLIENT.get(live.url + "/admin/usage", headers=bearer(ALICE)).json()["error"]
        assert error["type"] == "permission_error" and "no scope 'admin'" in error["message"]
        assert CLIENT.get(live.url + "/v1/models", headers={"X-API-Key": ALICE}).status_code == 200


def test_admin_routes_do_not_exist_without_an_admin_key() -> None:
    for settings, headers in ((ServerSettings(), {}), (ServerSettings(api_keys=("k" * 16,)), bearer("k" * 16))):
        with serving(FakeEngine(), settings) as live:
            for path in (*ADMIN_PATHS, "/admin/usage"):
                assert CLIENT.post(live.url + path, headers=headers).status_code == 404
                assert CLIENT.get(live.url + path, headers=headers).status_code == 404


def test_public_metrics() -> None:
    with serving(FakeEngine(), ServerSettings(api_keys=("k" * 16,), public_metrics=True)) as live:
        assert CLIENT.get(live.url + "/metrics").status_code == 200
        assert CLIENT.get(live.url + "/load").status_code == 401


def test_secrets_are_printed_nowhere(keys_file: str, kvasir_log: pytest.LogCaptureFixture) -> None:
    args = ServerArgs(api_key=[ALICE], admin_api_key=[ROOT])
    settings = ServerSettings(api_keys=args.api_keys(), admin_keys=(ROOT,), api_keys_file=keys_file)
    ring = load_ring([BOB + "x"], [], keys_file)
    shown = f"{args!r} {settings!r} {ring!r} {vars(ring)!r} {gate_settings((ALICE,), (ROOT,), None, None)!r}"
    with (
        kvasir_log.at_level(logging.DEBUG, "kvasir"),
        serving(FakeEngine(), ServerSettings(api_keys_file=keys_file, log_requests=True)) as live,
    ):
        shown += post(live, ALICE).text + CLIENT.get(live.url + "/admin/usage", headers=bearer(ROOT)).text
        shown += (
            post(live, "sk-wrong-0123456789").text + CLIENT.get(live.url + "/openapi.json", headers=bearer(BOB)).text
        )
        assert post(live, ROOT, {}, "/admin/reload").status_code == 200
    assert "by the key 'root'" in kvasir_log.text, "the log is heard at all"
    shown += kvasir_log.text
    for secret in (ALICE, BOB, ROOT, SCRAPER, "sk-wrong"):
        assert secret not in shown
    with pytest.raises(ConfigError) as caught:
        ServerArgs(api_key=[5])
    assert "hidden" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("keys: [{name: a}]", "'a' has neither key nor key_sha256"),
        ("keys: [{name: a, key: short}]", "length >= 16.*keys.*key"),
        (f"keys: [{{name: a, key: {ALICE}}}, {{name: a, key: {BOB}}}]", "two API keys are named 'a'"),
        (f"keys: [{{name: a, key: {ALICE}}}, {{name: b, key: {ALICE}}}]", "'a' and 'b' have the same secret"),
        (f"keys: [{{name: a, key: {ALICE}, wieght: 2}}]", "unknown field wieght"),
        (f"keys: [{{name: a, key: {ALICE}, tokens_per_day: -1}}]", ">= 1.*tokens_per_day"),
        (f"keys: [{{name: 'a b', key: {ALICE}}}]", "name"),
        (f"keys: [{{name: a, key: {ALICE}, scopes: [root]}}]", "root"),
        ("keys: []", "length >= 1"),
        (f"keys: [{{name: a, key: '{ALICE}'", r"not valid YAML \(line 1\)"),
        ("", "got null"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_without_its_secrets(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        load_ring([], [], str(path))
    assert ALICE not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_ring([], [], str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("empty", ["", " ", "\n"])
def test_a_key_that_is_empty_starts_no_server(monkeypatch: pytest.MonkeyPatch, empty: str) -> None:
    """`--api-key "$KEY"` where nobody has set KEY: the server is not open, and nobody wonders who is locked out."""
    monkeypatch.setenv("KVASIR_API_KEY", empty)
    for api_keys, admin_keys in ((ServerArgs().api_keys(), []), ([empty], []), (["k" * 16], [empty])):
        with pytest.raises(ConfigError, match="an API key is empty .*KVASIR_API_KEY"):
            load_ring(api_keys, admin_keys, None)
    monkeypatch.delenv("KVASIR_API_KEY")
    assert not load_ring(ServerArgs().api_keys(), [], None)


def test_a_key_may_have_several_secrets_while_it_is_replaced(tmp_path: Path) -> None:
    ring = load_ring([], [], write(tmp_path / "k.yaml", {"name": "a", "key": [ALICE, BOB]}))
    assert ring.find(ALICE.encode()) == ring.find(BOB.encode()) == ring.by_name["a"]
    assert ring.find(b"") is None and ring.find(ALICE.encode() + b"x") is None and ring.find(b"x" * 10**6) is None


# ---- what goes along to the engine


def test_weight_priority_cache_and_deadline_reach_the_engine(keys_file: str) -> None:
    engine = FakeEngine()
    with serving(engine, ServerSettings(api_keys_file=keys_file, request_timeout_s=50.0)) as live:
        post(live, ALICE, {**ASK, "cache_salt": "s", "priority": 1, "timeout": 20})
        post(live, BOB, {**ASK, "cache_salt": "s"})
        now = time.time()
        CLIENT.post(live.url + CHAT, json={**ASK, "timeout": 9}, headers={**bearer(BOB), "X-Request-Timeout": "5"})
        alice, bob, quick = engine.seen
    assert (alice.terms.tenant, alice.terms.weight, alice.priority, alice.cache_salt) == ("alice", 3.0, 2, "alice:s")
    assert (bob.terms.tenant, bob.terms.weight, bob.priority, bob.cache_salt) == ("bob", 1.0, 0, "s")
    assert alice.terms.deadline == pytest.approx(now + 20, abs=2)
    assert bob.terms.deadline == pytest.approx(now + 50, abs=2)
    assert quick.terms.deadline == pytest.approx(now + 5, abs=2)


def test_a_wrong_deadline_is_refused(server: LiveServer) -> None:
    for value in ("0", "-1", "soon", "nan", "inf", "1e9", ""):
        response = CLIENT.post(server.url + CHAT, json=ASK, headers={"X-Request-Timeout": value})
        assert response.status_code == 400 and "X-Request-Timeout must be" in response.text, value
    for value in (0, -1, "soon", 1e9):
        response = CLIENT.post(server.url + CHAT, json={**ASK, "timeout": value})
        assert response.status_code == 400 and response.json()["error"]["param"] == "timeout", value
    assert server.engine.seen == []


def test_without_keys_everybody_shares_one_name(server: LiveServer) -> None:
    CLIENT.post(server.url + CHAT, json=ASK)
    assert server.engine.seen[0].terms.tenant == "" and server.engine.seen[0].terms.deadline == 0.0


def test_a_stored_response_belongs_to_its_key(keys_file: str) -> None:
    with serving(FakeEngine(), ServerSettings(api_keys_file=keys_file)) as live:
        made = post(live, ALICE, {"input": "Hi", "max_output_tokens": 20}, "/v1/responses").json()
        url = f"{live.url}/v1/responses/{made['id']}"
        assert CLIENT.get(url, headers=bearer(BOB)).status_code == 404
        assert CLIENT.delete(url, headers=bearer(BOB)).status_code == 404
        follow = {"input": "And?", "previous_response_id": made["id"], "max_output_tokens": 20}
        assert post(live, BOB, follow, "/v1/responses").status_code == 404
        assert post(live, ALICE, follow, "/v1/responses").status_code == 200
        assert CLIENT.get(url, headers=bearer(ROOT)).status_code == 200
        assert CLIENT.delete(url, headers=bearer(ALICE)).status_code == 200


# ---- rates and quotas


def test_requests_per_minute_and_headers(keys_file: str) -> None:
    with serving(FakeEngine(), ServerSettings(api_keys_file=keys_file)) as live:
        answers = [post(live, BOB) for _ in range(4)]
        assert [a.status_code for a in answers] == [200, 200, 200, 429]
        assert [a.headers.get("x-ratelimit-remaining-requests") for a in answers[:3]] == ["2", "1", "0"]
        assert answers[0].headers["x-ratelimit-limit-requests"] == "3"
        error = answers[3].json()["error"]
        assert error["code"] == "rate_limit_exceeded" and "3 requests a minute" in error["message"]
        assert 1 <= int(answers[3].headers["retry-after"]) <= 20
        assert post(live, ALICE).status_code == 200, "the limits of one are nobody else's"
        assert CLIENT.get(live.url + "/v1/models", headers=bearer(BOB)).status_code == 200


def test_tokens_are_counted_also_of_streams_and_of_those_who_leave(tmp_path: Path) -> None:
    path = write(tmp_path / "k.yaml", {"name": "a", "key": ALICE}, {"name": "b", "key": BOB, "tokens_per_minute": 60})
    engine = FakeEngine(Script(text="x" * 90, num_cached_tokens=3))
    with serving(engine, ServerSettings(api_keys_file=path)) as live:
        usage = lambda secret: CLIENT.get(live.url + "/v1/usage", headers=bearer(secret)).json()["today"]
        prompt = post(live, ALICE).json()["usage"]["prompt_tokens"]
        post(live, ALICE, {**ASK, "stream": True})
        post(live, ALICE, {"prompt": ["ab", "cd"], "n": 2, "max_tokens": 5}, "/v1/completions")
        assert usage(ALICE) == {
            "requests": 3, "prompt_tokens": 2 * prompt + 6, "cached_tokens": 12, "completion_tokens": 40, "refused": 0,
        }  # fmt: skip
        assert post(live, BOB, {**ASK, "max_tokens": 70}).status_code == 200, "what is left is not known beforehand"
        refused = post(live, BOB)
        assert refused.status_code == 429 and "60 tokens a minute" in refused.text
        assert usage(BOB)["completion_tokens"] == 70 and usage(BOB)["refused"] == 1
        engine.script = Script(text="x" * 90, delay_s=0.02)
        before = usage(ALICE)["completion_tokens"]
        with CLIENT.stream(
            "POST", live.url + CHAT, json={**ASK, "max_tokens": 80, "stream": True}, headers=bearer(ALICE)
        ) as r:
            next(r.iter_bytes())
        until(lambda: engine.running == 0)
        until(lambda: 0 < usage(ALICE)["completion_tokens"] - before < 80)


def test_concurrency(tmp_path: Path) -> None:
    path = write(tmp_path / "k.yaml", {"name": "a", "key": ALICE, "max_concurrent": 2})
    engine = FakeEngine(Script(delay_s=0.05))
    with serving(engine, ServerSettings(api_keys_file=path)) as live:

        async def burst() -> list[int]:
            async with httpx.AsyncClient(verify=False) as client:
                ask = lambda: client.post(live.url + CHAT, json=ASK, headers=bearer(ALICE))
                return sorted(r.status_code for r in await asyncio.gather(*(ask() for _ in range(6))))

        assert asyncio.run(burst()) == [200, 200, 429, 429, 429, 429]
        assert post(live, ALICE).status_code == 200, "places come back"


def test_quotas_by_day_and_month() -> None:
    clock = ManualClock(1_774_990_800.0)  # 2026-03-31 21:00 UTC
    account = Account(ApiKey(name="a", tokens_per_day=100, tokens_per_month=150), clock)
    account.begin()
    account.charge(Counts(prompt_tokens=60, completion_tokens=50))
    with pytest.raises(QuotaError, match=r"100 tokens a day.*has used 110") as caught:
        account.begin()
    assert caught.value.retry_after_s == 3 * 3600
    clock.advance(3 * 3600)  # the first of April
    account.begin()
    assert account.month.tokens == 0
    account.charge(Counts(prompt_tokens=90))
    clock.advance(86_400)
    account.begin()
    account.charge(Counts(prompt_tokens=60))
    clock.advance(86_400)
    with pytest.raises(QuotaError, match="150 tokens a month") as caught:
        account.begin()
    assert caught.value.retry_after_s == 28 * 86_400
    assert sum(c.refused for c in account.unsaved.values()) == 2


def test_a_bucket_fills_evenly_and_pays_back() -> None:
    clock = ManualClock(0.0)
    bucket = Bucket(60, clock)
    bucket.take(90)
    assert bucket.level == -30 and bucket.wait_s() == 31.0
    clock.advance(31.0)
    assert bucket.wait_s() == 0.0
    clock.advance(1000.0)
    assert bucket.level == 60
    bucket.take(50)
    bucket.set_limit(100)
    assert bucket.level == 50, "what was used stays used"
    bucket.set_limit(None)
    assert bucket.wait_s(1e9) == 0.0
    account = Account(ApiKey(name="a", requests_per_minute=1), clock)
    account.begin()
    with pytest.raises(RateLimitError, match="60 s"):
        account.begin()


# ---- reload and memory


def test_reload_changes_keys_and_limits_and_keeps_the_old_ones_when_broken(tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    write(path, {"name": "a", "key": ALICE}, {"name": "root", "key": ROOT, "scopes": ["admin"]})
    with serving(FakeEngine(), ServerSettings(api_keys_file=str(path))) as live:
        assert post(live, ALICE).status_code == 200
        write(
            path,
            {"name": "a", "key": BOB, "requests_per_minute": 1},
            {"name": "root", "key": ROOT, "scopes": ["admin"]},
        )
        assert post(live, ROOT, {}, "/admin/reload").json() == {"reloaded": True, "keys": 2}
        assert post(live, ALICE).status_code == 401
        assert [post(live, BOB).status_code for _ in range(2)] == [200, 429]
        for broken in ("keys: [{name: a}]", "keys: [", ""):
            path.write_text(broken)
            assert post(live, ROOT, {}, "/admin/reload").json() == {"reloaded": False, "keys": 2}
        assert CLIENT.get(live.url + "/v1/models", headers=bearer(BOB)).status_code == 200


def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    path = write(
        tmp_path / "k.yaml",
        {"name": "a", "key": ALICE, "tokens_per_day": 40, "requests_per_minute": 2},
        {"name": "b", "key": BOB},
    )
    seen = []
    for _ in range(2):
        with serving(FakeEngine(), ServerSettings(api_keys_file=path)) as live:
            codes = [post(live, ALICE).status_code for _ in range(2)]
            seen.append((codes, CLIENT.get(live.url + "/v1/usage", headers=bearer(BOB)).json()["today"]["requests"]))
            post(live, BOB)
            # As the server does a few times a second; nothing is closed then, as after kill -9.
            asyncio.run_coroutine_threadsafe(live.app.state.gate.save(), live.loop).result(5)
    assert seen == [([200, 200], 0), ([429, 429], 1)]
    db = sqlite3.connect(path + ".usage.db")
    rows = dict(db.execute("SELECT name, SUM(requests) FROM usage GROUP BY name"))
    assert rows == {"a": 2, "b": 2}
    db.close()


def test_a_store_that_cannot_be_written_stops_nobody(tmp_path: Path, kvasir_log: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "k.yaml", {"name": "a", "key": ALICE})
    gate = Gate(gate_settings((), (), path, None))
    account = gate.account_of(ALICE.encode())
    assert account is not None and gate._store is not None
    other = sqlite3.connect(path + ".usage.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    gate._store._db.execute("PRAGMA busy_timeout = 10")
    account.begin()
    asyncio.run(gate.save())
    asyncio.run(gate.save())
    assert sum("cannot be written" in r.message for r in kvasir_log.records) == 1
    other.execute("ROLLBACK")
    account.begin()
    asyncio.run(gate.save())
    assert other.execute("SELECT SUM(requests) FROM usage").fetchone() == (2,)
    other.close()
    asyncio.run(gate.close())
    with pytest.raises(ConfigError, match="--usage-db"):
        Gate(gate_settings((), (), path, str(tmp_path / "no" / "folder.db")))


# ---- admin


def test_admin_routes(keys_file: str) -> None:
    engine = FakeEngine(Script(text="x" * 50))
    with serving(engine, ServerSettings(api_keys_file=keys_file)) as live:
        admin = lambda path: CLIENT.post(live.url + path, headers=bearer(ROOT))
        assert admin("/pause").json()["is_paused"] is True
        refused = post(live, ALICE)
        assert refused.status_code == 503 and "paused" in refused.text and refused.headers["retry-after"] == "5"
        assert CLIENT.get(live.url + "/health").status_code == 200
        assert admin("/resume").json() == {"is_paused": False}
        assert post(live, ALICE).status_code == 200
        assert admin("/reset_prefix_cache").json() == {"reset": True}
        log = logging.getLogger("kvasir")
        before = log.level
        try:
            assert admin("/log_level?level=debug").json() == {"level": "DEBUG"}
            assert admin("/log_level?level=loud").status_code == 400
        finally:
            log.setLevel(before)
        names = {
            k["name"]: k["today"]["requests"]
            for k in CLIENT.get(live.url + "/admin/usage", headers=bearer(ROOT)).json()["keys"]
        }
        assert names == {"alice": 2, "bob": 0, "root": 0, "scraper": 0}


def until(condition: Callable[[], bool], seconds: float = 3.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)
