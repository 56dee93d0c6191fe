"""Traces for the simulation: arrivals by chance, answers as unevenly long as real ones."""

import random

from kvasir.testing.simulation import Arrival, Machine

MACHINE = Machine(num_blocks=1024, max_num_seqs=64)
"""About 8 requests of `chat` a second fill it."""


def chat(
    rate: float,
    seconds: float,
    *,
    seed: int = 0,
    prompt: tuple[int, int] = (50, 800),
    mean_output: int = 200,
    max_tokens: int = 1024,
    **more,
) -> list[Arrival]:
    rng, at, trace = random.Random(seed), 0.0, []
    while (at := at + rng.expovariate(rate)) < seconds:
        num_output = min(max_tokens, max(1, int(rng.lognormvariate(0.0, 0.8) * mean_output)))
        trace.append(Arrival(at, rng.randint(*prompt), num_output, max_tokens, **more))
    return trace
