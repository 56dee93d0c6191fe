"""bench serve against a scripted engine whose times are known, and the arithmetic behind the figures."""

import json
import random
import statistics
from pathlib import Path

import pytest

from kvasir.bench.client import Reply
from kvasir.bench.measure import measure
from kvasir.bench.stats import percentile, summary
from kvasir.bench.workload import demo_questions, random_tokens
from kvasir.entrypoints.cli.main import main
from kvasir.errors import ConfigError
from tests.http.fake_engine import FakeEngine, Script
from tests.http.live import serving


@pytest.mark.parametrize("seed", range(5))
def test_percentiles(seed: int) -> None:
    rng = random.Random(seed)
    values = sorted(rng.random() for _ in range(rng.randrange(2, 60)))
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    for p in (1, 50, 90, 99):
        assert percentile(values, p) == pytest.approx(cuts[p - 1])
    assert summary([]) == {"mean": None, "p50": None, "p99": None}
    assert summary([3.0], scale=10) == {"mean": 30.0, "p50": 30.0, "p99": 30.0}


def test_workloads_are_what_they_say() -> None:
    asks = random_tokens(50, 20, 10, seed=1, vocab=(5, 9), spread=0.5, prefix_len=3)
    assert asks == random_tokens(50, 20, 10, seed=1, vocab=(5, 9), spread=0.5, prefix_len=3)
    assert len({a.token_ids[:3] for a in asks}) == 1
    assert all(13 <= len(a.token_ids) <= 33 and 5 <= a.output_len <= 15 for a in asks)
    assert {t for a in asks for t in a.token_ids} == {5, 6, 7, 8}
    assert len({a.question for a in demo_questions(30, 5, seed=2)}) > 5
    with pytest.raises(ConfigError):
        random_tokens(1, 1, 1, seed=0, vocab=(5, 5))


def test_times_of_one_stream() -> None:
    reply = Reply(status=200, started=10.0, ended=13.5)
    for at, data in (
        (11.0, '{"choices":[{"delta":{"role":"assistant","content":""}}]}'),  # no text yet
        (12.0, '{"choices":[{"delta":{"content":"a"}}]}'),
        (12.5, '{"choices":[{"delta":{"content":"b"}}]}'),
        (13.5, '{"choices":[{"delta":{"content":"cd"}}]}'),
        (13.5, '{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":4}}'),
    ):
        reply.body += f"data: {data}\n\n".encode()
        reply.reads.append((at, len(reply.body)))
    reply.body += b"data: [DONE]\n\n"
    found = measure(reply)
    assert (found.ttft, found.itls, found.e2e, found.tpot) == (2.0, [0.5, 1.0], 3.5, 0.5)
    assert (found.prompt_tokens, found.output_tokens, found.text) == (7, 4, "abcd")


def test_an_event_counts_when_it_is_complete() -> None:
    """An event that arrives in two reads has the time of the second."""
    event = b'data: {"choices":[{"text":"a"}]}\n\n'
    reply = Reply(status=200, started=0.0, ended=2.0, body=bytearray(event), reads=[(1.0, 10), (2.0, len(event))])
    assert measure(reply).ttft == 2.0


def test_serve(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(Script(text="x" * 50, delay_s=0.01))
    with serving(engine) as live:
        out = tmp_path / "r.json"
        flags = ["--base-url", live.url, "--num-prompts", "12", "--input-len", "20", "--output-len", "10"]
        flags += ["--max-concurrency", "4", "--no-progress", "--output", str(out)]
        assert main(["bench", "serve", *flags]) == 0
        text = capsys.readouterr().out
        assert all(word in text for word in ("TTFT", "TPOT", "ITL", "E2E", "throughput", "12 completed, 0 failed"))
        found = json.loads(out.read_text())
        assert (found["completed"], found["failed"], found["peak_concurrency"]) == (12, 0, 4)
        assert (found["prompt_tokens"], found["output_tokens"]) == (240, 120)
        assert found["itl_ms"]["p50"] >= 9 and found["ttft_ms"]["mean"] >= 9 and found["e2e_ms"]["mean"] >= 95
        assert found["tpot_ms"]["mean"] == pytest.approx(found["itl_ms"]["mean"], rel=0.2)
        assert all(s.params.ignore_eos and s.params.temperature == 0 for s in engine.seen)

        assert main(["bench", "serve", "--base-url", live.url, "--dataset", "demo", "--num-prompts", "3",
                     "--output-len", "5", "--request-rate", "200", "--json", "--no-progress"]) == 0  # fmt: skip
        found = json.loads(capsys.readouterr().out)
        assert found["completed"] == 3 and found["dataset"] == "demo" and not engine.seen[-1].params.ignore_eos


def test_failures_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    engine = FakeEngine(Script(text="x" * 50))
    with serving(engine) as live:
        flags = ["--base-url", live.url, "--num-prompts", "4", "--no-progress", "--json", "--num-warmups", "0"]
        assert main(["bench", "serve", *flags, "--input-len", "300"]) == 1  # longer than the context
        found = json.loads(capsys.readouterr().out)
        assert (found["completed"], found["failed"]) == (0, 4) and "256" in next(iter(found["failures"]))
        assert found["ttft_ms"] == {"mean": None, "p50": None, "p99": None}
        engine.script.fail_after = 3
        assert main(["bench", "serve", *flags, "--input-len", "5", "--output-len", "9"]) == 1
        assert json.loads(capsys.readouterr().out)["failed"] == 4


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "serve", "--base-url", "http://127.0.0.1:9"]) == 2
    assert "kvasir serve" in capsys.readouterr().err
