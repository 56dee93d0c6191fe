"""The gate in the engine core: who waits, in which order the calls come, and whose failure it is."""

import time
from concurrent.futures import Future
from typing import Any

import pytest

from kvasir.engine.core import EngineCore
from kvasir.kv_cache import KVCacheManager, KVSpec
from kvasir.messages import EngineCoreRequest, ModelRunnerOutput, SchedulerOutput, TokenMasks
from kvasir.scheduler import Scheduler, SchedulerSettings
from kvasir.structured.compiler import GrammarCompiler
from kvasir.structured.core import GrammarGate
from kvasir.structured.formats import PART, Regex, encode
from kvasir.testing.fake_executor import FakeExecutor, expected_tokens
from kvasir.testing.fake_grammar import FakeBackend
from tests.engine.cores import VOCAB, Heard, request

PROMPT = [1, 2, 3, 4, 5]


class _Told:
    """A handle that tells when its result is taken."""

    def __init__(self, inner: Future[ModelRunnerOutput], log: list[str], step_id: int):
        self._inner, self._log, self._step_id = inner, log, step_id

    def result(self, timeout: float | None = None) -> ModelRunnerOutput:
        self._log.append(f"result {self._step_id}")
        return self._inner.result(timeout)


class LoggedExecutor(FakeExecutor):
    def __init__(self, *args: Any, **more: Any):
        super().__init__(*args, **more)
        self.log: list[str] = []

    def execute_model(self, step: SchedulerOutput) -> None:
        self.log.append(f"execute {step.step_id}")
        super().execute_model(step)

    def sample_tokens(self, step_id: int, masks: TokenMasks | None = None) -> Any:
        self.log.append(f"sample {step_id}" + (" masked" if masks else ""))
        return _Told(super().sample_tokens(step_id, masks), self.log, step_id)


class Rig:
    def __init__(self, *, overlap: bool = True, num_blocks: int = 64, max_grammars: int = 8, **executor: Any):
        self.backend = FakeBackend(VOCAB)
        self.compiler = GrammarCompiler(lambda: self.backend, max_grammars)
        self.executor = LoggedExecutor(num_blocks, 4, 8, 512, VOCAB, **executor)
        settings = SchedulerSettings(8, 64, 512, overlap=overlap)
        gate = GrammarGate(self.compiler)

        def make_scheduler(ready: Any) -> Scheduler:
            kv = KVCacheManager(KVSpec(ready.num_blocks, ready.block_size))
            return Scheduler(settings, kv, extra_limiters=(gate,))

        self.core = EngineCore(self.executor, make_scheduler, overlap=overlap, masks=gate)

    def add(self, name: str, pattern: str | None = None, **more: Any) -> EngineCoreRequest:
        parts = {} if pattern is None else {PART: encode(Regex(pattern))}
        made = request(name, PROMPT, parts=parts, **more)
        self.core.add_request(made)
        return made

    def wait_compiled(self, pattern: str) -> None:
        self.compiler.grammar(encode(Regex(pattern))).exception(5)


@pytest.mark.parametrize("overlap", [True, False])
def test_the_order_of_calls(overlap: bool) -> None:
    rig = Rig(overlap=overlap)
    rig.add("free", max_tokens=3)
    Heard().run(rig.core)
    free = rig.executor.log.copy()
    rig.executor.log.clear()
    rig.wait_compiled("a")
    rig.add("bound", "a", max_tokens=3)
    heard = Heard().run(rig.core)
    bound = [entry.replace(" masked", "") for entry in rig.executor.log]
    if overlap:  # the sampling of a step waits for the step before it, if it must; else it does not
        assert free[:5] == ["execute 0", "sample 0", "execute 1", "sample 1", "result 0"]
        first = int(bound[0].split()[1])
        assert bound[:5] == [
            f"execute {first}", f"sample {first}", f"execute {first + 1}", f"result {first}", f"sample {first + 1}",
        ]  # fmt: skip
    else:
        assert free[:6] == ["execute 0", "sample 0", "result 0", "execute 1", "sample 1", "result 1"]
    assert sum("masked" in entry for entry in rig.executor.log) == 3
    assert heard.tokens["bound"] == expected_tokens(PROMPT, 1, 3, VOCAB)
    (automaton,) = rig.backend.automata
    assert automaton.tokens == heard.tokens["bound"][:2]  # what came before the last mask


def test_masks_are_for_rows_with_a_grammar_only() -> None:
    rig = Rig()
    rig.wait_compiled("a")
    rig.add("free", max_tokens=6)
    rig.add("bound", "a", max_tokens=6)
    Heard().run(rig.core)
    assert all(len(masks.slots) == 1 for masks in rig.executor.masks.values())
    words = -(-VOCAB // 32) * 4
    assert all(len(masks.words) == words for masks in rig.executor.masks.values())


def test_a_slow_grammar_delays_nobody_else() -> None:
    rig = Rig()
    rig.add("slow", "slow")
    rig.add("free")
    rig.add("quick", "quick")
    heard = Heard()
    for _ in range(3000):
        for said in rig.core.step().values():
            heard.take(said)
        if {"free", "quick"} <= heard.finished.keys():
            break
        time.sleep(0.0005)
    assert {"free", "quick"} == heard.finished.keys() and "slow" not in heard.tokens
    assert rig.core.has_work
    started = time.process_time()
    until = time.monotonic() + 0.2
    while time.monotonic() < until:
        rig.core.step()
    assert time.process_time() - started < 0.15  # it waits without spinning
    rig.backend.slow.set()
    assert Heard().run(rig.core).tokens["slow"] == expected_tokens(PROMPT, 1, 8, VOCAB)


@pytest.mark.parametrize("overlap", [True, False])
def test_each_failure_is_its_own(overlap: bool) -> None:
    rig = Rig(overlap=overlap)
    third = expected_tokens(PROMPT, 1, 8, VOCAB)[2]
    rig.add("good", "good")
    rig.add("wrong", "wrong")
    rig.add("forbidden", f"not {third}")
    rig.add("free")
    heard = Heard().run(rig.core)
    assert heard.finished["wrong"].error == "The grammar of the request failed: wrong is wrong"
    assert heard.finished["forbidden"].error == f"The grammar of the request failed: token {third} is forbidden"
    assert len(heard.tokens["forbidden"]) == 3
    for name in ("good", "free"):
        assert heard.finished[name].error is None
        assert heard.tokens[name] == expected_tokens(PROMPT, 1, 8, VOCAB)
    assert rig.core.scheduler.kv.num_used_blocks == 0


def test_a_bug_while_masks_are_filled_hurts_their_rows_only() -> None:
    rig = Rig()
    rig.wait_compiled("broken")
    rig.add("bound", "broken")
    rig.add("free")
    heard = Heard().run(rig.core)
    assert "a bug" in (heard.finished["bound"].error or "")
    assert heard.finished["free"].error is None and len(heard.tokens["free"]) == 8


def test_one_grammar_for_all_that_ask_for_it_and_a_bound_on_all() -> None:
    rig = Rig(max_grammars=2)
    for i in range(5):
        rig.add(f"same {i}", "same")
    Heard().run(rig.core)
    assert rig.backend.compiled == ["same"] and len(rig.backend.automata) == 5
    for pattern in ("b", "c"):
        rig.add(pattern, pattern)
        Heard().run(rig.core)
    rig.add("again", "same")
    assert len(Heard().run(rig.core).tokens["again"]) == 8
    assert rig.backend.compiled == ["same", "b", "c", "same"]


def test_a_resumed_request_leads_its_automaton_through_what_it_had() -> None:
    rig = Rig()
    tokens = expected_tokens(PROMPT, 1, 8, VOCAB)
    rig.add("resumed", "a", output_token_ids=tokens[:5])
    out = []
    while rig.core.has_work:
        for said in rig.core.step().values():
            out += said.token_ids
    assert out == tokens[5:]
    (automaton,) = rig.backend.automata
    assert automaton.tokens == tokens[:7]


def test_preempted_requests_keep_their_automaton() -> None:
    rig = Rig(num_blocks=10)
    rig.wait_compiled("a")
    for i in range(3):
        rig.add(f"r{i}", "a", max_tokens=16)
    heard, num_preempted = Heard(), 0
    while rig.core.has_work:
        for said in rig.core.step().values():
            heard.take(said)
            num_preempted += said.stats.num_preempted if said.stats else 0
    assert num_preempted > 0
    assert len(rig.backend.automata) == 3
    for i in range(3):
        assert heard.tokens[f"r{i}"] == expected_tokens(PROMPT, 1, 16, VOCAB)
    assert all(a.tokens == heard.tokens["r0"][:15] for a in rig.backend.automata)


def test_failed_steps_start_over() -> None:
    rig = Rig(failures={2: "before", 4: "after"})
    rig.wait_compiled("a")
    rig.add("a", "a")
    rig.add("free")
    heard = Heard().run(rig.core)
    assert heard.tokens["a"] == heard.tokens["free"] == expected_tokens(PROMPT, 1, 8, VOCAB)


def test_an_aborted_request_leaves_nothing() -> None:
    rig = Rig()
    rig.add("slow", "slow")
    rig.add("quick", "quick", max_tokens=50)
    for _ in range(20):
        rig.core.step()
        time.sleep(0.001)
    rig.core.abort_requests(["slow", "quick"])
    Heard().run(rig.core)
    assert rig.core.scheduler.kv.num_used_blocks == 0
    rig.backend.slow.set()
    rig.core.shutdown()
