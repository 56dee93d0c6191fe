"""The official client, sync, async and streaming."""

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from kvasir.errors import QueueFullError
from tests.http.fake_engine import Script
from tests.http.live import LiveServer

TEXT = Script().text
ASK = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def client(server: LiveServer) -> OpenAI:
    return OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


def test_models(client: OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["fake", "fake-alias"]
    assert client.models.retrieve("fake-alias").id == "fake-alias"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")


def test_chat(client: OpenAI, server: LiveServer) -> None:
    server.engine.script.num_cached_tokens = 3
    answer = client.chat.completions.create(model="fake", messages=ASK)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.usage.prompt_tokens == len("<user>Hi\n<assistant>")
    assert answer.usage.completion_tokens == len(TEXT.encode()) + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


def test_chat_stream(client: OpenAI) -> None:
    chunks = list(client.chat.completions.create(model="fake", messages=ASK, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == TEXT
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == ["stop"]


@pytest.mark.asyncio
async def test_chat_async_stream(server: LiveServer) -> None:
    async with AsyncOpenAI(base_url=server.url + "/v1", api_key="none") as client:
        stream = await client.chat.completions.create(
            model="fake", messages=ASK, stream=True, stream_options={"include_usage": True}
        )
        chunks = [c async for c in stream]
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == TEXT
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == len(TEXT.encode()) + 1


def test_chat_logprobs(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=ASK, logprobs=True, top_logprobs=2)
    content = answer.choices[0].logprobs.content
    assert [t.token for t in content[:5]] == list("Hello")
    assert content[0].bytes == [ord("H")] and content[0].logprob == -1.0
    assert [t.logprob for t in content[0].top_logprobs] == [-0.5, -1.0]  # best first, the token is the second
    only_best = client.chat.completions.create(model="fake", messages=ASK, logprobs=True, top_logprobs=1)
    assert [t.token for t in only_best.choices[0].logprobs.content[0].top_logprobs] != ["H"]
    none = client.chat.completions.create(model="fake", messages=ASK, logprobs=True)
    assert none.choices[0].logprobs.content[0].top_logprobs == []


def test_completion(client: OpenAI, server: LiveServer) -> None:
    answer = client.completions.create(model="fake", prompt="Say", max_tokens=5)
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == ("Hello", "length")
    assert server.engine.seen[-1].prompt_token_ids == [256, *b"Say"]
    assert client.completions.create(model="fake", prompt="Say").usage.completion_tokens == 16


@pytest.mark.parametrize(
    ("prompt", "ids"),
    [
        ("a", [[256, 97]]),
        (["a", "b"], [[256, 97], [256, 98]]),
        ([97, 98], [[97, 98]]),
        ([[97], [98, 99]], [[97], [98, 99]]),
    ],
)
def test_prompt_kinds(client: OpenAI, server: LiveServer, prompt: object, ids: list[list[int]]) -> None:
    answer = client.completions.create(model="fake", prompt=prompt, n=2, max_tokens=4)  # type: ignore[arg-type]
    assert [c.index for c in answer.choices] == list(range(2 * len(ids)))
    assert [c.text for c in answer.choices] == ["Hell", "ello"] * len(ids)
    assert sorted(s.prompt_token_ids for s in server.engine.seen) == sorted(ids)
    assert answer.usage.prompt_tokens == sum(map(len, ids))
    assert answer.usage.completion_tokens == 8 * len(ids)


def test_completion_logprobs_and_echo(client: OpenAI) -> None:
    answer = client.completions.create(model="fake", prompt="ab", max_tokens=2, logprobs=1, echo=True)
    choice = answer.choices[0]
    assert choice.text == "abHe"
    assert choice.logprobs.tokens == ["<s>", "a", "b", "H", "e"]
    assert choice.logprobs.token_logprobs == [None, -1.0, -1.0, -1.0, -1.0]
    assert choice.logprobs.top_logprobs[0] is None
    assert len(choice.logprobs.top_logprobs[3]) == 2  # the best one and the token itself
    assert choice.logprobs.text_offset == [0, 3, 4, 5, 6]
    assert answer.usage.completion_tokens == 2


def test_scoring(client: OpenAI) -> None:
    """echo with max_tokens=0: the prompt's logprobs and nothing else."""
    answer = client.completions.create(model="fake", prompt=[97, 98], max_tokens=0, logprobs=0, echo=True)
    choice = answer.choices[0]
    assert (choice.text, choice.finish_reason) == ("ab", "length")
    assert choice.logprobs.token_logprobs == [None, -1.0]
    assert answer.usage.completion_tokens == 0


def test_sampling_fields_arrive(client: OpenAI, server: LiveServer) -> None:
    client.chat.completions.create(
        model="fake",
        messages=ASK,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        stop=["!"],
        presence_penalty=0.5,
        frequency_penalty=-0.5,
        logit_bias={"65": -100},
        max_completion_tokens=50,
        user="someone",
        extra_body={
            "top_k": 3,
            "min_p": 0.1,
            "repetition_penalty": 1.1,
            "min_tokens": 2,
            "ignore_eos": True,
            "stop_token_ids": [5],
            "bad_words": ["bad"],
            "allowed_token_ids": [1, 2],
            "skip_special_tokens": False,
            "include_stop_str_in_output": True,
            "priority": 4,
            "cache_salt": "pepper",
            "some_field_of_tomorrow": {"a": 1},
        },
    )
    seen = server.engine.seen[-1]
    p = seen.params
    assert (p.temperature, p.top_p, p.seed, p.stop, p.max_tokens) == (0.5, 0.9, 7, ["!"], 50)
    assert (p.presence_penalty, p.frequency_penalty, p.logit_bias) == (0.5, -0.5, {65: -100.0})
    assert (p.top_k, p.min_p, p.repetition_penalty, p.min_tokens, p.ignore_eos) == (3, 0.1, 1.1, 2, True)
    assert (p.stop_token_ids, p.bad_words, p.allowed_token_ids) == ([5], ["bad"], [1, 2])
    assert (p.skip_special_tokens, p.include_stop_str_in_output) == (False, True)
    assert (seen.priority, seen.cache_salt) == (4, "pepper")


def test_defaults_of_the_model(client: OpenAI, server: LiveServer) -> None:
    server.engine.default_sampling_params = {"temperature": 0.6, "top_k": 20, "max_tokens": 9}
    client.chat.completions.create(model="fake", messages=ASK, temperature=0.2)
    p = server.engine.seen[-1].params
    assert (p.temperature, p.top_k, p.max_tokens) == (0.2, 20, 9)


def test_chat_takes_the_room_that_is_left(client: OpenAI, server: LiveServer) -> None:
    client.chat.completions.create(model="fake", messages=ASK)
    seen = server.engine.seen[-1]
    assert seen.params.max_tokens == 256 - len(seen.prompt_token_ids)


def test_template_inputs(client: OpenAI, server: LiveServer) -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]

    def prompt(messages: list[dict[str, object]] = ASK, **kwargs: object) -> str:  # type: ignore[assignment]
        client.chat.completions.create(model="fake", messages=messages, **kwargs)  # type: ignore[call-overload]
        return server.engine.tokenizer.decode(server.engine.seen[-1].prompt_token_ids)

    assert prompt(tools=tools).startswith("[tools:add]")
    assert prompt(tools=tools, tool_choice="none") == "<user>Hi\n<assistant>"
    assert prompt(extra_body={"chat_template_kwargs": {"enable_thinking": False}}).startswith("[enable_thinking=False]")
    assert prompt(extra_body={"add_generation_prompt": False}) == "<user>Hi\n"
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert prompt([{"role": "user", "content": parts}]) == "<user>a\nb\n<assistant>"
    assert prompt([{"role": "developer", "content": "x"}, *ASK]).startswith("<system>x")
    said = [*ASK, {"role": "assistant", "content": "I "}]
    assert prompt(said, extra_body={"continue_final_message": True}) == "<user>Hi\n<assistant>I "


def test_errors_have_the_clients_types(client: OpenAI, server: LiveServer) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        client.chat.completions.create(model="gpt-9", messages=ASK)
    assert not_found.value.code == "model_not_found" and "fake" in str(not_found.value)
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="fake", messages=ASK, temperature=-1)
    assert bad.value.param == "temperature"
    server.engine.script.error = QueueFullError("full")
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as full:
            client.chat.completions.create(model="fake", messages=ASK, stream=stream)
        assert full.value.response.headers["retry-after"] == "1"
    server.engine.script.error = None
    server.engine.is_alive, server.engine.dead_error = False, "worker lost"
    with pytest.raises(openai.InternalServerError) as dead:
        client.chat.completions.create(model="fake", messages=ASK)
    assert dead.value.status_code == 503 and "worker lost" in str(dead.value)


def test_error_inside_a_stream(client: OpenAI, server: LiveServer) -> None:
    server.engine.script.fail_after = 3
    got = []
    with pytest.raises(openai.APIError):
        for chunk in client.chat.completions.create(model="fake", messages=ASK, stream=True):
            got.append(chunk.choices[0].delta.content)
    assert "".join(got) == "Hel"
