"""LLMEngine: the synchronous engine. Its caller turns the loop, one `step` at a time."""

from collections.abc import Callable, Sequence
from typing import Any, Self

from kvasir.config import EngineArgs, KvasirConfig
from kvasir.engine.client import InProcessClient
from kvasir.engine.fanout import fan_out
from kvasir.engine.input import InputProcessor, prompt_text
from kvasir.engine.output import OutputProcessor
from kvasir.messages import Prompt, RequestOutput, SamplingParams, SchedulerStats
from kvasir.tokenizer import Tokenizer


class LLMEngine:
    """Front and core in one process.

    Use `LLMEngine.from_engine_args(EngineArgs(model=...))`; the constructor takes the parts, as tests do.
    """

    def __init__(
        self,
        config: KvasirConfig,
        client: InProcessClient,
        input_processor: InputProcessor,
        tokenizer: Tokenizer | None,
        default_sampling_params: dict[str, Any] | None = None,
    ):
        self.config = config
        self.client = client
        self.tokenizer = tokenizer
        self.default_sampling_params = default_sampling_params or {}
        self._input = input_processor
        self._output = OutputProcessor(tokenizer)
        self._stats_listeners: list[Callable[[SchedulerStats], None]] = []

    @classmethod
    def from_engine_args(cls, args: EngineArgs) -> Self:
        """Resolves the options, loads the model, and is ready for requests when it returns."""
        return _factory()(args)

    def add_request(
        self,
        request_id: str,
        prompt: Prompt,
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        arrival_time: float | None = None,
    ) -> None:
        """Queues a request.

        Raises:
            UserError: the request is wrong. QueueFullError: the waiting queue is at its bound.
        """
        request = self._input.process(
            request_id, prompt, params, priority=priority, cache_salt=cache_salt, arrival_time=arrival_time
        )
        children = fan_out(request)
        for child in children:
            self.client.add_request(child)
        self._output.add_request(request, children, prompt_text(prompt))

    def step(self) -> list[RequestOutput]:
        """One turn of the loop; what became known for callers in it."""
        outputs: list[RequestOutput] = []
        for said in self.client.step():
            if said.stats is not None:
                for listener in self._stats_listeners:
                    listener(said.stats)
            done = self._output.process(said)
            self.client.abort_requests(done.to_abort)
            outputs.extend(done.read())
        return outputs

    def abort_request(self, request_ids: Sequence[str]) -> list[RequestOutput]:
        """Ends requests at once; their blocks are free before the next step. Unknown ids are ignored."""
        aborted = self._output.abort(list(request_ids))
        self.client.abort_requests(aborted.to_abort)
        return aborted.read()

    def has_unfinished_requests(self) -> bool:
        return self._output.num_unfinished > 0

    def get_num_unfinished_requests(self) -> int:
        return self._output.num_unfinished

    def add_stats_listener(self, listener: Callable[[SchedulerStats], None]) -> None:
        """`listener` gets the scheduler's figures a few times a second while there is work, and when it ends."""
        self._stats_listeners.append(listener)

    def reset_prefix_cache(self) -> bool:
        """Forgets all cached prefixes; False while requests still hold blocks."""
        return bool(self.client.call("reset_prefix_cache"))

    def start_profile(self, num_steps: int | None = None) -> None:
        """Traces the next steps of the worker, 100 if nothing is said; needs the option `profile`."""
        self.client.call("worker", name="start_profile", args={"num_steps": num_steps})

    def stop_profile(self) -> str:
        """Ends the trace; returns the file it was written to."""
        return str(self.client.call("worker", name="stop_profile"))

    def shutdown(self) -> None:
        self.client.close()


def _factory() -> Callable[[EngineArgs], Any]:
    """The composition root, found by name: it ranks above this package."""
    from importlib import import_module

    return import_module("kvasir.assembly.front").make_llm_engine
