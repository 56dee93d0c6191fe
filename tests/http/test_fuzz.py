"""Any JSON at all: never a 5xx, always OpenAI's shape, and the engine is there afterwards."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvasir.entrypoints.http.schema import ChatCompletionRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from tests.http.live import CLIENT, LiveServer

FIELDS = sorted(
    {
        f
        for c in (ChatCompletionRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest)
        for f in c.__struct_fields__
    }
)
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
BODIES = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5)
VALID = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "/v1/completions": {"prompt": "Hi"},
    "/tokenize": {"prompt": "Hi"},
    "/detokenize": {"tokens": [72]},
}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(sorted(VALID)), body=BODIES, base=st.booleans())
def test_any_json(server: LiveServer, path: str, body: dict[str, object], base: bool) -> None:
    response = CLIENT.post(server.url + path, json={**VALID[path], **body} if base else body)
    assert response.status_code in (200, 400, 404), (response.status_code, response.text, body)
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert server.engine.running == 0
