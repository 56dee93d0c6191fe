"""Compiled engines, for tests on CPUs and on cards."""

import contextlib
from collections.abc import Iterator

import pytest

from kvasir import LLM, SamplingParams
from kvasir.compilation import forward as compiling
from tests.e2e.engines import engine, random_prompts

LENGTHS = [70, 3, 33, 1, 48, 9, 17]


@contextlib.contextmanager
def compiled_engine(model: str, **options) -> Iterator[tuple[LLM, list]]:
    """An engine, and what was compiled for it."""
    found: list = []
    original = compiling.compile_forward

    def note(*args, **more):
        found.append(original(*args, **more))
        return found[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiling, "compile_forward", note)
        with engine(model, **options) as llm:
            yield llm, found


def answers(llm: LLM, seed: int = 0) -> list:
    """Tokens and log-probabilities of prompts of all lengths, some greedy, some drawn; of one also the prompt's.

    So steps are of both forms: for all tokens, and for those that are sampled from.
    """
    prompts = random_prompts(seed, LENGTHS)
    params = [
        SamplingParams(
            max_tokens=6 + i,
            temperature=float(i % 2),
            seed=i,
            logprobs=2,
            prompt_logprobs=1 if i == 2 else None,
            ignore_eos=True,
        )
        for i in range(len(prompts))
    ]
    found = []
    for output in llm.generate(prompts, params, use_tqdm=False):
        steps = [*(output.prompt_logprobs or [])[1:], *output.outputs[0].logprobs]
        found.append((output.outputs[0].token_ids, [p.logprob for step in steps for p in step.values()]))
    return found
