"""`return_progress`: what a stream says of its prompt before its first token."""

import time
from typing import Any

import pytest

from kvasir.entrypoints.http import progress
from tests.http import sse
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import CLIENT, LiveServer, serving
from tests.http.test_life import until
from tests.http.test_live import process

CHAT = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
ASK = [("/v1/chat/completions", CHAT), ("/v1/completions", {"prompt": ["Hi", "You"], "stream": True})]


class Prefilling(FakeEngine):
    """Each time it is asked, three more tokens of each prompt are there."""

    asked = 0

    async def call(self, name: str, /, **args: Any) -> Any:
        assert name == "progress"
        self.asked += 1
        return dict.fromkeys(args["request_ids"], (1, 3 * self.asked))


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(progress, "EVERY_S", 0.05)
    with serving(Prefilling(Script(delay_s=0.3, text="ab"))) as live:
        yield live


def said(chunks: list[dict[str, Any]]) -> list[dict[str, int]]:
    return [chunk["prompt_progress"] for chunk in chunks if "prompt_progress" in chunk]


@pytest.mark.parametrize(("path", "body"), ASK)
@pytest.mark.parametrize("options", [None, {"include_usage": True}])
def test_progress_comes_first(live: LiveServer, path: str, body: dict[str, Any], options: Any) -> None:
    body = {**body, "return_progress": True, "stream_options": options}
    chunks = sse.events(CLIENT.post(live.url + path, json=body))
    whole = sse.collect(chunks, chat="chat" in path, usage=options is not None)
    assert {c["text"] for c in whole["choices"]} == {"ab"}
    found = said(chunks)
    assert len(found) >= 2 and [f["time_ms"] for f in found] == sorted(f["time_ms"] for f in found)
    num_prompts = len(body.get("prompt", [""]))
    assert found[0]["cache"] == num_prompts
    assert [f["processed"] for f in found] == [3 * num_prompts * (i + 1) for i in range(len(found))]
    assert live.engine.asked <= len(found) + 2, "nobody is asked any more once the answer begins"  # type: ignore


def test_only_who_asks_gets_it(live: LiveServer) -> None:
    assert not said(sse.events(CLIENT.post(live.url + ASK[0][0], json=CHAT)))
    assert live.engine.asked == 0  # type: ignore[attr-defined]
    refused = CLIENT.post(live.url + ASK[0][0], json={**CHAT, "stream": False, "return_progress": True})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "return_progress")


def test_who_hangs_up_is_forgotten(live: LiveServer) -> None:
    live.engine.script = Script(delay_s=30)
    with CLIENT.stream("POST", live.url + ASK[0][0], json={**CHAT, "return_progress": True}) as response:
        assert b"prompt_progress" in next(response.iter_raw())
    until(lambda: live.engine.running == 0)
    asked = live.engine.asked  # type: ignore[attr-defined]
    time.sleep(0.2)
    assert live.engine.asked <= asked + 1, "nobody is left who wants to know"  # type: ignore[attr-defined]


def test_a_real_engine_counts_up() -> None:
    """Two tokens a step, so that it takes a while."""
    with process("--max-num-batched-tokens", "2", "--max-num-seqs", "2") as (url, _):
        for n in (1, 2):
            body = {"prompt": list(range(20 * n, 20 * n + 660)) * 3, "max_tokens": 2, "n": n, "stream": True}
            answer = CLIENT.post(url + "/v1/completions", json={**body, "return_progress": True}, timeout=60)
            chunks = sse.events(answer)
            sse.collect(chunks, chat=False, usage=False)
            found = said(chunks)
            assert found and all(f["total"] == 1980 and f["cache"] == 0 for f in found)
            counts = [f["processed"] for f in found]
            assert counts == sorted(set(counts)) and 0 < counts[0] and counts[-1] <= 1980
