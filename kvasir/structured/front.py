"""Door to the front: what a request wants its answer to look like, checked and attached to it."""

from typing import Any

import msgspec

from kvasir.messages import EngineCoreRequest, SamplingParams, StructuredOutputsParams
from kvasir.structured.checking import GrammarChecker
from kvasir.structured.formats import PART, encode, format_of


class StructuredStage:
    """A `RequestStage`. The grammar is read once by a helper process before the request may go on.

    Args:
        defaults: `disable_any_whitespace` and `disable_additional_properties` of requests that do not ask for them.
    """

    def __init__(self, defaults: dict[str, Any] | None = None, checker: GrammarChecker | None = None):
        self._defaults = {name: True for name, value in (defaults or {}).items() if name in _SWITCHES and value}
        self._checker = checker or GrammarChecker()

    def is_slow(self, params: SamplingParams) -> bool:
        return params.structured_outputs is not None and not self._checker.knows(
            self._format(params.structured_outputs)
        )

    def check(self, params: SamplingParams) -> None:
        if params.structured_outputs is not None:
            self._checker.check(self._format(params.structured_outputs))

    def enrich(self, request: EngineCoreRequest) -> EngineCoreRequest:
        wanted = request.params.structured_outputs
        if wanted is None:
            return request
        return msgspec.structs.replace(
            request,
            params=msgspec.structs.replace(request.params, structured_outputs=None),
            parts={**request.parts, PART: self._format(wanted)},
        )

    def finish(self, request_id: str) -> None:
        """Nothing was taken."""

    def _format(self, wanted: StructuredOutputsParams) -> str:
        return encode(format_of(msgspec.structs.replace(wanted, **self._defaults) if self._defaults else wanted))


_SWITCHES = ("disable_any_whitespace", "disable_additional_properties")
