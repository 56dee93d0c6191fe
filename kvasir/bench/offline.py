"""`kvasir bench throughput` and `latency`: the `LLM` class, timed."""

import time
from typing import TYPE_CHECKING, Any

from kvasir.bench.stats import summary
from kvasir.bench.workload import Ask, random_tokens
from kvasir.config import EngineArgs
from kvasir.errors import ConfigError
from kvasir.messages import RequestOutput, SchedulerStats, StepPhases
from kvasir.observability.step_report import add_phases, no_phases, phase_figures

if TYPE_CHECKING:
    from kvasir import LLM

MAX_POINTS = 200
"""Of a chart."""


def throughput(
    args: EngineArgs,
    *,
    num_prompts: int,
    input_len: int,
    output_len: int,
    spread: float,
    seed: int,
    vocab: tuple[int, int],
    warmups: int = 0,
) -> dict[str, Any]:
    """All prompts at once, as fast as they go, after `warmups` runs of the same shape with other prompts."""
    from kvasir import LLM, SamplingParams

    if num_prompts < 1:
        raise ConfigError(f"--num-prompts must be at least 1, got {num_prompts}.")

    def draw(seed: int) -> list[Ask]:
        return random_tokens(num_prompts, input_len, output_len, seed=seed, vocab=vocab, spread=spread)

    asks = draw(seed)
    prompts = _ids(asks)
    params = [
        SamplingParams(temperature=1.0, ignore_eos=True, max_tokens=a.output_len, detokenize=False, seed=seed + i)
        for i, a in enumerate(asks)
    ]
    llm = LLM.from_engine_args(args)
    try:
        llm.generate(prompts[:1], params[:1], use_tqdm=False)  # what is made lazily is made now
        for i in range(warmups):  # and what depends on the number of rows
            llm.generate(_ids(draw(seed + 2 + i)), params, use_tqdm=False)
        phases = _watch_phases(llm)
        start, began = time.perf_counter(), time.time()
        outputs = llm.generate(prompts, params)
        duration = time.perf_counter() - start
        step_times = phase_figures(phases)  # before there is a trace, which takes time
        if args.profile is not None:
            _trace(llm, _ids(draw(seed + 1)), params)
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
        "progress": _progress(outputs, began),
        **({"step_times": step_times} if step_times else {}),
    }


def _ids(asks: list[Ask]) -> list[list[int]]:
    return [list(ask.token_ids) for ask in asks]


def _progress(outputs: list[RequestOutput], began: float) -> list[tuple[float, int]]:
    """(seconds, output tokens of the answers that had ended by then), at no more than MAX_POINTS times."""
    ends = sorted((o.metrics.last_token_time - began, len(o.outputs[0].token_ids)) for o in outputs)
    every, total, points = max(1, len(ends) // MAX_POINTS), 0, []
    for i, (seconds, tokens) in enumerate(ends):
        total += tokens
        if i % every == 0 or i == len(ends) - 1:
            points.append((seconds, total))
    return points


def _watch_phases(llm: "LLM") -> StepPhases:
    """Sums of what the engine reports from now on, which is nothing unless --enable-step-times is given."""
    llm.llm_engine.client.call("stats")  # what was measured so far
    sums = no_phases()

    def listen(stats: SchedulerStats) -> None:
        if stats.measured is not None:
            add_phases(sums, stats.measured)

    llm.llm_engine.add_stats_listener(listen)
    return sums


def _trace(llm: "LLM", prompts: list[list[int]], params: Any) -> None:
    """A run of its own for the profiler, since tracing costs time; the prompts are new, so that no prefix is shared."""
    llm.start_profile()
    llm.generate(prompts, params, use_tqdm=False)
    llm.stop_profile()


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
            prompts = _ids(asks)
            start = time.perf_counter()
            llm.generate(prompts, params, use_tqdm=False)
            if i >= warmups:
                seconds.append(time.perf_counter() - start)
        if args.profile is not None:
            _trace(llm, _ids(random_tokens(batch_size, input_len, output_len, seed=seed - 1, vocab=vocab)), params)
    finally:
        llm.llm_engine.shutdown()
    return {
        "batch_size": batch_size,
        "input_len": input_len,
        "output_len": output_len,
        "iterations": iterations,
        "runs_s": seconds,
        "latency_s": summary(seconds, (10.0, 50.0, 90.0, 99.0)),
    }
