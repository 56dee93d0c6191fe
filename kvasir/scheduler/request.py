"""Request: the scheduler's record of one request, and its state machine."""

import enum
from typing import Any

from kvasir.errors import EngineError
from kvasir.kv_cache import HashChain
from kvasir.messages import EngineCoreRequest, FinishReason, TokenLogprobs


class RequestState(enum.Enum):
    WAITING = "waiting"  # never placed
    RUNNING = "running"  # has a slot and blocks
    PREEMPTED = "preempted"  # had them, waits to get them again
    FINISHED = "finished"


_LEGAL = {
    RequestState.WAITING: {RequestState.RUNNING, RequestState.FINISHED},
    RequestState.RUNNING: {RequestState.PREEMPTED, RequestState.FINISHED},
    RequestState.PREEMPTED: {RequestState.RUNNING, RequestState.FINISHED},
    RequestState.FINISHED: set(),
}

NO_SLOT = -1


class Request:
    """One request. Tokens are those the host knows; up to a step's worth more may be on the device.

    The two counters that everything else follows from:
        num_computed: tokens whose KV exists once all planned steps have run.
        todo: tokens that exist by then and are not planned yet. A request that decodes has 1: its newest token.
    Their sum is `num_expected`; what exceeds `len(tokens)` is sampled by steps in flight.

    Attributes:
        tokens: prompt, then output.
        max_total: length at which it ends, whatever it says.
        kv_bound: whether `max_total` is the KV cache's size rather than what the caller asked for.
        fast_until: with `num_computed` below this it decodes, holds its next token's block and may sample another
            token, so that nothing is to be decided; 0 while it has more than one token to do.
        order_key: set by the queue policy; smaller runs earlier, the largest is preempted first.
        plain_until: with fewer tokens than this it runs, has its first token out, and another does not fill it: one
            more token that is no stop token is all there is to it. 0 otherwise.
        prompt_logprobs: gathered so far, None if not asked for or sent already.
        parts: what rank 9 features keep of it, by name; it outlives preemptions and goes with the request.
    """

    __slots__ = (
        "chain",
        "client_index",
        "fast_until",
        "kv_bound",
        "max_total",
        "message",
        "min_total",
        "num_cached",
        "num_computed",
        "num_hits",
        "num_prompt",
        "order_key",
        "parts",
        "plain_until",
        "prompt_logprobs",
        "request_id",
        "slot",
        "state",
        "stop_ids",
        "todo",
        "tokens",
        "was_placed",
    )

    def __init__(self, message: EngineCoreRequest, chain: HashChain, max_model_len: int, kv_tokens: int):
        params = message.params
        self.message = message
        self.request_id = message.request_id
        self.client_index = message.client_index
        self.chain = chain
        self.tokens = [*message.prompt_token_ids, *message.output_token_ids]
        self.num_prompt = len(message.prompt_token_ids)
        self.stop_ids = frozenset(message.stop_token_ids)
        self.min_total = self.num_prompt + params.min_tokens
        wanted = max_model_len if params.max_tokens is None else self.num_prompt + params.max_tokens
        self.max_total = min(wanted, max_model_len, kv_tokens + 1)  # the last token needs no KV
        self.kv_bound = self.max_total < min(wanted, max_model_len)
        first_tokens_sent = bool(message.output_token_ids)
        wants_prompt = params.prompt_logprobs is not None and not first_tokens_sent
        self.prompt_logprobs: list[TokenLogprobs] | None = [] if wants_prompt else None
        self.state = RequestState.WAITING
        self.slot = NO_SLOT
        self.num_computed = 0
        self.todo = len(self.tokens)
        self.fast_until = 0
        self.plain_until = 0
        self.num_hits = 0  # blocks found in the prefix cache at the present placement
        self.num_cached = 0  # prompt tokens found there at the first placement
        self.was_placed = False
        self.order_key: tuple[float, int] = (0.0, 0)
        self.parts: dict[str, Any] = {}

    @property
    def num_expected(self) -> int:
        return self.num_computed + self.todo

    @property
    def num_in_flight(self) -> int:
        """Tokens that planned steps will sample and whose result has not come."""
        return self.num_computed + self.todo - len(self.tokens)

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def reads_cache(self) -> bool:
        """Log-probabilities of the prompt exist only where the prompt is computed."""
        return self.prompt_logprobs is None and not self.message.params.skip_reading_prefix_cache

    def become(self, state: RequestState) -> None:
        if state not in _LEGAL[self.state]:
            raise EngineError(f"request {self.request_id} cannot go from {self.state.value} to {state.value}.")
        self.state = state
        self.note_plain()

    def note_plain(self) -> None:
        self.plain_until = self.max_total - 1 if self.state is RequestState.RUNNING and self.num_output else 0

    def rewind(self, keep_in_flight: bool) -> None:
        """Nothing of it is in the cache any more. Tokens of steps in flight still come, or never will."""
        expected = self.num_expected if keep_in_flight else len(self.tokens)
        self.num_computed, self.todo = 0, expected
        self.num_hits, self.fast_until = 0, 0

    def verdict(self, token: int) -> FinishReason | None:
        """Whether the request ends with `token`, its newest."""
        if token in self.stop_ids and len(self.tokens) >= self.min_total:
            return FinishReason.STOP
        if len(self.tokens) >= self.max_total:
            return FinishReason.ERROR if self.kv_bound else FinishReason.LENGTH
        return None

    def __repr__(self) -> str:
        return f"Request({self.request_id}, {self.state.value}, {self.num_computed}+{self.todo} of {self.max_total})"
