"""A card that has failed is opened again by a new process, with the memory plan of the one before."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from kvasir.assembly import front
from kvasir.config import EngineArgs
from kvasir.engine.async_llm import AsyncLLM
from kvasir.errors import RequestFailedError
from kvasir.messages import RequestOutputKind, SamplingParams
from tests.faults.poisoned_core import POISON

DEADLY = 909
PROMPTS = [[20 + i, 30, 40 + i] * (1 + i) for i in range(6)]


async def tokens_of(engine: AsyncLLM, prompt: list[int], count: int) -> list[int]:
    params = SamplingParams(temperature=0, max_tokens=count, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
    found: list[int] = []
    async for output in engine.generate(prompt, params):
        found += output.outputs[0].token_ids
    return found


def startup(engine: AsyncLLM) -> dict[str, float]:
    ready = engine.cores[0].supervisor.ready
    assert ready is not None
    return {str(name): round(seconds, 3) for name, seconds in ready.startup}


@pytest.mark.timeout(300)
def test_a_device_fault_and_a_kill(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(front, "CORE_MODULE", "tests.faults.poisoned_core")
    monkeypatch.setenv(POISON, json.dumps({str(DEADLY): ["device_assert", 3]}))
    engine = AsyncLLM.from_engine_args(
        EngineArgs(
            model="kvasir-demo",
            gpu_memory_utilization=0.5,
            max_num_seqs=8,  # few blocks: under test every step audits all of them
            incident_dir=str(tmp_path),
            max_core_restarts=2,
        )
    )
    try:
        asyncio.run(_run(engine, tmp_path))
    finally:
        engine.shutdown()


async def _run(engine: AsyncLLM, folder: Path) -> None:
    heard: list[Any] = []
    engine.add_recovery_listener(heard.append)
    first, num_blocks = startup(engine), engine.ready.num_blocks
    together = await asyncio.gather(
        *(tokens_of(engine, p, 200) for p in PROMPTS), tokens_of(engine, [5, DEADLY], 50), return_exceptions=True
    )
    *found, refused = together
    assert [len(tokens) for tokens in found] == [200] * len(PROMPTS)
    assert isinstance(refused, RequestFailedError) and "ended the engine twice" in refused.message
    incidents = [json.loads(path.read_text()) for path in sorted(folder.iterdir())]
    causes = {i["cause"] for i in incidents}
    assert causes == {r.reason for r in heard}
    assert causes <= {"device_fault", "crashed"}, "the device's library may abort the process before it can say why"
    again = engine.cores[0].supervisor.ready
    assert again is not None and again.num_blocks == num_blocks
    stream = asyncio.create_task(tokens_of(engine, PROMPTS[0], 1500))
    await asyncio.sleep(0.5)
    started = time.monotonic()
    engine.cores[0].client.process.kill()
    assert len(await stream) == 1500
    print(json.dumps({"first start": first, "restart": startup(engine), "recoveries_s": [r.seconds for r in heard]}))
    print(f"kill to the end of the stream {time.monotonic() - started:.2f} s")
