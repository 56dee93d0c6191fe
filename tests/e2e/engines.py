"""Engines for the end-to-end tests: tiny float32 models through the whole stack, and transformers as the judge."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from kvasir import LLM
from kvasir.messages import SchedulerStats
from tests.fixtures import checkpoint, reference_model

DEFAULTS = dict(dtype="float32", max_num_seqs=8, cpu_threads=1, seed=1)


@contextmanager
def engine(model: str, **options: Any) -> Iterator[LLM]:
    """An LLM over a tiny checkpoint (or a path, or the bundled model); closed at the end, blocks audited."""
    path = model if model == "kvasir-demo" else str(checkpoint(model))
    llm = LLM(path, **{**DEFAULTS, **options})
    try:
        yield llm
        llm.llm_engine.client.call("check_integrity")
    finally:
        llm.shutdown()


def texts(*lengths: int) -> list[str]:
    """Prompts of about so many tokens, all different; whole letters, since an answer's text continues its prompt's."""
    return [f"{i}: " + "the list of a name " * (n // 6) for i, n in enumerate(lengths)]


def random_prompts(seed: int, lengths: list[int], vocab: int = 700) -> list[list[int]]:
    """Token ids above the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(10, vocab, (n,), generator=generator).tolist() for n in lengths]


@functools.cache
def _reference(model: str, prompt: tuple[int, ...], num_tokens: int) -> tuple[tuple[int, ...], torch.Tensor]:
    reference = reference_model(model)
    ids = torch.tensor([prompt])
    with torch.no_grad():
        for _ in range(num_tokens):
            ids = torch.cat([ids, reference(ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        logprobs = reference(ids).logits[0].float().log_softmax(-1)  # [T, V]
    return tuple(ids[0, len(prompt) :].tolist()), logprobs


def reference_greedy(model: str, prompt: list[int], num_tokens: int) -> tuple[list[int], torch.Tensor]:
    """transformers' greedy continuation, no cache, and its log-probabilities of every position [T, V]."""
    tokens, logprobs = _reference(model, tuple(prompt), num_tokens)
    return list(tokens), logprobs


class Totals:
    """Sums of the scheduler's reports since this was made."""

    def __init__(self, llm: LLM):
        self.num_preempted = 0
        llm.llm_engine.add_stats_listener(self._add)

    def _add(self, stats: SchedulerStats) -> None:
        self.num_preempted += stats.num_preempted
