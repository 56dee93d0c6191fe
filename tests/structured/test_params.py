"""StructuredOutputsParams: the kinds and their bounds."""

import pydantic
import pytest

from kvasir import GuidedDecodingParams, SamplingParams, StructuredOutputsParams
from kvasir.errors import UserError
from kvasir.messages.structured import MAX_STRUCTURE_BYTES


class Person(pydantic.BaseModel):
    name: str


def nested(depth: int) -> dict:
    schema: dict = {"type": "integer"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "exactly one"),
        ({"json": {"type": "object"}, "regex": "a"}, "got json, regex"),
        ({"json": "{"}, "no valid JSON"),
        ({"json": "5"}, "must be an object"),
        ({"json": [1]}, "must be an object"),
        ({"json": nested(70)}, "64 levels"),
        ({"json": {"enum": ["x" * MAX_STRUCTURE_BYTES]}}, f"bound is {MAX_STRUCTURE_BYTES}"),
        ({"json": {"enum": [object()]}}, "cannot be written as JSON"),
        ({"regex": 5}, "regex must be a text"),
        ({"choice": []}, "choice must be a list"),
        ({"choice": "yes"}, "choice must be a list"),
        ({"choice": ["a", ""]}, "not empty"),
        ({"choice": ["a"] * 10_001}, "10001"),
        ({"json_object": True, "whitespace_pattern": ""}, "whitespace_pattern"),
        ({"structural_tag": "[]"}, "must be an object"),
    ],
)
def test_wrong(fields: dict, text: str) -> None:
    with pytest.raises(UserError, match=text):
        StructuredOutputsParams(**fields)


def test_ways_to_give_a_schema() -> None:
    schema = Person.model_json_schema()
    as_text = StructuredOutputsParams(json='{"type": "object"}')
    assert StructuredOutputsParams(json=Person).json == schema
    assert as_text.json == {"type": "object"} and as_text.kind == "json"
    params = SamplingParams(structured_outputs={"json": schema})  # type: ignore[arg-type]
    assert params.structured_outputs == StructuredOutputsParams(json=schema)


def test_the_older_name() -> None:
    params = SamplingParams(guided_decoding=GuidedDecodingParams(choice=["a"]))
    assert params.structured_outputs == StructuredOutputsParams(choice=["a"]) and params.guided_decoding is None
    assert params.clone().structured_outputs == params.structured_outputs
    with pytest.raises(UserError, match="one of the two"):
        SamplingParams(
            guided_decoding=StructuredOutputsParams(regex="a"), structured_outputs=StructuredOutputsParams(regex="b")
        )
    with pytest.raises(UserError, match="got str"):
        SamplingParams(structured_outputs="json")  # type: ignore[arg-type]
