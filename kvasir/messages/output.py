"""EngineCoreOutput (core -> front, one a step) and RequestOutput (front -> caller)."""

import enum

import msgspec

from kvasir.messages.step import TokenLogprobs


class FinishReason(enum.IntEnum):
    STOP = 0
    LENGTH = 1
    ABORT = 2
    ERROR = 3

    def __str__(self) -> str:
        return self.name.lower()


class Finished(msgspec.Struct, array_like=True, omit_defaults=True):
    row: int
    reason: FinishReason
    stop_token_id: int | None = None  # the id that ended it, when one did
    error: str | None = None


class StepPhases(msgspec.Struct, array_like=True):
    """Where the time of steps went, summed since the last report, while that is measured.

    Attributes:
        worker_s: from the start of a step in the worker to its result.
        phase_s: the core's time by phase; worker time passes in `wait`, and beside the rest when steps overlap.
        decode, prompt: of turns of decode rows only, and of turns with prompts: how often each phase, "step" (all
            phases), "host" (all but `wait`) and "worker" took how long, as `kvasir.utils.spread` counts it.
    """

    num_steps: int
    worker_s: float
    phase_s: dict[str, float]
    decode: dict[str, dict[int, int]] = {}
    prompt: dict[str, dict[int, int]] = {}


class SchedulerStats(msgspec.Struct, array_like=True, omit_defaults=True):
    num_running: int = 0
    num_waiting: int = 0
    kv_blocks_total: int = 0
    kv_blocks_used: int = 0
    prefix_queries: int = 0  # tokens asked for since the last report, counted once per request
    prefix_hits: int = 0
    num_preempted: int = 0
    num_scheduled_tokens: int = 0
    step_s: float = 0.0  # of the latest step
    num_recomputed_tokens: int = 0  # lost by preemption, not found in the cache, computed again
    # Steps that computed prompt tokens, and those that only went on with answers.
    num_prefill_steps: int = 0
    num_decode_steps: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    # What the core itself took for them, beside the worker.
    schedule_s: float = 0.0
    update_s: float = 0.0
    measured: StepPhases | None = None


class EventKind(enum.IntEnum):
    SCHEDULED = 0  # placed for the first time; tokens: found in the prefix cache
    PREEMPTED = 1  # tokens: computed and lost, unless the cache still has them later
    RESUMED = 2  # placed again; tokens: to be computed again

    def __str__(self) -> str:
        return self.name.lower()


class RequestEvent(msgspec.Struct, array_like=True):
    """Something that happened to a request between its tokens. `time` is `time.time()` of the core."""

    request_id: str
    kind: EventKind
    time: float
    tokens: int


class EngineCoreOutput(msgspec.Struct, array_like=True, omit_defaults=True):
    """All that one step has to say to one front process, in columns.

    The front drops rows of another `epoch`, and tokens whose index it already has: so a request
    that was resubmitted after a crash never repeats a token.

    Attributes:
        epoch: of the core that speaks; a restarted core has a new one.
        request_ids: one per row.
        first_index: place of the row's first new token in its output.
        num_new: new tokens of each row (0: the row only finishes).
        token_ids: flat, in row order.
        logprobs: row -> one entry per new token; a token and its logprobs travel together.
        prompt_logprobs: row -> all of the prompt's, sent with the first token.
        num_cached_tokens: row -> prompt tokens found in the prefix cache, with the first token.
        events: of this front's requests since the last message, in order.
        client_index: the front process whose requests these are.
    """

    epoch: int
    step_id: int
    time: float
    request_ids: list[str] = []
    first_index: list[int] = []
    num_new: list[int] = []
    token_ids: list[int] = []
    finished: list[Finished] = []
    logprobs: dict[int, list[TokenLogprobs]] = {}
    prompt_logprobs: dict[int, list[TokenLogprobs]] = {}
    num_cached_tokens: dict[int, int] = {}
    stats: SchedulerStats | None = None
    events: list[RequestEvent] = []
    client_index: int = 0


# What follows is made for every token, so it is kept out of the garbage collector's sight: it can be part of no cycle.


class Logprob(msgspec.Struct, gc=False):
    logprob: float
    rank: int | None = None
    decoded_token: str | None = None


class CompletionOutput(msgspec.Struct, gc=False):
    """One of the n answers of a request."""

    index: int
    text: str
    token_ids: list[int]
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        return self.finish_reason is not None


class RequestMetrics(msgspec.Struct, gc=False):
    """Times in seconds since the epoch; 0.0 where the event has not happened."""

    arrival_time: float = 0.0
    first_token_time: float = 0.0
    last_token_time: float = 0.0


class RequestOutput(msgspec.Struct, gc=False):
    """What `LLM.generate` returns for one prompt, and what `AsyncLLM.generate` yields."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    num_cached_tokens: int = 0
    metrics: RequestMetrics = msgspec.field(default_factory=RequestMetrics)
    error: str | None = None
