"""Offline prefill and decode on this CPU, with the native library and without: a JSON line for each batch size.

    python benchmarks/cpu_offline.py                                      # Qwen3-0.6B's shape, random weights, bf16
    python benchmarks/cpu_offline.py --model kvasir-demo --dtype float32 --prompt-len 64 --output-len 64

Each round starts a process with KVASIR_NATIVE=0 and one without, in turn, so that a busy neighbour slows both.
Prefill: prompt tokens a second of requests that want one token. Decode: output tokens a second behind prompts of 16
tokens, less the time of the first; so little of it is prefill that a busy moment cannot turn the difference around.
Each time is the best of three, each row the median over rounds.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time

DECODE_PROMPT_LEN = 16
WAYS = {"cpp": "auto", "torch": "0"}  # name -> KVASIR_NATIVE


def measure(args: argparse.Namespace) -> list[dict]:
    from kvasir import LLM, SamplingParams  # before torch, whose waiting threads the engine tells to sleep

    dummy = {} if args.model == "kvasir-demo" else {"load_format": "dummy", "skip_tokenizer_init": True}
    longest = max(args.prompt_len, DECODE_PROMPT_LEN) + args.output_len + 1
    llm = LLM(args.model, dtype=args.dtype, max_model_len=longest, kv_cache_memory=2 << 30,
              enable_prefix_caching=False, **dummy)  # fmt: skip
    rng = random.Random(0)

    def seconds(batch: int, tokens: int, prompt_len: int) -> float:
        prompts = [{"prompt_token_ids": [rng.randint(5, 400) for _ in range(prompt_len)]} for _ in range(batch)]
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        begin = time.perf_counter()
        llm.generate(prompts, params, use_tqdm=False)
        return time.perf_counter() - begin

    rows = []
    for batch in args.batches:
        seconds(batch, 2, args.prompt_len)
        prefill = min(seconds(batch, 1, args.prompt_len) for _ in range(3))
        first = min(seconds(batch, 1, DECODE_PROMPT_LEN) for _ in range(3))
        whole = min(seconds(batch, 1 + args.output_len, DECODE_PROMPT_LEN) for _ in range(3))
        rows.append({
            "batch": batch, "prefill_tok_s": batch * args.prompt_len / prefill,
            "decode_tok_s": batch * args.output_len / (whole - first),
        })  # fmt: skip
    llm.shutdown()
    return rows


def child(native: str) -> list[dict]:
    env = {**os.environ, "KVASIR_NATIVE": native, "KVASIR_LOG_LEVEL": "ERROR"}
    done = subprocess.run([sys.executable, *sys.argv, "--child"], env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="benchmarks/models/qwen3-0.6b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--prompt-len", type=int, default=256)
    parser.add_argument("--output-len", type=int, default=24)
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args)))
        return
    runs: dict[str, list[list[dict]]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, native in WAYS.items():
            runs[way].append(child(native))
    for i, batch in enumerate(args.batches):
        row: dict[str, object] = {"model": args.model.split("/")[-1], "dtype": args.dtype, "batch": batch,
                                  "prompt_len": args.prompt_len, "output_len": args.output_len}  # fmt: skip
        for what in ("prefill_tok_s", "decode_tok_s"):
            for way in WAYS:
                values = [run[i][what] for run in runs[way]]
                row[f"{way}_{what}"] = round(statistics.median(values), 1)
                row[f"{way}_{what}_of"] = [round(value, 1) for value in values]
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
