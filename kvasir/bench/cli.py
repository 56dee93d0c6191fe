"""`kvasir bench KIND`: flags in, text and JSON out."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from kvasir.bench.stats import rounded
from kvasir.config import EngineArgs
from kvasir.config.cli import OptionParser
from kvasir.errors import ConfigError


def run(argv: Sequence[str]) -> int:
    kinds: dict[str, tuple[Callable[[Sequence[str]], int], str]] = {
        "throughput": (_throughput, "offline: many prompts at once"),
        "latency": (_latency, "offline: one batch, again and again"),
        "serve": (_serve, "load on any OpenAI-compatible server"),
        "startup": (_startup, "from the command to the first token"),
        "kernels": (_kernels, "the ops alone, beside the memory's bandwidth"),
    }
    if not argv or argv[0] not in kinds:
        rows = "\n".join(f"  {name:<12s}{text}" for name, (_, text) in kinds.items())
        asked_for_help = bool(argv) and argv[0] in ("-h", "--help")
        print(
            f"usage: kvasir bench KIND [options]\n\nkinds:\n{rows}", file=sys.stdout if asked_for_help else sys.stderr
        )
        return 0 if asked_for_help else 2
    return kinds[argv[0]][0](argv[1:])


def _throughput(argv: Sequence[str]) -> int:
    from kvasir.bench.offline import throughput
    from kvasir.observability.step_report import figure_lines

    parser = _parser("throughput", "Tokens per second of the LLM class with all prompts at once.")
    _add_shape(parser, num_prompts=64, input_len=128, output_len=64)
    parser.add_argument(
        "--num-warmups", type=int, default=0, metavar="N", help="Runs of the same shape before the one that counts. [0]"
    )
    EngineArgs.add_cli_args(parser)
    given = parser.parse_args(argv)
    found = throughput(
        EngineArgs.from_cli_args(given),
        num_prompts=given.num_prompts,
        input_len=given.input_len,
        output_len=given.output_len,
        spread=given.length_spread,
        seed=given.bench_seed,
        vocab=_vocab(given.vocab),
        warmups=given.num_warmups,
    )
    text = (
        f"{found['num_prompts']} prompts in {found['duration_s']:.2f} s: {found['requests_per_s']:.2f} req/s, "
        f"{found['output_tokens_per_s']:.1f} output tok/s, {found['total_tokens_per_s']:.1f} total tok/s"
    )
    text = "\n".join([text, *figure_lines(found.get("step_times", {}))])
    return _show("throughput", found, text, given)


def _latency(argv: Sequence[str]) -> int:
    from kvasir.bench.offline import latency

    parser = _parser("latency", "Seconds from start to end of one batch.")
    _add_shape(parser, num_prompts=None, input_len=32, output_len=128)
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="Prompts in the batch. [8]")
    parser.add_argument(
        "--num-iters-warmup", type=int, default=2, metavar="N", help="Runs before those that count. [2]"
    )
    parser.add_argument("--num-iters", type=int, default=10, metavar="N", help="Runs that count. [10]")
    EngineArgs.add_cli_args(parser)
    given = parser.parse_args(argv)
    found = latency(
        EngineArgs.from_cli_args(given),
        batch_size=given.batch_size,
        input_len=given.input_len,
        output_len=given.output_len,
        warmups=given.num_iters_warmup,
        iterations=given.num_iters,
        seed=given.bench_seed,
        vocab=_vocab(given.vocab),
    )
    return _show("latency", found, _figures("batch latency s", found["latency_s"]), given)


def _serve(argv: Sequence[str]) -> int:
    import asyncio

    import uvloop

    from kvasir.bench.client import Target
    from kvasir.bench.serve import ServeBench, ServeLoad, as_text
    from kvasir.bench.workload import demo_questions, random_tokens

    given = _serve_parser().parse_args(argv)
    count, seed = given.num_prompts, given.bench_seed
    if given.dataset == "demo":
        asks = demo_questions(count, given.output_len, seed=seed)
    else:
        asks = random_tokens(
            count,
            given.input_len,
            given.output_len,
            seed=seed,
            vocab=_vocab(given.vocab),
            spread=given.length_spread,
            prefix_len=given.prefix_len,
        )
    sampling: dict[str, Any] = {"temperature": given.temperature}
    if given.ignore_eos if given.ignore_eos is not None else given.dataset == "random":
        sampling["ignore_eos"] = True
    sampling |= _json_object("--extra-body", given.extra_body)
    load = ServeLoad(
        given.request_rate, given.burstiness, given.max_concurrency, given.num_warmups, given.timeout, given.bench_seed
    )
    target = Target.parse(given.base_url or f"http://{given.host}:{given.port}", given.api_key)
    bench = ServeBench(target, given.model, load, sampling, profile=given.profile)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(bench.run(asks, given.percentiles, progress=not given.no_progress))
    found["dataset"] = given.dataset
    return _show("serve", found, as_text(found), given) or (1 if found["completed"] == 0 else 0)


def _serve_parser() -> argparse.ArgumentParser:
    parser = _parser("serve", "Send a workload to an OpenAI-compatible server and time its streams.")
    _add_shape(parser, num_prompts=100, input_len=128, output_len=64)
    add = parser.add_argument
    add("--base-url", metavar="URL", help="The server, such as http://localhost:8000; wins over --host and --port.")
    add("--host", default="127.0.0.1", help="[127.0.0.1]")
    add("--port", type=int, default=8000, help="[8000]")
    add("--api-key", metavar="KEY", help="Sent as a bearer token.")
    add("--model", metavar="NAME", help="Model to ask for; the server's first if left out.")
    add("--dataset", choices=("random", "demo"), default="random", help="Random token ids, or questions. [random]")
    add("--prefix-len", type=int, default=0, metavar="N", help="First tokens that all random prompts share. [0]")
    add("--request-rate", type=float, default=float("inf"), metavar="X", help="Requests per second. [inf]")
    add("--burstiness", type=float, default=1.0, metavar="X", help="1: Poisson arrivals; more: more even. [1]")
    add("--max-concurrency", type=int, metavar="N", help="Requests in flight at most.")
    add("--num-warmups", type=int, default=1, metavar="N", help="Requests sent before the measurement. [1]")
    add("--temperature", type=float, default=0.0, metavar="X", help="[0]")
    add("--ignore-eos", action=argparse.BooleanOptionalAction, help="Full-length answers. [on for random]")
    add("--extra-body", metavar="JSON", help="Fields put into each request.")
    add("--percentiles", type=_percentiles, default=(50.0, 99.0), metavar="P,P", help="[50,99]")
    add("--timeout", type=float, default=600.0, metavar="S", help="Seconds after which a request has failed. [600]")
    add("--no-progress", action="store_true", help="No progress bar.")
    add("--profile", action="store_true", help="Have the server trace the measured run (it needs --profile DIR).")
    return parser


def _startup(argv: Sequence[str]) -> int:
    from kvasir.bench.startup import startup

    parser = _parser("startup", "Start `kvasir serve` in fresh processes; other flags are handed to it.")
    parser.add_argument("--num-iters", type=int, default=3, metavar="N", help="Starts. [3]")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="Seconds a start may take. [600]")
    parser.add_argument("--cold", action="store_true", help="Begin with an empty KVASIR_CACHE_DIR, kept for the rest.")
    given, rest = parser.parse_known_args(argv)
    found = startup(rest, iterations=given.num_iters, timeout_s=given.timeout, cold=given.cold)
    text = f"{_figures('healthy s', found['healthy_s'])}\n{_figures('first token s', found['first_token_s'])}"
    return _show("startup", found, text, given)


def _kernels(argv: Sequence[str]) -> int:
    from kvasir.utils.cards import first_card

    parser = _parser("kernels", "Time the ops through their faces, and the memory they are bound by.")
    add = parser.add_argument
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="[auto]")
    add("--dtype", default=None, help="float32, bfloat16 or float16. [float32 on CPU, bfloat16 on a card]")
    add("--tokens", type=int, nargs="+", default=[1, 32, 256], metavar="N", help="Tokens of a step. [1 32 256]")
    add("--ops", nargs="+", default=[], metavar="OP", help="Only these. [all]")
    add("--hidden-size", type=int, default=1024, metavar="N", help="[1024]")
    add("--intermediate-size", type=int, default=3072, metavar="N", help="[3072]")
    add("--num-heads", type=int, default=16, metavar="N", help="[16]")
    add("--num-kv-heads", type=int, default=8, metavar="N", help="[8]")
    add("--head-size", type=int, default=128, metavar="N", help="[128]")
    add("--repeats", type=int, default=7, metavar="N", help="Timings, of which the median counts. [7]")
    add("--cpu-threads", type=int, default=None, metavar="N", help="[torch's own choice]")
    add(
        "--working-set-mib", type=int, default=None, metavar="N", help="Read by one timing. [192 on CPU, 512 on a card]"
    )
    given = parser.parse_args(argv)
    device = given.device if given.device != "auto" else ("cuda" if first_card() else "cpu")
    from kvasir.bench.worker import Sizes, kernels

    found = kernels(
        device=device,
        dtype=given.dtype or ("float32" if device == "cpu" else "bfloat16"),
        tokens=given.tokens,
        sizes=Sizes(given.hidden_size, given.intermediate_size, given.num_heads, given.num_kv_heads, given.head_size),
        only=given.ops,
        repeats=given.repeats,
        threads=given.cpu_threads,
        working_set=given.working_set_mib and given.working_set_mib << 20,
    )
    lines = [f"{found['device']}, {found['dtype']}: memory read at {found['bandwidth_gb_s']:.1f} GB/s"]
    for k in found["kernels"]:
        lines.append(
            f"{k['op']:<18s}{k['shape']:<22s}{k['us']:10.1f} us{k['gb_s']:9.1f} GB/s{k['fraction']:8.0%}  "
            f"{k['implementation']}" + (f", {k['gflop_s']:.0f} GFLOP/s" if k["gflop_s"] else "")
        )
    return _show("kernels", found, "\n".join(lines), given)


def _parser(kind: str, description: str) -> argparse.ArgumentParser:
    parser = OptionParser(f"kvasir bench {kind}", description=description)
    parser.add_argument("--json", action="store_true", help="Print JSON in place of text.")
    parser.add_argument("--output", "--output-json", metavar="FILE", help="Write the JSON to a file as well.")
    parser.add_argument("--plot", metavar="FILE.svg", help="Draw a chart into a file.")
    return parser


def _add_shape(parser: argparse.ArgumentParser, *, num_prompts: int | None, input_len: int, output_len: int) -> None:
    add = parser.add_argument
    if num_prompts is not None:
        add("--num-prompts", type=int, default=num_prompts, metavar="N", help=f"Requests. [{num_prompts}]")
        add("--length-spread", type=float, default=0.0, metavar="X", help="Lengths vary by this share. [0]")
    add("--input-len", type=int, default=input_len, metavar="N", help=f"Tokens of a prompt. [{input_len}]")
    add("--output-len", type=int, default=output_len, metavar="N", help=f"Tokens of an answer. [{output_len}]")
    add("--vocab", default="10:250", metavar="LOW:HIGH", help="Token ids that random prompts are drawn from. [10:250]")
    add("--bench-seed", type=int, default=0, metavar="N", help="Seed of the workload. [0]")


def _vocab(text: str) -> tuple[int, int]:
    try:
        low, high = text.split(":")
        return int(low), int(high)
    except ValueError:
        raise ConfigError(f"--vocab is {text!r}: give LOW:HIGH, such as 10:250.") from None


def _percentiles(text: str) -> tuple[float, ...]:
    values = tuple(float(p) for p in text.split(","))
    if not all(0.0 <= p <= 100.0 for p in values):
        raise argparse.ArgumentTypeError(f"{text!r}: percentiles are between 0 and 100")
    return values


def _json_object(flag: str, text: str | None) -> dict[str, Any]:
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError as e:
        raise ConfigError(f"{flag} is no JSON: {e}.") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{flag} must be a JSON object.")
    return value


def _figures(label: str, figures: dict[str, Any]) -> str:
    return f"{label}: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items())


def _show(kind: str, found: dict[str, Any], text: str, given: argparse.Namespace) -> int:
    found = {"bench": kind, **rounded(found)}
    print(json.dumps(found, indent=2) if given.json else text)
    if given.output:
        with open(given.output, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=2)
            file.write("\n")
    if given.plot:
        from kvasir.bench.plot import plot_of

        with open(given.plot, "w", encoding="utf-8") as file:
            file.write(plot_of(found))
    return 0
