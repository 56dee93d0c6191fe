"""bench kernels, offline reports and the charts drawn from them."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from kvasir.bench import startup as starting
from kvasir.bench.offline import MAX_POINTS, _progress
from kvasir.bench.plot import bars, lines, plot_of
from kvasir.entrypoints.cli.main import main
from kvasir.messages import CompletionOutput, RequestMetrics, RequestOutput
from kvasir.ops.dispatch import choices
from tests.fixtures import checkpoint
from tests.http.fake_engine import FakeEngine
from tests.http.live import serving

SMALL = ["--working-set-mib", "1"]
SVG = "{http://www.w3.org/2000/svg}"
TINY = ["--max-num-seqs", "4", "--dtype", "float32", "--cpu-threads", "1", "--input-len", "8", "--output-len", "4"]


def texts(svg: str) -> list[str]:
    return ["".join(t.itertext()) for t in ET.fromstring(svg).iter(f"{SVG}text")]


def run(kind: str, folder: Path, *flags: str) -> tuple[dict, str]:
    """The JSON and the chart of a bench."""
    report, chart = folder / "report.json", folder / "chart.svg"
    assert main(["bench", kind, "--output-json", str(report), "--plot", str(chart), *flags]) == 0
    return json.loads(report.read_text()), chart.read_text()


def test_bars_are_as_long_as_their_values():
    chart = bars("a < b", [("one", 2.0), ("two & a half", 5.0), ("none", 0.0)], "ms")
    widths = [float(r.get("width")) for r in ET.fromstring(chart).iter(f"{SVG}rect") if r.get("rx")]
    assert widths[0] == pytest.approx(widths[1] * 0.4, abs=0.1) and widths[2] == 0
    assert texts(chart) == ["a < b", "one", "2 ms", "two & a half", "5 ms", "none", "0 ms"]


def test_lines_stay_inside_their_axes():
    chart = lines("t", {"a": [(0, 0), (3.2, 70)], "empty": []}, "s", "tokens")
    (line,) = [p for p in ET.fromstring(chart).iter(f"{SVG}path") if p.get("fill") == "none"]
    assert line.get("d").startswith("M70.0 276.0L") and "100" in texts(chart) and "5" in texts(chart)
    assert "empty" in texts(lines("nothing", {"empty": []}, "s", "tokens"))


def test_kernels_on_this_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    sizes = ["--hidden-size", "64", "--intermediate-size", "128", "--num-heads", "4", "--num-kv-heads", "2"]
    found, chart = run("kernels", tmp_path, "--device", "cpu", "--tokens", "1", "8", "--repeats", "1", *sizes, *SMALL)
    by_op = {k["op"] for k in found["kernels"]}
    assert {"rms_norm", "add_rms_norm", "silu_and_mul", "apply_rope", "reshape_and_cache", "linear"} < by_op
    assert len(found["kernels"]) == 2 * len(by_op) and found["bandwidth_gb_s"] > 0
    for k in found["kernels"]:
        assert k["us"] > 0 and k["fraction"] == pytest.approx(k["gb_s"] / found["bandwidth_gb_s"], rel=0.2, abs=1e-4)
    assert next(c.implementation for c in choices("cpu") if c.op == "rms_norm") in capsys.readouterr().out
    assert any(text.startswith("linear 8 x 64") for text in texts(chart))


@pytest.mark.parametrize(
    ("flags", "words"),
    [(["--ops", "rmsnorm"], "rms_norm"), (["--tokens", "0"], "at least 1"), (["--dtype", "int8"], "int8")],
)
def test_kernels_that_cannot_be_timed(flags: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert main(["bench", "kernels", "--device", "cpu", "--repeats", "1", *SMALL, *flags]) == 2
    assert words in capsys.readouterr().err


def test_throughput_with_phases_and_a_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--model", str(checkpoint("llama")), "--num-prompts", "6", *TINY]
    traces = tmp_path / "traces"
    flags += ["--enable-step-times", "--num-warmups", "1"]
    found, chart = run("throughput", tmp_path, *flags, "--profile", str(traces))
    assert found["output_tokens"] == found["progress"][-1][1] == 24
    times, said = found["step_times"], capsys.readouterr().out
    assert (
        0 < times["decode"]["num_steps"] < 10 and times["prompt"]["num_steps"] > 0
    )  # the warm-up's are not among them
    assert times["decode"]["schedule_ms"]["p50"] <= times["decode"]["host_ms"]["p90"]
    assert f"{times['decode']['num_steps']} steps of decode rows" in said and "steps with prompts" in said
    assert len(list(traces.iterdir())) == 1
    assert texts(chart)[0].endswith("output tokens a second")


def test_latency_runs_are_listed(tmp_path: Path):
    flags = ["--model", str(checkpoint("llama")), "--batch-size", "2", "--num-iters", "3", *TINY]
    found, chart = run("latency", tmp_path, *flags)
    assert len(found["runs_s"]) == 3 and found["latency_s"]["mean"] == pytest.approx(sum(found["runs_s"]) / 3, abs=1e-3)
    assert texts(chart)[1::2] == ["run 1", "run 2", "run 3"]


def test_progress_is_bounded():
    answers = [
        RequestOutput(
            str(i), None, [1], [CompletionOutput(0, "", [5, 6])], True, metrics=RequestMetrics(0.0, 0.0, 10.0 + i)
        )
        for i in range(1000)
    ]
    points = _progress(answers, 9.0)
    assert len(points) <= MAX_POINTS + 1 and points[0] == (1.0, 2) and points[-1] == (1000.0, 2000)


def test_a_cold_start_and_warm_ones(monkeypatch: pytest.MonkeyPatch):
    seen: list[str] = []

    def one(args, timeout_s, environment):
        seen.append(environment["KVASIR_CACHE_DIR"])
        assert list(Path(seen[-1]).iterdir()) == [Path(seen[-1]) / "kept"] * (len(seen) > 1)
        (Path(seen[-1]) / "kept").touch()
        return 3.0 / len(seen), 4.0 / len(seen)

    monkeypatch.setattr(starting, "_one", one)
    found = {"bench": "startup", **starting.startup([], iterations=3, timeout_s=1.0, cold=True)}
    assert len(set(seen)) == 1 and not Path(seen[0]).exists()
    assert found["cold"] and found["first_run"] == {"healthy_s": 3.0, "first_token_s": 4.0} and len(found["runs"]) == 3
    assert "start 2, healthy" in texts(plot_of(found))


def test_a_server_traces_while_it_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    from kvasir.entrypoints.http.settings import ServerSettings

    engine = FakeEngine()
    flags = ["--num-prompts", "2", "--input-len", "4", "--output-len", "2", "--no-progress", "--profile"]
    with serving(engine, ServerSettings(profile=True)) as live:
        _, chart = run("serve", tmp_path, "--base-url", live.url, *flags)
        assert not hasattr(engine, "profile_steps"), "it was started, and stopped"
    assert any(text.startswith("ttft") for text in texts(chart))
    with serving(FakeEngine()) as live:
        assert main(["bench", "serve", "--base-url", live.url, *flags]) == 2
    assert "--profile DIR" in capsys.readouterr().err
