"""Grammars on the card: the masked rows are the CPU's, and the answers have their shape in both loops."""

import re

import pytest
import torch

from kvasir import SamplingParams, StructuredOutputsParams
from kvasir.messages import TokenMasks
from kvasir.ops.reference.token_mask import apply_token_masks
from kvasir.sampling.rows import SampleRows
from kvasir.structured.worker import TokenMaskProcessor
from tests.e2e.engines import engine, texts

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA card")]


@pytest.mark.parametrize("vocab", [1003, 151_936])
def test_rows_equal_the_cpus_and_nothing_waits(vocab: int) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(70, vocab, generator=generator)
    size = -(-vocab // 32) * 4
    bits = torch.randint(0, 256, (40, size), dtype=torch.uint8, generator=generator)
    slots = list(range(100, 140))
    host_slots = [200 + i if i % 2 else 100 + i // 2 for i in range(70)]  # every second row has a mask
    want = logits.clone()
    masked = [i for i in range(70) if host_slots[i] < 200]
    apply_token_masks(want, torch.tensor(masked), bits[[host_slots[i] - 100 for i in masked]])
    processor = TokenMaskProcessor(torch.device("cuda"))
    on_card = logits.cuda()
    rows = SampleRows(torch.tensor(host_slots).cuda(), host_slots, torch.zeros(70, dtype=torch.int64).cuda())
    for i in range(2):
        processor.take(TokenMasks(slots, bytearray(bits.numpy().tobytes())))
        if i:  # the first call may load kernels
            torch.cuda.set_sync_debug_mode("error")
        try:
            processor.apply(on_card, rows)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(on_card.cpu(), want)


@pytest.mark.parametrize("overlap", [True, False])
def test_answers_have_their_shape(overlap: bool) -> None:
    pattern = r"([a-z]{3,9} ){4}[0-9]{3}"
    bound = [
        SamplingParams(
            temperature=1.0, seed=i, max_tokens=120, structured_outputs=StructuredOutputsParams(regex=pattern)
        )
        for i in range(6)
    ]
    free = [SamplingParams(temperature=1.0, seed=i, max_tokens=30, ignore_eos=True) for i in range(6)]
    with engine("qwen3", device="cuda", async_scheduling=overlap, kv_cache_memory="64MiB") as llm:
        alone = llm.generate(texts(*[20] * 6), free, use_tqdm=False)
        outputs = llm.generate(texts(*[20] * 6) * 2, [*bound, *free], use_tqdm=False)
    assert all(re.fullmatch(pattern, o.outputs[0].text) for o in outputs[:6])
    assert [o.outputs[0].token_ids for o in outputs[6:]] == [o.outputs[0].token_ids for o in alone]
