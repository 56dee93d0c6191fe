import pytest

from kvasir.config import EngineArgs
from kvasir.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"backends": "auto"}, "backends is none of them"),
        ({"backend": "mine"}, "as its backend"),
        ({"disable_any_whitespace": "yes"}, "true or false for disable_any_whitespace"),
        ("[]", "JSON object"),
    ],
)
def test_wrong(value: object, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        EngineArgs(structured_outputs_config=value)


def test_as_vllm_writes_it() -> None:
    args = EngineArgs(structured_outputs_config='{"backend": "xgrammar", "disable_any_whitespace": true}')
    assert args.structured_outputs_config == {"backend": "xgrammar", "disable_any_whitespace": True}
