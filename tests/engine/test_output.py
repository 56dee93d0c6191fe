"""The core's rows to callers' outputs: text, ends, repeats, merges, restarts."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import pytest

from kvasir.engine.collector import RequestOutputCollector
from kvasir.engine.fanout import fan_out
from kvasir.engine.input import InputProcessor
from kvasir.engine.output import OutputProcessor
from kvasir.messages import (
    EngineCoreOutput,
    EngineCoreRequest,
    Finished,
    FinishReason,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
    TokenLogprobs,
)
from kvasir.testing.byte_tokenizer import ByteTokenizer

DELTA, CUMULATIVE, FINAL = RequestOutputKind.DELTA, RequestOutputKind.CUMULATIVE, RequestOutputKind.FINAL_ONLY
EOS = 257


class Core:
    """Says tokens as a core would; each `say` is one step."""

    def __init__(self, epoch: int = 1):
        self.epoch = epoch
        self.step = 0
        self.sent: dict[str, int] = {}

    def say(
        self,
        rows: dict[str, bytes | list[int]],
        ended: dict[str, Finished] | None = None,
        first: int | None = None,
        **columns: Any,
    ) -> EngineCoreOutput:
        self.step += 1
        ids = list(rows)
        out = EngineCoreOutput(self.epoch, self.step, float(self.step), ids, **columns)
        for row, request_id in enumerate(ids):
            out.first_index.append(self.sent.get(request_id, 0) if first is None else first)
            out.num_new.append(len(rows[request_id]))
            out.token_ids.extend(rows[request_id])
            self.sent[request_id] = self.sent.get(request_id, 0) + len(rows[request_id])
            if ended and request_id in ended:
                finished = ended[request_id]
                finished.row = row
                out.finished.append(finished)
        return out


def stop(token_id: int | None = None) -> Finished:
    return Finished(0, FinishReason.STOP, token_id)


def length() -> Finished:
    return Finished(0, FinishReason.LENGTH)


def start(
    processor: OutputProcessor,
    request_id: str = "r",
    on_output: Callable[[], None] | None = None,
    prompt: str = "ask",
    **params: Any,
) -> RequestOutputCollector:
    inputs = InputProcessor(ByteTokenizer(), max_model_len=5000, vocab_size=261, eos_token_ids=[EOS])
    request = inputs.process(request_id, prompt, SamplingParams(**params), arrival_time=0.5)
    return processor.add_request(request, fan_out(request), prompt, on_output)


@pytest.fixture
def processor() -> OutputProcessor:
    return OutputProcessor(ByteTokenizer())


def test_cumulative_text_and_metrics(processor: OutputProcessor) -> None:
    start(processor)
    core = Core()
    (first,) = processor.process(core.say({"r": "hé".encode()[:2]}, num_cached_tokens={0: 2})).read()
    (second,) = processor.process(core.say({"r": "é".encode()[1:]})).read()
    assert (first.outputs[0].text, second.outputs[0].text) == ("h", "hé")
    assert (first.prompt, first.prompt_token_ids, first.num_cached_tokens) == ("ask", list(b"ask"), 2)
    assert (first.finished, second.outputs[0].token_ids) == (False, list("hé".encode()))
    done = processor.process(core.say({"r": b"!"}, {"r": length()}))
    (last,) = done.read()
    assert (last.finished, last.outputs[0].finish_reason, last.outputs[0].stop_reason) == (True, "length", None)
    assert (last.metrics.arrival_time, last.metrics.first_token_time, last.metrics.last_token_time) == (0.5, 1.0, 3.0)
    assert done.to_abort == [] and processor.num_unfinished == 0
    assert first.outputs[0].token_ids == list("hé".encode())[:2]  # earlier outputs are not written to


@pytest.mark.parametrize("kind", [DELTA, CUMULATIVE, FINAL])
def test_kinds_agree(processor: OutputProcessor, kind: RequestOutputKind) -> None:
    start(processor, output_kind=kind, logprobs=1)
    core, got = Core(), []
    text = "Grüße an alle"
    for i, byte in enumerate(text.encode()):
        end = {"r": length()} if i == len(text.encode()) - 1 else None
        entry = TokenLogprobs([byte, 1, byte], [-1.0, -0.5, -1.0], 2)
        got += processor.process(core.say({"r": [byte]}, end, logprobs={0: [entry]})).read()
    answers = [o.outputs[0] for o in got]
    if kind == DELTA:
        assert "".join(a.text for a in answers) == text
        assert [i for a in answers for i in a.token_ids] == list(text.encode())
        assert all(len(a.logprobs) == 1 for a in answers)
    else:
        assert len(got) == (1 if kind == FINAL else len(text.encode()))
        assert (answers[-1].text, answers[-1].token_ids) == (text, list(text.encode()))
        assert len(answers[-1].logprobs) == len(text.encode())
    assert answers[-1].cumulative_logprob == -1.0 * len(text.encode())
    assert answers[-1].finish_reason == "length"


def test_end_tokens_leave_no_text_but_stay_in_the_ids(processor: OutputProcessor) -> None:
    start(processor)
    core = Core()
    (out,) = processor.process(core.say({"r": [*b"ok", EOS]}, {"r": stop(EOS)})).read()
    answer = out.outputs[0]
    assert (answer.text, answer.token_ids, answer.finish_reason) == ("ok", [*b"ok", EOS], "stop")
    assert answer.stop_reason is None
    start(processor, "own", stop_token_ids=[ord("!")])
    (out,) = processor.process(core.say({"own": b"ok!"}, {"own": stop(ord("!"))})).read()
    assert (out.outputs[0].text, out.outputs[0].stop_reason) == ("ok", ord("!"))
    start(processor, "kept", stop_token_ids=[ord("!")], include_stop_str_in_output=True)
    (out,) = processor.process(core.say({"kept": b"ok!"}, {"kept": stop(ord("!"))})).read()
    assert out.outputs[0].text == "ok!"
    start(processor, "ignores", ignore_eos=True, stop_token_ids=[EOS])
    (out,) = processor.process(core.say({"ignores": [EOS]}, {"ignores": stop(EOS)})).read()
    assert out.outputs[0].stop_reason == EOS


@pytest.mark.parametrize("seed", range(8))
def test_stop_strings_cut_text_ids_and_logprobs(processor: OutputProcessor, seed: int) -> None:
    rng = random.Random(seed)
    text = "".join(rng.choices("ab", k=30)) + "STOP" + "tail" * 5
    kind = rng.choice((DELTA, CUMULATIVE))
    start(processor, stop=["STOP"], logprobs=0, output_kind=kind)
    core, data, got, aborted = Core(), text.encode(), [], []
    while data:
        n = rng.randrange(1, 9)
        entries = [TokenLogprobs([b], [-1.0], 1) for b in data[:n]]
        done = processor.process(core.say({"r": data[:n]}, logprobs={0: entries}))
        got, aborted, data = got + done.read(), aborted + done.to_abort, data[n:]
    answers = [o.outputs[0] for o in got]
    ids = [i for a in answers for i in a.token_ids] if kind == DELTA else answers[-1].token_ids
    shown = "".join(a.text for a in answers) if kind == DELTA else answers[-1].text
    assert (shown, bytes(ids)) == (text[:30], text[:34].encode())
    assert answers[-1].cumulative_logprob == -34.0
    assert (answers[-1].finish_reason, answers[-1].stop_reason, aborted) == ("stop", "STOP", ["r"])
    assert got[-1].finished and not any(o.finished for o in got[:-1])


def test_stop_string_wins_over_the_cores_own_end(processor: OutputProcessor) -> None:
    start(processor, stop=["no"])
    done = processor.process(Core().say({"r": [*b"yes no more", EOS]}, {"r": stop(EOS)}))
    answer = done.read()[0].outputs[0]
    assert (answer.text, bytes(answer.token_ids), answer.stop_reason) == ("yes ", b"yes no", "no")
    assert done.to_abort == []  # the core has ended it already


def test_stop_string_within_min_tokens_does_not_count(processor: OutputProcessor) -> None:
    start(processor, stop=["x"], min_tokens=3)
    core = Core()
    processor.process(core.say({"r": b"xxx"})).read()
    (out,) = processor.process(core.say({"r": b"ax"})).read()
    assert (out.outputs[0].text, out.outputs[0].finish_reason) == ("xxxa", "stop")


def test_held_back_text_is_released_at_the_end(processor: OutputProcessor) -> None:
    start(processor, stop=["stop"])
    core = Core()
    assert processor.process(core.say({"r": b"a sto"})).read()[0].outputs[0].text == "a "
    assert processor.process(core.say({"r": []}, {"r": length()})).read()[0].outputs[0].text == "a sto"


def test_logprobs(processor: OutputProcessor) -> None:
    start(processor, logprobs=2, prompt_logprobs=1)
    entry = TokenLogprobs([97, 98, 99], [-3.0, -0.1, -0.2], 7)
    prompt = [TokenLogprobs([115, 98], [-1.0, -0.1], 4), TokenLogprobs([107, 107], [-0.3, -0.3], 1)]
    (out,) = processor.process(Core().say({"r": [97]}, logprobs={0: [entry]}, prompt_logprobs={0: prompt})).read()
    (position,) = out.outputs[0].logprobs
    assert {i: (p.logprob, p.rank, p.decoded_token) for i, p in position.items()} == {
        97: (-3.0, 7, "a"), 98: (-0.1, 1, "b"), 99: (-0.2, 2, "c")
    }  # fmt: skip
    assert out.prompt_logprobs[0] is None
    assert [sorted(p) for p in out.prompt_logprobs[1:]] == [[98, 115], [107]]
    assert out.prompt_logprobs[2][107].rank == 1


def test_error_rows_and_gaps_fail_one_request_only(processor: OutputProcessor) -> None:
    for request_id in ("bad", "gap", "good"):
        start(processor, request_id)
    core = Core()
    failed = Finished(0, FinishReason.ERROR, error="the grammar broke")
    done = processor.process(core.say({"bad": [], "good": b"x"}, {"bad": failed}))
    bad, good = done.read()
    assert (bad.error, bad.finished, bad.outputs[0].finish_reason) == ("the grammar broke", True, "error")
    assert (good.error, good.outputs[0].text) == (None, "x")
    done = processor.process(core.say({"gap": b"x"}, first=3))
    assert "3 tokens are missing before index 3" in done.read()[0].error
    assert done.to_abort == ["gap"] and processor.num_unfinished == 1


@pytest.mark.parametrize("seed", range(6))
def test_a_restarted_core_repeats_and_loses_nothing(processor: OutputProcessor, seed: int) -> None:
    rng = random.Random(seed)
    texts = {f"r{i}": rng.randbytes(rng.randrange(5, 60)) for i in range(5)}
    got: dict[str, list[RequestOutput]] = {request_id: [] for request_id in texts}
    for request_id in texts:
        start(processor, request_id, output_kind=DELTA, skip_special_tokens=False)
    epoch, known = 10, dict.fromkeys(texts, 0)
    while processor.num_unfinished:
        core = Core(epoch)
        for _ in range(rng.randrange(1, 12)):
            rows, ended = {}, {}
            for request_id in texts:
                core.sent[request_id] = max(0, known[request_id] - rng.randrange(3))  # it may say tokens again
                at = core.sent[request_id]
                rows[request_id] = texts[request_id][at : at + rng.randrange(5)]
                if at + len(rows[request_id]) == len(texts[request_id]):
                    ended[request_id] = length()
                known[request_id] = max(known[request_id], at + len(rows[request_id]))
            for output in processor.process(core.say(rows, ended)).read():
                got[output.request_id].append(output)
        resumed = [processor.resumed(request_id) for request_id in processor.live(0)]
        for request in resumed:
            assert bytes(request.output_token_ids) == texts[request.request_id][: known[request.request_id]]
            assert request.prompt_token_ids == list(b"ask")
        epoch += 1
    for request_id, outputs in got.items():
        assert bytes([i for o in outputs for i in o.outputs[0].token_ids]) == texts[request_id]
        assert "".join(o.outputs[0].text for o in outputs) == texts[request_id].decode("utf-8", "replace")
        assert [o.finished for o in outputs].count(True) == 1


@pytest.mark.parametrize("kind", [CUMULATIVE, FINAL, DELTA])
def test_n_answers_become_one_output(processor: OutputProcessor, kind: RequestOutputKind) -> None:
    start(processor, n=3, output_kind=kind, stop=["!"])
    core, got = Core(), []
    got += processor.process(core.say({"0_r": b"a", "2_r": b"c"}, num_cached_tokens={0: 2})).read()
    done = processor.process(core.say({"0_r": b"1!", "1_r": b"b"}, {"1_r": length()}))
    got += done.read()
    assert done.to_abort == ["0_r"]
    got += processor.process(core.say({"2_r": b"2"}, {"2_r": length()})).read()
    assert {o.request_id for o in got} == {"r"} and [o.finished for o in got][-1]
    seen = [[(a.index, a.text, a.finish_reason) for a in o.outputs] for o in got]
    final = [(0, "a1", "stop"), (1, "b", "length"), (2, "c2", "length")]
    if kind == DELTA:
        assert seen == [
            [(0, "a", None), (2, "c", None)], [(0, "1", "stop"), (1, "b", "length")], [(2, "2", "length")]
        ]  # fmt: skip
    elif kind == CUMULATIVE:
        assert seen[0] == [(0, "a", None), (1, "", None), (2, "c", None)]
        assert (len(seen), seen[-1]) == (3, final)
    else:
        assert seen == [final]
    assert got[-1].num_cached_tokens == 2
    assert processor.num_unfinished == 0


def test_abort_by_the_parents_id(processor: OutputProcessor) -> None:
    start(processor, n=2, output_kind=DELTA)
    start(processor, "other")
    core = Core()
    processor.process(core.say({"0_r": b"a"}, {"0_r": length()})).read()
    done = processor.abort(["r", "unknown"])
    assert done.to_abort == ["1_r"]
    (out,) = done.read()
    assert (out.request_id, out.finished, out.outputs[0].finish_reason) == ("r", True, "abort")
    assert processor.abort(["r", "1_r"]).read() == []
    assert processor.process(core.say({"1_r": b"late"})).read() == []
    failed = processor.fail_all("the core is gone")
    assert [(o.error, o.outputs[0].finish_reason) for o in failed.read()] == [("the core is gone", "error")]
    assert processor.num_unfinished == 0


def test_without_tokenizer_or_detokenize_there_is_no_text() -> None:
    for tokenizer, options in ((None, {}), (ByteTokenizer(), {"detokenize": False})):
        processor = OutputProcessor(tokenizer)
        start(processor, **options, logprobs=0)
        entry = TokenLogprobs([97], [-1.0], 1)
        (out,) = processor.process(Core().say({"r": b"a"}, {"r": length()}, logprobs={0: [entry]})).read()
        assert (out.outputs[0].text, out.outputs[0].token_ids) == ("", [97])


def test_request_ids_are_unique(processor: OutputProcessor) -> None:
    start(processor)
    with pytest.raises(RuntimeError, match="'r' is in use"):
        start(processor)


class _Stage:
    def __init__(self) -> None:
        self.ended: list[str] = []

    def check(self, params: SamplingParams) -> None: ...

    def enrich(self, request: EngineCoreRequest) -> EngineCoreRequest:
        return request

    def finish(self, request_id: str) -> None:
        self.ended.append(request_id)
        raise ValueError("a stage's bug")


def test_stages_learn_of_every_end_once() -> None:
    stage = _Stage()
    processor = OutputProcessor(ByteTokenizer(), [stage])
    start(processor, "a")
    start(processor, "b", n=2)
    core = Core()
    processor.process(core.say({"a": b"x", "0_b": b"x"}, {"a": length(), "0_b": length()})).read()
    processor.abort(["b"])
    assert stage.ended == ["a", "b"]


@pytest.mark.parametrize("seed", range(5))
async def test_a_slow_reader_gets_merged_deltas_and_is_told_once(processor: OutputProcessor, seed: int) -> None:
    rng = random.Random(seed)
    told: list[int] = []
    queue = start(processor, on_output=lambda: told.append(1), n=2, output_kind=DELTA, logprobs=0)
    texts = {f"{i}_r": bytes(rng.choices(b"abc ", k=40)) for i in range(2)}
    core, got = Core(), []
    for at in range(40):
        rows = {request_id: text[at : at + 1] for request_id, text in texts.items()}
        ended = dict.fromkeys(texts) if at == 39 else {}
        entries = {row: [TokenLogprobs([ids[0]], [-1.0], 1)] for row, ids in enumerate(rows.values())}
        done = processor.process(core.say(rows, {r: length() for r in ended}, logprobs=entries))
        for collector in done.moved:
            collector.tell()
        if at < 39 and rng.random() < 0.3:
            got.append(queue.get_nowait())
    got.append(await asyncio.wait_for(queue.get(), 1))
    assert queue.get_nowait() is None
    assert len(told) == len(got)
    for index, text in enumerate(texts.values()):
        answers = [a for o in got if o for a in o.outputs if a.index == index]
        assert "".join(a.text for a in answers).encode() == text
        assert bytes([i for a in answers for i in a.token_ids]) == text
        assert sum(len(a.logprobs) for a in answers) == 40
        assert answers[-1].finish_reason == "length"
    assert got[-1].finished


async def test_a_reader_that_waits_is_woken(processor: OutputProcessor) -> None:
    queue = start(processor)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    core = Core()
    moved = [*processor.process(core.say({"r": b"a"})).moved, *processor.process(core.say({"r": b"b"})).moved]
    assert moved == [queue], "told once for two steps"
    queue.tell()
    assert (await asyncio.wait_for(waiting, 1)).outputs[0].text == "ab"


def test_the_final_output_alone(processor: OutputProcessor) -> None:
    """A caller who wants the end only is not told of anything before it."""
    queue = start(processor, n=2, output_kind=FINAL)
    core = Core()
    assert processor.process(core.say({"0_r": b"a", "1_r": b"b"}, {"0_r": length()})).moved == []
    assert processor.process(core.say({"1_r": b"c"}, {"1_r": length()})).moved == [queue]
    output = queue.get_nowait()
    assert output.finished and [a.text for a in output.outputs] == ["a", "bc"]
