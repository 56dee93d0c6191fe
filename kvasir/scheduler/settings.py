"""SchedulerSettings: the resolved values the scheduler works with."""

from dataclasses import dataclass

from kvasir.errors import ConfigError


@dataclass(frozen=True)
class SchedulerSettings:
    """Limits and policy.

    Attributes:
        max_num_seqs: requests that run at once; also the number of worker slots.
        max_num_batched_tokens: tokens one step computes, prefill and decode together.
        max_model_len: prompt and output tokens of one request.
        policy: "fcfs", "priority", "deadline" or "fair".
        max_queued_requests: requests that may wait; one more is refused with QueueFullError.
        long_prefill_token_threshold: most prompt tokens of one request in one step; 0 = no such limit.
        overlap: the caller schedules a step before the result of the one before it has come. The scheduler
            works the same either way; it is here so that one record says how the core runs.
        max_step_failures: a request that so many failed steps made start over, without getting past the failure, is
            given up; the last of them is a step that it has to itself.

    Raises:
        ConfigError: a value cannot work.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    enable_chunked_prefill: bool = True
    policy: str = "fcfs"
    max_queued_requests: int = 65_536
    long_prefill_token_threshold: int = 0
    overlap: bool = False
    max_step_failures: int = 3

    def __post_init__(self) -> None:
        for name in (
            "max_num_seqs",
            "max_num_batched_tokens",
            "max_model_len",
            "max_queued_requests",
            "max_step_failures",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}.")
        if self.long_prefill_token_threshold < 0:
            raise ConfigError(
                f"long_prefill_token_threshold must be 0 (off) or more, got {self.long_prefill_token_threshold}."
            )
        if not self.enable_chunked_prefill and self.max_num_batched_tokens < self.max_model_len:
            raise ConfigError(
                f"without chunked prefill a prompt runs in one step, so max_num_batched_tokens "
                f"({self.max_num_batched_tokens}) must be at least max_model_len ({self.max_model_len}): "
                "raise the one, lower the other, or enable chunked prefill."
            )
