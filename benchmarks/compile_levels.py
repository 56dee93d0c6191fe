r"""Compiled forward passes beside the eager one: over the same weights, taking turns, so that a busy machine is fair.

    python benchmarks/compile_levels.py                                             # the bundled model
    python benchmarks/compile_levels.py --model benchmarks/models/qwen3-0.6b --dummy --batch 4 --output-len 16 --rounds 6

    python benchmarks/compile_levels.py --model benchmarks/models/qwen3-0.6b --dummy --levels 0 1 2 3 \
        --batch 32 --input-len 256 --output-len 64                                  # on a card

One JSON object a line: milliseconds of a step, best tenth and median over all rounds, of the prompts' step and of decode
steps, plain loop. On a CPU, engines of different processes differ by 10 % and more in where their weights lie, whatever
they run, so the two passes share one engine. On a card captured steps hold one of the two, so each level has its own.
"""

import argparse
import json
import random
import time

from kvasir import LLM, SamplingParams


def one_round(llm: LLM, args: argparse.Namespace, seed: int) -> tuple[float, list[float]]:
    """Seconds of the prompts' step, and of the decode steps."""
    rng = random.Random(seed)
    params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=args.output_len, detokenize=False)
    for i in range(args.batch):
        prompt = [rng.randrange(10, 250) for _ in range(args.input_len)]
        llm.llm_engine.add_request(f"{seed}-{i}", prompt, params)
    steps = []
    while llm.llm_engine.has_unfinished_requests():
        started = time.perf_counter()
        llm.llm_engine.step()
        steps.append(time.perf_counter() - started)
    return steps[0], steps[1:-1]


def compare(level: int, args: argparse.Namespace) -> None:
    more = {"load_format": "dummy", "skip_tokenizer_init": True} if args.dummy else {}
    started = time.perf_counter()
    llm = LLM(
        args.model, optimization_level=level, async_scheduling=False, max_num_seqs=args.batch, dtype=args.dtype,
        max_model_len=args.input_len + args.output_len + 16, enable_prefix_caching=False,
        max_num_batched_tokens=max(args.batch * args.input_len, args.batch),
        compilation_config={"custom_ops": args.custom_ops} if args.custom_ops else {}, **more,
    )
    start_s = time.perf_counter() - started
    worker = llm.llm_engine.client._core.executor._worker
    model = worker.runner.model
    one_round(llm, args, 0)
    passes = {"compiled" if "forward" in vars(model) else "eager": model.forward}
    if worker.device.type == "cpu":
        passes = {"eager": type(model).forward.__get__(model)} | passes
    prompts, decodes = {name: [] for name in passes}, {name: [] for name in passes}
    for seed in range(1, args.rounds + 1):
        for name, forward in passes.items():
            model.forward = forward
            first, rest = one_round(llm, args, seed)
            prompts[name].append(first)
            decodes[name] += rest
    for name in passes:
        row = {"level": level, "start_s": round(start_s, 2), "forward": name}
        for kind, values in (("prompt", sorted(prompts[name])), ("decode", sorted(decodes[name]))):
            row |= {f"{kind}_p10_ms": round(values[len(values) // 10] * 1e3, 3),
                    f"{kind}_p50_ms": round(values[len(values) // 2] * 1e3, 3)}
        print(json.dumps(row), flush=True)
    llm.shutdown()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="kvasir-demo")
    parser.add_argument("--dummy", action="store_true", help="random weights, no tokenizer")
    parser.add_argument("--levels", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--custom-ops", nargs="*", default=[])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--input-len", type=int, default=64)
    parser.add_argument("--output-len", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--dtype", default="auto")
    args = parser.parse_args()
    for level in args.levels:
        compare(level, args)


if __name__ == "__main__":
    main()
