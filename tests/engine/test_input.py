"""What a caller may get wrong is said with the value and the bound; the rest is resolved."""

from typing import Any

import pytest

from kvasir.engine.fanout import fan_out
from kvasir.engine.input import InputProcessor, default_sampling_params, prompt_text
from kvasir.errors import PromptTooLongError, RequestFailedError, UserError
from kvasir.messages import EngineCoreRequest, SamplingParams
from kvasir.messages.wire import copy
from kvasir.testing.byte_tokenizer import ByteTokenizer


def processor(**options: Any) -> InputProcessor:
    options = {"max_model_len": 100, "vocab_size": 261, "eos_token_ids": [257, 260], **options}
    return InputProcessor(options.pop("tokenizer", ByteTokenizer()), **options)


def test_every_form_of_prompt() -> None:
    given = processor()
    params = SamplingParams(max_tokens=None)
    for prompt in ("hé", [104, 195, 169], {"prompt": "hé"}, {"prompt_token_ids": [104, 195, 169], "prompt": "x"}):
        request = given.process("r", prompt, params, arrival_time=5.0, priority=-2, cache_salt="s")
        assert request.prompt_token_ids == [104, 195, 169]
        assert (request.params.max_tokens, request.arrival_time) == (97, 5.0)
        assert (request.priority, request.cache_salt) == (-2, "s")
        assert copy(request) == request
    assert params.max_tokens is None  # the caller's own stays
    assert given.process("r", {"prompt": "a", "cache_salt": "own"}, params).cache_salt == "own"
    assert [prompt_text(p) for p in ("a", [1], {"prompt": "b"}, {"prompt_token_ids": [1]})] == ["a", None, "b", None]


@pytest.mark.parametrize(
    ("prompt", "params", "message"),
    [
        ("", {}, "prompt is empty"),
        ([], {}, "prompt is empty"),
        ([1, 261], {}, r"token id 261 is outside the vocabulary \(0 to 260\)"),
        ([1, -1], {}, r"token id -1 is outside"),
        ([1, 1.5], {}, "whole numbers, got 1.5"),
        ([True], {}, "whole numbers, got True"),
        (["a"], {}, "whole numbers, got 'a'"),
        (7, {}, "got int"),
        (None, {}, "got NoneType"),
        ({"prompt": 3}, {}, "must be a string, got 3"),
        ({}, {}, "must be a string, got None"),
        ({"prompt": "a", "image": 1}, {}, r"got \['image'\]"),
        ("a", {"logprobs": 21}, r"logprobs asks for 21 per token, the bound is 20 \(--max-logprobs\)"),
        ("a", {"prompt_logprobs": -1}, r"prompt_logprobs asks for 261 per token, the bound is 20"),
        ("a", {"stop_token_ids": [3, 261]}, "stop_token_ids has the id 261, the vocabulary ends at 260"),
        ("a", {"allowed_token_ids": [300]}, "allowed_token_ids has the id 300"),
        ("a", {"logit_bias": {999: 1.0}}, "logit_bias has the id 999"),
        ("a", {"truncate_prompt_tokens": 101}, "truncate_prompt_tokens is 101, the context is 100 tokens"),
        ("aaa", {"max_tokens": None, "min_tokens": 98}, "min_tokens is 98, a prompt of 3 tokens leaves room for 97"),
    ],
)
def test_refusals(prompt: Any, params: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        processor().process("r", prompt, SamplingParams(**params))


def test_prompt_longer_than_the_context_names_both_numbers() -> None:
    with pytest.raises(PromptTooLongError, match=r"has 5000 tokens, the context is 2048 .* at most 2047"):
        processor(max_model_len=2048).process("r", "x" * 5000, SamplingParams())
    with pytest.raises(PromptTooLongError):
        processor().process("r", "x" * 100, SamplingParams())
    assert processor().process("r", "x" * 99, SamplingParams(max_tokens=50)).params.max_tokens == 50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"request_id": ""}, "1 to 512 characters"),
        ({"priority": 2**31}, "priority must be"),
        ({"priority": "high"}, "priority must be"),
        ({"cache_salt": ""}, "1 to 256 characters, got ''"),
        ({"cache_salt": "x" * 257}, "1 to 256 characters"),
        ({"cache_salt": 5}, "1 to 256 characters, got 5"),
    ],
)
def test_names_and_salts(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        processor().process(options.pop("request_id", "r"), "a", SamplingParams(), **options)


def test_without_a_tokenizer_ids_work_and_text_does_not() -> None:
    given = processor(tokenizer=None)
    assert given.process("r", [1, 2], SamplingParams()).prompt_token_ids == [1, 2]
    with pytest.raises(UserError, match="needs a tokenizer"):
        given.process("r", "text", SamplingParams())
    with pytest.raises(UserError, match="stop needs a tokenizer"):
        given.process("r", [1], SamplingParams(stop=["x"]))
    with pytest.raises(UserError, match="bad_words needs a tokenizer"):
        given.process("r", [1], SamplingParams(bad_words=["x"]))


def test_truncation_keeps_the_end() -> None:
    given = processor()
    assert given.process("r", "abcdef", SamplingParams(truncate_prompt_tokens=2)).prompt_token_ids == list(b"ef")
    long = given.process("r", "x" * 500 + "y", SamplingParams(truncate_prompt_tokens=-1, max_tokens=None))
    assert (len(long.prompt_token_ids), long.prompt_token_ids[-1], long.params.max_tokens) == (99, ord("y"), 1)


def test_stop_ids() -> None:
    given = processor()
    request = given.process("r", "a", SamplingParams(stop_token_ids=[5, 257]))
    assert (request.stop_token_ids, request.eos_token_ids) == ([257, 260, 5], [257, 260])
    assert given.process("r", "a", SamplingParams(stop_token_ids=[5], ignore_eos=True)).stop_token_ids == [5]


def test_bad_words_are_banned_with_and_without_the_blank() -> None:
    request = processor().process("r", "a", SamplingParams(bad_words=["no", " no", " "]))
    assert request.bad_words_token_ids == [list(b"no"), list(b" no"), list(b" ")]


def test_seeds() -> None:
    params = SamplingParams()
    first, second = processor(seed=3), processor(seed=3)
    series = [first.process("r", "a", params).seed for _ in range(50)]
    assert series == [second.process(str(i), "b", params).seed for i in range(50)]
    assert len(set(series)) == 50 and all(0 <= s < 2**64 for s in series)
    assert processor(seed=4).process("r", "a", params).seed != series[0]
    assert first.process("r", "a", SamplingParams(seed=-1)).seed == 2**64 - 1
    free = processor(seed=None)
    assert free.process("r", "a", params).seed != free.process("r", "a", params).seed


def test_defaults_of_the_model() -> None:
    defaults = {"temperature": 0.6, "top_k": 20, "max_new_tokens": 7, "do_sample": True, "top_p": None}
    params = processor(default_params=defaults).default_sampling_params(top_k=5, top_p=None)
    assert (params.temperature, params.top_k, params.max_tokens, params.top_p) == (0.6, 5, 7, 1.0)
    assert default_sampling_params({}) == SamplingParams()


class _Stage:
    def __init__(self, fails_in: str = ""):
        self.fails_in = fails_in

    def check(self, params: SamplingParams) -> None:
        if self.fails_in == "check":
            raise UserError("no such adapter")

    def enrich(self, request: EngineCoreRequest) -> EngineCoreRequest:
        if self.fails_in == "enrich":
            raise KeyError("bug")
        request.priority += 1
        return request

    def finish(self, request_id: str) -> None:
        pass


def test_stages_enrich_and_their_bugs_stay_with_the_request() -> None:
    assert processor(stages=[_Stage(), _Stage()]).process("r", "a", SamplingParams()).priority == 2
    with pytest.raises(UserError, match="no such adapter"):
        processor(stages=[_Stage("check")]).process("r", "a", SamplingParams())
    with pytest.raises(RequestFailedError, match="_Stage failed on this request: 'bug'"):
        processor(stages=[_Stage("enrich")]).process("r", "a", SamplingParams())


def test_fan_out() -> None:
    request = processor().process("r", "a", SamplingParams(n=3, seed=2**64 - 1))
    children = fan_out(request)
    assert [c.request_id for c in children] == ["0_r", "1_r", "2_r"]
    assert [c.seed for c in children] == [2**64 - 1, 0, 1]
    assert all(c.params.n == 1 for c in children) and request.params.n == 3
    (single,) = fan_out(processor().process("r", "a", SamplingParams()))
    assert single.request_id == "r"
