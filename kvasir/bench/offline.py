"""`kvasir bench throughput` and `latency`: the `LLM` class, timed."""

import time
from typing import Any

from kvasir.bench.stats import summary
from kvasir.bench.workload import random_tokens
from kvasir.config import EngineArgs
from kvasir.errors import ConfigError


def throughput(
    args: EngineArgs,
    *,
    num_prompts: int,
    input_len: int,
    output_len: int,
    spread: float,
    seed: int,
    vocab: tuple[int, int],
) -> dict[str, Any]:
    """All prompts at once, as fast as they go."""
    from kvasir import LLM, SamplingParams

    if num_prompts < 1:
        raise ConfigError(f"--num-prompts must be at least 1, got {num_prompts}.")
    asks = random_tokens(num_prompts, input_len, output_len, seed=seed, vocab=vocab, spread=spread)
    prompts = [list(a.token_ids) for a in asks]
    params = [
        SamplingParams(temperature=1.0, ignore_eos=True, max_tokens=a.output_len, detokenize=False, seed=seed + i)
        for i, a in enumerate(asks)
    ]
    llm = LLM.from_engine_args(args)
    try:
        llm.generate(prompts[:1], params[:1], use_tqdm=False)  # what is made lazily is made now
        start = time.perf_counter()
        outputs = llm.generate(prompts, params)
        duration = time.perf_counter() - start
    finally:
        llm.llm_engine.shutdown()
    prompt_tokens = sum(len(o.prompt_token_ids) for o in outputs)
    output_tokens = sum(len(o.outputs[0].token_ids) for o in outputs)
    return {
        "num_prompts": num_prompts,
        "input_len": input_len,
        "output_len": output_len,
        "duration_s": duration,
        "prompt_tokens": prompt_tokens,
        "output_tokens": output_tokens,
        "requests_per_s": num_prompts / duration,
        "output_tokens_per_s": output_tokens / duration,
        "total_tokens_per_s": (prompt_tokens + output_tokens) / duration,
    }


def latency(
    args: EngineArgs,
    *,
    batch_size: int,
    input_len: int,
    output_len: int,
    warmups: int,
    iterations: int,
    seed: int,
    vocab: tuple[int, int],
) -> dict[str, Any]:
    """One batch from start to end, again and again, each time with other prompts so that no prefix is shared."""
    from kvasir import LLM, SamplingParams

    if batch_size < 1 or iterations < 1:
        raise ConfigError("--batch-size and --num-iters must be at least 1.")
    llm = LLM.from_engine_args(args)
    params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=output_len, detokenize=False)
    seconds = []
    try:
        for i in range(warmups + iterations):
            asks = random_tokens(batch_size, input_len, output_len, seed=seed + i, vocab=vocab)
            prompts = [list(a.token_ids) for a in asks]
            start = time.perf_counter()
            llm.generate(prompts, params, use_tqdm=False)
            if i >= warmups:
                seconds.append(time.perf_counter() - start)
    finally:
        llm.llm_engine.shutdown()
    return {
        "batch_size": batch_size,
        "input_len": input_len,
        "output_len": output_len,
        "iterations": iterations,
        "latency_s": summary(seconds, (10.0, 50.0, 90.0, 99.0)),
    }
