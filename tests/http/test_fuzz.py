"""Any JSON at all: never a 5xx, always OpenAI's shape, and the engine is there afterwards."""

import time

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvasir.entrypoints.http.anthropic.schema import CountTokensRequest, MessagesRequest
from kvasir.entrypoints.http.responses.schema import InputTokensRequest, ResponsesRequest
from kvasir.entrypoints.http.schema import ChatCompletionRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from tests.http.live import CLIENT, LiveServer

STRUCTS = {
    "/v1/chat/completions": ChatCompletionRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
    "/v1/responses/input_tokens": InputTokensRequest,
    "/v1/messages": MessagesRequest,
    "/v1/messages/count_tokens": CountTokensRequest,
    "/tokenize": TokenizeRequest,
    "/detokenize": DetokenizeRequest,
}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(0, 20),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
BLOCKS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(
            "message function_call function_call_output reasoning text input_text tool_use tool_result thinking".split()
        ),
        "role": st.sampled_from(["user", "assistant", "system", "tool"]),
        **dict.fromkeys(
            "content text output call_id name arguments input thinking tool_use_id id summary".split(), JSON
        ),
    },
)
VALUES = (
    JSON
    | st.lists(BLOCKS, max_size=3)
    | st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": st.lists(BLOCKS, max_size=2)}), max_size=2)
)
CASES = st.sampled_from(sorted(STRUCTS)).flatmap(
    lambda path: st.tuples(
        st.just(path), st.dictionaries(st.sampled_from(STRUCTS[path].__struct_fields__), VALUES, max_size=5)
    )
)
VALID = {
    "/v1/responses": {"input": "Hi"},
    "/v1/responses/input_tokens": {"input": "Hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [72]},
}


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=CASES, base=st.booleans())
def test_any_json(server: LiveServer, case: tuple[str, dict[str, object]], base: bool) -> None:
    path, body = case
    response = CLIENT.post(server.url + path, json={**VALID[path], **body} if base else body)
    assert response.status_code in (200, 400, 404), (response.status_code, response.text, body)
    if response.status_code != 200:
        wanted = {"message", "type"} if path.startswith("/v1/messages") else {"message", "type", "param", "code"}
        assert set(response.json()["error"]) == wanted
    deadline = time.monotonic() + 5
    while server.engine.running:  # a background response goes on after its answer
        assert body.get("background") and time.monotonic() < deadline
