"""run-batch: order, wrong lines, bounded concurrency; over a scripted engine."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from kvasir.entrypoints.batch import LineAnswerer, OneModel
from kvasir.entrypoints.batch.file import OrderedRun, write_answers
from kvasir.entrypoints.http.serving import Serving
from kvasir.entrypoints.http.settings import ServerSettings
from kvasir.errors import EngineDeadError, QueueFullError
from tests.http.fake_engine import FakeEngine, Script

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"


def line(custom_id: str, url: str, **body: Any) -> bytes:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": url, "body": body}).encode() + b"\n"


def run(engine: FakeEngine, content: bytes, concurrency: int = 4) -> list[dict[str, Any]]:
    sink = io.BytesIO()
    serving = Serving(engine, ServerSettings())  # type: ignore[arg-type]
    counts = asyncio.run(write_answers(serving, io.BytesIO(content), sink, concurrency, False))
    answers = [json.loads(x) for x in sink.getvalue().splitlines()]
    assert counts.total == len(answers)
    failed = [a for a in answers if a["error"] or a["response"]["status_code"] != 200]
    assert counts.failed == len(failed)
    return answers


def test_answers_in_order_and_errors_where_they_belong() -> None:
    content = (
        line("a", CHAT, model="fake", messages=[{"role": "user", "content": "Hi"}])
        + line("b", COMPLETION, prompt="x", max_tokens=3)
        + b"\n"
        + b"{broken\n"
        + b'{"custom_id": "d", "url": "/v1/completions"}\n'
        + line("e", COMPLETION, prompt="x", max_tokens=-3)
        + line("f", "/v1/embeddings", input="x")
        + line("g", CHAT, model="other", messages=[{"role": "user", "content": "Hi"}])
        + line("h", COMPLETION, prompt="x", stream=True)
        + line("i", COMPLETION, prompt="x", max_tokens=5)
    )
    answers = run(FakeEngine(), content)
    assert [a["custom_id"] for a in answers] == ["a", "b", None, "d", "e", "f", "g", "h", "i"]
    status = [a["response"]["status_code"] if a["response"] else None for a in answers]
    assert status == [200, 200, None, None, 400, 400, 404, 400, 200]
    assert answers[0]["response"]["body"]["choices"][0]["message"]["content"] == Script().text
    assert answers[1]["response"]["body"]["choices"][0]["text"] == "Hel"
    assert answers[2]["error"]["message"] and answers[3]["error"]["message"]
    assert answers[4]["response"]["body"]["error"]["param"] == "max_tokens"
    assert len({a["id"] for a in answers}) == len(answers)


def test_concurrency_is_bounded() -> None:
    peak = 0

    class Counting(FakeEngine):
        async def generate(self, *args: Any, **kwargs: Any) -> Any:
            nonlocal peak
            async for output in super().generate(*args, **kwargs):
                peak = max(peak, self.running)
                yield output

    engine = Counting(Script(delay_s=0.001))
    answers = run(engine, b"".join(line(str(i), COMPLETION, prompt="x", max_tokens=1 + i % 7) for i in range(40)), 3)
    assert [a["custom_id"] for a in answers] == [str(i) for i in range(40)]
    assert peak == 3


def test_a_full_queue_is_waited_for() -> None:
    class Full(FakeEngine):
        refusals = 2

        async def generate(self, *args: Any, **kwargs: Any) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise QueueFullError("full")
            async for output in super().generate(*args, **kwargs):
                yield output

    assert run(Full(), line("a", COMPLETION, prompt="x"))[0]["response"]["status_code"] == 200


def test_a_dead_engine_ends_the_run(tmp_path: Path) -> None:
    engine = FakeEngine(is_alive=False, dead_error="gone")

    async def consume() -> None:
        runner = OrderedRun(LineAnswerer(OneModel(Serving(engine, ServerSettings()))), 2)  # type: ignore[arg-type]
        async for _ in runner.answers([line(str(i), COMPLETION, prompt="x") for i in range(5)]):
            pass

    with pytest.raises(EngineDeadError):
        asyncio.run(consume())
