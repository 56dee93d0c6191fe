"""What runs in one step, and who waits."""

from dataclasses import dataclass

from kvasir.config.option import AUTO, at_least, option

POLICIES = ("fcfs", "priority", "deadline", "fair")


@dataclass(frozen=True)
class SchedulerConfig:
    """What runs in one step, and who waits."""

    max_num_seqs: int = option(
        AUTO,
        help="Requests that run at the same time. auto: 1024 on a card with 70 GB or more, else 256.",
        check=at_least(1),
        affects_graph=True,
    )
    max_num_batched_tokens: int = option(
        AUTO,
        help="Tokens of one step, prompts and outputs together. auto: on a card with 70 GB or more 8192 served and "
        "16384 offline, on a smaller one 2048 and 8192, on CPU 2048 and 4096 (a long step there is a long pause "
        "for every other stream).",
        check=at_least(1),
        unit="tokens",
        affects_graph=True,
    )
    enable_chunked_prefill: bool = option(
        True, help="Split long prompts over several steps, so that running requests go on meanwhile."
    )
    long_prefill_token_threshold: int = option(
        0,
        help="Most prompt tokens one request may take of a step; 0: only the token budget bounds it.",
        check=at_least(0),
        unit="tokens",
    )
    scheduling_policy: str = option(
        "fcfs",
        help="Order of the waiting: fcfs (first come, first served), priority (lower numbers first, then arrival; "
        "waiting counts), deadline (whose time is up first) or fair (equal shares between API keys, by weight, "
        "priority within each).",
        choices=POLICIES,
    )
    async_scheduling: bool = option(AUTO, help="Plan step N+1 while step N still runs. auto: on.")
    max_queued_requests: int = option(
        AUTO,
        help="Requests that may wait; one more is refused with HTTP 429. auto: served, 8 x max_num_seqs, at least "
        "1024; offline, 1,000,000, since the caller holds the list anyway.",
        aliases=("--max-num-queued-reqs",),
        check=at_least(1),
    )
    max_queued_tokens: int = option(
        AUTO,
        help="Prompt tokens of requests that may wait for their first token; more are refused with HTTP 429. "
        "auto: 1024 for each request that may wait, at least four contexts.",
        check=at_least(1),
        unit="tokens",
    )
    max_queue_wait: float = option(
        0.0,
        help="Longest expected wait for a first token; a request that would wait longer is refused with HTTP 429. "
        "0: no such bound.",
        check=at_least(0),
        unit="s",
    )
    forecast_kv_growth: bool = option(
        True,
        help="Let a request in only if the KV cache will hold what everybody is expected to generate; off, running "
        "requests are thrown out and computed again when it does not.",
    )
