"""SEAM RequestStage: what a feature does to a request at the front (grammars, adapter names, images)."""

from typing import Protocol

from kvasir.messages import EngineCoreRequest, SamplingParams


class RequestStage(Protocol):
    """Stages run in a fixed order. One that fails takes its request with it and nothing else."""

    def is_slow(self, params: SamplingParams) -> bool:
        """Whether `check` takes longer than an event loop may wait; it is then called on a thread, once more."""

    def check(self, params: SamplingParams) -> None:
        """Raises UserError when the request asks for what cannot be; runs before the prompt is tokenized."""

    def enrich(self, request: EngineCoreRequest) -> EngineCoreRequest:
        """Returns the request with what the feature adds to it (the same object when it adds nothing)."""

    def finish(self, request_id: str) -> None:
        """The request has ended, in whatever way; give back what `enrich` took."""
