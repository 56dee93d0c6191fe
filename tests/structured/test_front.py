"""The stage at the front: it checks once, and what travels is the format, not what was asked."""

from typing import Any

import pytest

from kvasir.errors import RequestFailedError, UserError
from kvasir.messages import SamplingParams, StructuredOutputsParams
from kvasir.structured.formats import PART, JsonSchema, decode
from kvasir.structured.front import StructuredStage
from tests.engine.test_input import processor


class Checker:
    def __init__(self, complaint: str = ""):
        self.seen: list[str] = []
        self._complaint = complaint

    def knows(self, text: str) -> bool:
        return text in self.seen

    def check(self, text: str) -> None:
        self.seen.append(text)
        if self._complaint == "a bug":
            raise KeyError("a bug")
        if self._complaint:
            raise UserError(self._complaint)


def stage(complaint: str = "", **defaults: Any) -> StructuredStage:
    return StructuredStage(defaults, Checker(complaint))  # type: ignore[arg-type]


PARAMS = SamplingParams(structured_outputs=StructuredOutputsParams(json={"type": "object"}), n=3)


def test_what_travels() -> None:
    given = processor(stages=[stage()])
    request = given.process("r", "a", PARAMS)
    assert decode(request.parts[PART]) == JsonSchema({"type": "object"})
    assert request.params.structured_outputs is None and PARAMS.structured_outputs is not None
    assert request.params.n == 3
    assert given.process("r", "a", SamplingParams()).parts == {}


def test_slow_until_it_is_known() -> None:
    given = processor(stages=[stage()])
    assert not given.is_slow(SamplingParams())
    assert given.is_slow(PARAMS)
    given.check(PARAMS)
    assert not given.is_slow(PARAMS)


def test_what_is_wrong() -> None:
    with pytest.raises(UserError, match="no good"):
        processor(stages=[stage("no good")]).process("r", "a", PARAMS)
    with pytest.raises(RequestFailedError, match="StructuredStage failed on this request"):
        processor(stages=[stage("a bug")]).process("r", "a", PARAMS)


def test_defaults_hold_where_the_request_is_silent() -> None:
    given = processor(
        stages=[stage(disable_any_whitespace=True, disable_additional_properties=True, backend="guidance")]
    )
    fmt = decode(given.process("r", "a", PARAMS).parts[PART])
    assert fmt == JsonSchema({"type": "object", "additionalProperties": False}, "")
    inside = StructuredOutputsParams(structural_tag={"format": {"type": "sequence", "elements": [
        {"type": "json_schema", "json_schema": {"type": "object"}}, {"type": "any_text"}]}})  # fmt: skip
    tree = decode(given.process("r", "a", SamplingParams(structured_outputs=inside)).parts[PART])
    assert tree.elements[0] == fmt  # type: ignore[union-attr]
