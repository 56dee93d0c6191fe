"""Rules for the scheduler: how many requests, how many tokens a step, how long a queue."""

from kvasir.assembly.facts import Facts
from kvasir.assembly.rules.decision import Decision
from kvasir.config.option import AUTO
from kvasir.errors import ConfigError

# A bound all the same: a million waiting prompts are a mistake worth a message, not a crash for want of memory.
OFFLINE_QUEUE = 1_000_000


def max_num_seqs(asked: int | str, facts: Facts) -> Decision:
    """Decode reads all weights once per step whatever the batch, so more rows are nearly free while memory lasts."""
    if asked != AUTO:
        return Decision("max_num_seqs", asked, "asked for")
    if facts.is_large_card:
        return Decision("max_num_seqs", 1024, "a card with 70 GB or more")
    return Decision("max_num_seqs", 256, "CPU" if facts.device == "cpu" else "a card with less than 70 GB")


def max_num_batched_tokens(
    asked: int | str, *, num_seqs: int, model_len: int, chunked_prefill: bool, offline: bool, facts: Facts
) -> Decision:
    """The token budget of a step: long enough to keep the machine busy, short enough that streams do not stutter.

    Served, every running stream waits for the whole step, so the step is kept shorter than offline, where only
    the sum counts. On a CPU a step of 2048 prompt tokens can take seconds even for a small model.

    Raises:
        ConfigError: fewer tokens than requests, or a prompt that could never be scheduled.
    """
    name = "max_num_batched_tokens"
    if asked == AUTO:
        served, unwatched = (2048, 4096) if facts.device == "cpu" else (2048, 8192)
        if facts.is_large_card:
            served, unwatched = 8192, 16384
        value, why = (unwatched, "offline") if offline else (served, "served")
        if value < num_seqs:
            value, why = num_seqs, "one token for each of max_num_seqs"
        if not chunked_prefill and value < model_len:
            value, why = model_len, "without chunked prefill the longest prompt must fit into one step"
        return Decision(name, value, why)
    if int(asked) < num_seqs:
        raise ConfigError(
            f"max_num_batched_tokens is {asked}, but max_num_seqs is {num_seqs}: each running request needs at least "
            "one token of a step. Raise the first or lower the second.",
            param=name,
        )
    return Decision(name, asked, "asked for")


def max_queued_requests(asked: int | str, *, num_seqs: int, offline: bool) -> Decision:
    if asked != AUTO:
        return Decision("max_queued_requests", asked, "asked for")
    if offline:
        return Decision("max_queued_requests", OFFLINE_QUEUE, "offline the caller holds the list")
    return Decision("max_queued_requests", max(1024, 8 * num_seqs), "8 x max_num_seqs, at least 1024")


def max_queued_tokens(asked: int | str, *, num_queued: int, model_len: int) -> Decision:
    """A queue may be long in requests or in tokens; the second is what the wait comes from."""
    if asked != AUTO:
        return Decision("max_queued_tokens", asked, "asked for")
    tokens = max(1024 * num_queued, 4 * model_len)
    return Decision("max_queued_tokens", tokens, "1024 for each request that may wait, at least four contexts")


def async_scheduling(asked: bool | str) -> Decision:
    if asked != AUTO:
        return Decision("async_scheduling", asked, "asked for")
    return Decision("async_scheduling", True, "planning costs nothing while the device computes")
