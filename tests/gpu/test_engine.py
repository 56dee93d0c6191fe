"""The whole engine on the card: float32 answers equal to transformers', bf16 ones up to near-ties."""

from typing import Any

import pytest
import torch

from kvasir import SamplingParams
from tests.e2e.engines import engine, random_prompts, reference_greedy
from tests.fixtures import CHECKPOINTS

NUM_TOKENS = 12
GREEDY = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=1)
NEAR_TIE = 0.05  # log-probability gap below which bf16 rounding may choose otherwise


@pytest.fixture(autouse=True)
def full_float32() -> Any:
    """float32 products in float32, not tf32: that is what "equal" is measured with."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("model", CHECKPOINTS)
@pytest.mark.parametrize("chunk", [16, 2048])
def test_float32_equals_transformers(model: str, chunk: int) -> None:
    prompts = random_prompts(21, [3, 17, 40, 64, 5, 90])
    with engine(model, device="cuda", max_num_batched_tokens=chunk, kv_cache_memory="64MiB") as llm:
        outputs = llm.generate(prompts, GREEDY, use_tqdm=False)
    for prompt, output in zip(prompts, outputs, strict=True):
        tokens, logprobs = reference_greedy(model, prompt, NUM_TOKENS)
        assert output.outputs[0].token_ids == tokens
        for i, entry in enumerate(output.outputs[0].logprobs):
            assert entry[tokens[i]].logprob == pytest.approx(logprobs[len(prompt) - 1 + i, tokens[i]].item(), abs=1e-3)


@pytest.mark.parametrize("options", [{}, {"num_gpu_blocks_override": 16, "max_model_len": 160}])
def test_sampled_tokens_are_the_cpus(options: dict[str, Any]) -> None:
    prompts = random_prompts(22, [4, 30, 19, 44, 8, 25, 13])
    params = [SamplingParams(temperature=0.9, seed=i, max_tokens=20, ignore_eos=True) for i in range(len(prompts))]
    found = []
    for device in ("cpu", "cuda"):
        with engine("qwen3", device=device, **options) as llm:
            found.append([o.outputs[0].token_ids for o in llm.generate(prompts, params, use_tqdm=False)])
    assert found[0] == found[1]


@pytest.mark.parametrize("model", ["llama", "qwen3"])
def test_bfloat16_up_to_near_ties(model: str) -> None:
    prompts = random_prompts(23, [12, 50, 33])
    params = SamplingParams(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=2)
    with engine(model, device="cuda", dtype="bfloat16", kv_cache_memory="64MiB") as llm:
        outputs = llm.generate(prompts, params, use_tqdm=False)
        again = llm.generate(prompts, params, use_tqdm=False)
    assert [o.outputs[0].token_ids for o in outputs] == [o.outputs[0].token_ids for o in again]
    for prompt, output in zip(prompts, outputs, strict=True):
        tokens, logprobs = reference_greedy(model, prompt, NUM_TOKENS)
        for i, token in enumerate(output.outputs[0].token_ids):
            if token != tokens[i]:
                row = logprobs[len(prompt) - 1 + i]
                assert (row[tokens[i]] - row[token]).item() < 4 * NEAR_TIE
                break


def test_many_mixed_requests_end_and_repeat() -> None:
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 200, (300,), generator=generator).tolist()
    prompts = random_prompts(24, lengths)
    params = [
        SamplingParams(temperature=0.8 * (i % 2), seed=i, max_tokens=5 + i % 30, top_k=20 * (i % 3), ignore_eos=True)
        for i in range(len(prompts))
    ]
    options = dict(device="cuda", max_num_seqs=64, num_gpu_blocks_override=200, max_model_len=512)
    answers = []
    for loop in (False, True):
        with engine("qwen3", async_scheduling=loop, **options) as llm:
            answers.append([o.outputs[0].token_ids for o in llm.generate(prompts, params, use_tqdm=False)])
    assert answers[0] == answers[1]


def test_captured_steps_change_no_answer() -> None:
    """Decode steps, mixed steps, limits, processors and log-probabilities: replayed or launched one by one."""
    lengths = torch.randint(1, 90, (240,), generator=torch.Generator().manual_seed(2)).tolist()
    prompts = random_prompts(25, lengths)
    kinds: list[dict[str, Any]] = [
        {"temperature": 0.0}, {"temperature": 0.9}, {"top_k": 5},
        {"top_p": 0.7}, {"logprobs": 2}, {"presence_penalty": 0.5},
    ]  # fmt: skip
    params = [
        SamplingParams(**{"seed": i, "max_tokens": 4 + i % 20, "ignore_eos": True, **kinds[i % len(kinds)]})
        for i in range(len(prompts))
    ]
    options = dict(device="cuda", max_num_seqs=24, num_gpu_blocks_override=100, max_model_len=256)
    answers = {}
    for mode in ("none", "full_decode_only", "full"):
        with engine("qwen3", cudagraph_mode=mode, **options) as llm:
            answers[mode] = [o.outputs[0].token_ids for o in llm.generate(prompts, params, use_tqdm=False)]
    with engine("qwen3", device="cpu", max_num_seqs=24) as llm:
        answers["cpu"] = [o.outputs[0].token_ids for o in llm.generate(prompts, params, use_tqdm=False)]
    assert answers["none"] == answers["cpu"]
    assert answers["full_decode_only"] == answers["none"]
    assert answers["full"] == answers["none"]


def test_the_bundled_model_answers_on_the_card_as_on_the_cpu() -> None:
    chats = [
        [{"role": "user", "content": text}]
        for text in ("What is 12 + 345?", "Reverse the word lantern.", "Convert 5 km to m.")
    ]
    params = SamplingParams(temperature=0.0, max_tokens=40)
    found = []
    for device in ("cpu", "cuda"):
        with engine("kvasir-demo", device=device) as llm:
            found.append([o.outputs[0].text for o in llm.chat(chats, params, use_tqdm=False)])
    assert found[0] == found[1]


def test_a_shared_prefix_changes_no_answer() -> None:
    """Enough rows with a long common beginning take a graph and kernels of their own."""
    (prefix,) = random_prompts(26, [640])
    prompts = [prefix + tail for tail in random_prompts(27, [3 + 7 * i for i in range(12)])]
    params = [SamplingParams(temperature=0.7 * (i % 2), seed=i, max_tokens=24, ignore_eos=True) for i in range(12)]
    found = []
    for device in ("cpu", "cuda"):
        with engine("qwen3", device=device, max_num_seqs=16, max_model_len=1024, kv_cache_memory="64MiB") as llm:
            llm.generate(prompts[:1], params[:1], use_tqdm=False)  # the prefix is in the cache for all that follow
            found.append([o.outputs[0].token_ids for o in llm.generate(prompts, params, use_tqdm=False)])
    assert found[0] == found[1]
