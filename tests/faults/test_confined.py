"""A host exception that belongs to one request ends that request, and its neighbours never notice."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch

from kvasir.engine.output import OutputProcessor
from kvasir.messages import EngineCoreOutput, EngineCoreRequest, RequestOutput, SamplingParams, SlotRequest
from kvasir.parsers.registry import reasoning_family
from kvasir.sampling import SampleRows
from kvasir.testing.byte_tokenizer import ByteTokenizer as EngineTokenizer
from tests.e2e.engines import engine, random_prompts
from tests.faults.harness import hurt_server, run_all
from tests.http.fake_engine import ByteTokenizer, FakeEngine, Script
from tests.http.live import CLIENT, serving

BAD_SEED = 666  # the request that plants and processors look for


class Planted:
    """A logits processor that raises in one of its calls for the request with seed BAD_SEED."""

    def __init__(self, where: str):
        self.where = where
        self.slots: set[int] = set()
        self.bad: set[int] = set()

    def add(self, slot: int, request: SlotRequest) -> None:
        if request.seed == BAD_SEED and self.where == "add":
            raise KeyError("planted")
        self.slots.add(slot)
        if request.seed == BAD_SEED:
            self.bad.add(slot)

    def remove(self, slot: int) -> None:
        self.slots.discard(slot)
        if slot in self.bad:
            self.bad.discard(slot)
            if self.where == "remove":
                raise KeyError("planted")

    def move(self, source: int, target: int) -> None:
        raise AssertionError("nobody moves here")

    def apply(self, logits: torch.Tensor, rows: SampleRows) -> torch.Tensor:
        logits[:, 11] += 0.5  # changed in place before it raises, as a careless plugin might
        if self.where == "apply" and self.bad & set(rows.host_slots):
            raise ZeroDivisionError("planted")
        return logits

    def after_sample(self, rows: SampleRows, token_ids: torch.Tensor) -> None:
        if self.where == "after_sample" and self.bad & set(rows.host_slots):
            self.slots &= self.bad  # so that it is this request alone that asks for it
            raise ZeroDivisionError("planted")


def answers(llm: Any, prompts: list[list[int]], seeds: list[int]) -> dict[str, RequestOutput]:
    for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        params = SamplingParams(temperature=0.8, seed=seed, max_tokens=12, ignore_eos=True, frequency_penalty=0.2)
        llm.llm_engine.add_request(str(i), {"prompt_token_ids": prompt}, params)
    found = {}
    while llm.llm_engine.has_unfinished_requests():
        found |= {out.request_id: out for out in llm.llm_engine.step() if out.finished}
    return found


def plant(llm: Any, processor: Planted) -> None:
    llm.llm_engine.client._core.executor._worker.runner.sampler.state.processors.append(processor)


@pytest.mark.parametrize("where", ["add", "apply", "after_sample", "remove"])
@pytest.mark.parametrize("overlapped", [True, False])
def test_a_logits_processor_that_raises_costs_its_request(where: str, overlapped: bool) -> None:
    prompts = random_prompts(5, [3, 9, 17, 5])
    with engine("qwen3", async_scheduling=overlapped) as llm:
        plant(llm, Planted("nowhere"))
        undisturbed = answers(llm, prompts, [1, 2, BAD_SEED, 4])
    with engine("qwen3", async_scheduling=overlapped) as llm:
        plant(llm, Planted(where))
        found = answers(llm, prompts, [1, 2, BAD_SEED, 4])
        for i in ("0", "1", "3"):
            assert found[i].outputs[0].token_ids == undisturbed[i].outputs[0].token_ids
        if where == "remove":
            assert found["2"].error is None
        else:
            assert found["2"].error is not None and "planted" in found["2"].error, found["2"].error
        again = answers(llm, prompts, [1, 2, 3, 4])
        assert all(out.error is None for out in again.values()), "and the engine is as it was"


@pytest.mark.parametrize("when_pushed", [True, False])
def test_a_detokenizer_that_raises_costs_its_request(when_pushed: bool) -> None:
    processor = OutputProcessor(EngineTokenizer())
    for name in ("good", "bad"):
        params = SamplingParams(max_tokens=9, stop=["never"] if when_pushed else None)
        request = EngineCoreRequest(name, [1], params, 0, 0.0)
        processor.add_request(request, [request])
    processor._answers["bad"].text._detokenizer = SimpleNamespace(push=lambda ids: 1 // 0)
    done = processor.process(EngineCoreOutput(0, 0, 0.0, ["bad", "good"], [0, 0], [1, 1], [104, 105]))
    by_id = {out.request_id: out for out in done.read()}
    assert by_id["bad"].finished and "by zero" in (by_id["bad"].error or "")
    assert by_id["good"].outputs[0].text == "i" and not by_id["good"].finished
    told = done.to_abort + processor.process(EngineCoreOutput(0, 1, 0.0, ["good"], [1], [1], [105])).to_abort
    assert told == ["bad"], "the core is told to stop computing it, at once or with the next step"
    assert processor.num_unfinished == 1


def test_a_step_that_raises_costs_the_request_that_makes_it_raise(tmp_path: Path) -> None:
    """Outside of everything that is confined to a row: the worker cannot say whose fault it was."""
    deadly = 909
    body = {"prompt": [30, 40, deadly, 50], "max_tokens": 60, "ignore_eos": True}
    kinds = ["plain", "seeded", "n3", "logprobs", "grammar", "tools"]
    with hurt_server(tmp_path, poison={deadly: ("raise", 6)}) as hurt:
        undisturbed = run_all(hurt, kinds)
        replies: list[httpx.Response] = []

        def ask() -> None:
            replies.append(CLIENT.post(hurt.url + "/v1/completions", json=body, timeout=60))

        thread = threading.Thread(target=ask)
        disturbed = run_all(hurt, kinds, lambda progress: progress.wait_for(30) and thread.start())
        thread.join()
        for kind, answer in disturbed.items():
            answer.assert_same(undisturbed[kind])
        assert replies[0].status_code == 500 and "planted in the step" in replies[0].text
        assert hurt.restarts() == 0 and hurt.incidents() == []
        hurt.assert_all_free()


@contextmanager
def neighbours(url: str, body: dict[str, Any], path: str) -> Iterator[list[httpx.Response]]:
    """Streams that run while something goes wrong; the caller looks at them afterwards."""
    found: list[httpx.Response] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(CLIENT.post(url + path, json={**body, "stream": True}, timeout=20))
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    yield found
    for thread in threads:
        thread.join()


def test_a_tokenizer_call_that_raises_costs_its_request() -> None:
    class Tokenizer(ByteTokenizer):
        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            if "boom" in text:
                raise RuntimeError("planted")
            return super().encode(text, add_special_tokens)

    with serving(FakeEngine(Script(text="fine", delay_s=0.02), tokenizer=Tokenizer())) as live:
        with neighbours(live.url, {"prompt": "x", "max_tokens": 9}, "/v1/completions") as found:
            for path, body in (
                ("/v1/completions", {"prompt": "boom"}),
                ("/v1/chat/completions", {"messages": [{"role": "user", "content": "boom"}]}),
                ("/tokenize", {"prompt": "boom"}),
            ):
                reply = CLIENT.post(live.url + path, json=body)
                assert reply.status_code == 500 and reply.json()["error"]["type"] == "internal_error", path
                assert "planted" not in reply.text, "its insides are for the log"
        assert len(found) == 3 and all(r.text.endswith("data: [DONE]\n\n") and "error" not in r.text for r in found)


def test_a_parser_that_raises_costs_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvasir.entrypoints.http import structure
    from kvasir.entrypoints.http.settings import ServerSettings

    family = reasoning_family("qwen3")

    def make(prompt: str | None) -> Any:
        parser = family.make(prompt)
        if prompt and "boom" in prompt:
            parser.push = lambda text: 1 // 0  # type: ignore[method-assign]
        return parser

    monkeypatch.setattr(structure, "reasoning_family", lambda name: type(family)(make))
    engine = FakeEngine(Script(text="<think>a</think>fine", delay_s=0.02))
    with serving(engine, ServerSettings(reasoning_parser="qwen3")) as live:
        ask = lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 60}
        with neighbours(live.url, ask("x"), "/v1/chat/completions") as found:
            reply = CLIENT.post(live.url + "/v1/chat/completions", json=ask("boom"))
            assert reply.status_code == 500 and "division" not in reply.text
        assert len(found) == 3 and all(r.text.endswith("data: [DONE]\n\n") and "error" not in r.text for r in found)
        assert engine.running == 0, "the failed one was given up in the engine, too"
