"""SchedulerOutput (core -> worker) and ModelRunnerOutput (worker -> core): one columnar message a step."""

from typing import Any

import msgspec

from kvasir.messages.params import SamplingParams


class SlotRequest(msgspec.Struct, array_like=True, omit_defaults=True):
    """A request put into a worker slot, in full: new, or resumed after a preemption.

    Attributes:
        slot: row of the worker's device state.
        token_ids: prompt followed by the output tokens known so far.
        num_prompt_tokens: border between the two.
        num_computed_tokens: tokens whose KV is in `block_ids` already (prefix hits).
        block_ids: KV blocks in order, those for this step included.
    """

    request_id: str
    slot: int
    token_ids: list[int]
    num_prompt_tokens: int
    num_computed_tokens: int
    block_ids: list[int]
    params: SamplingParams
    seed: int
    stop_token_ids: list[int] = []
    eos_token_ids: list[int] = []
    bad_words_token_ids: list[list[int]] = []


class SchedulerOutput(msgspec.Struct, array_like=True, omit_defaults=True):
    """What one step runs. Columns have one entry per scheduled row; state not named here stays on the device.

    The worker applies it in this order: `freed_slots`, `new_requests`, new blocks, then the rows.

    Attributes:
        step_id: counts up by one; names this step in results, logs and faults.
        slots: rows of this step.
        num_scheduled_tokens: tokens each row computes (>= 1).
        num_computed_tokens: tokens of each row whose KV exists before this step.
        samples: whether a row samples a token (its last known token is computed in this step).
        num_new_blocks: how many of `new_block_ids` each row appends to its block table
            (0 for rows in `new_requests`, which carry theirs).
        new_block_ids: flat.
        freed_slots: slots whose request ended or was preempted since the last step.
        parts: data of rank 9 features by name, empty when none is on.
    """

    step_id: int
    slots: list[int] = []
    num_scheduled_tokens: list[int] = []
    num_computed_tokens: list[int] = []
    samples: list[bool] = []
    num_new_blocks: list[int] = []
    new_block_ids: list[int] = []
    new_requests: list[SlotRequest] = []
    freed_slots: list[int] = []
    parts: dict[str, Any] = {}

    @property
    def num_rows(self) -> int:
        return len(self.slots)

    @property
    def only_decodes(self) -> bool:
        """Every row goes on with one token; nobody is new."""
        return not self.new_requests and self.num_scheduled_tokens.count(1) == len(self.slots)

    @property
    def total_tokens(self) -> int:
        return sum(self.num_scheduled_tokens)


class TokenMasks(msgspec.Struct, array_like=True):
    """Which tokens slots may sample in a step; slots that are not named may sample any.

    Attributes:
        slots: one per mask.
        words: the masks one after the other, each ceil(V / 32) int32 words in the byte order of the machine; bit
            i of a mask (the lowest of a word first) allows token i.
    """

    slots: list[int]
    words: bytearray


class TokenLogprobs(msgspec.Struct, array_like=True):
    """Log-probabilities at one position: the chosen token first, then the best k in falling order.

    `rank` is the chosen token's place (1 = most likely).
    """

    token_ids: list[int]
    logprobs: list[float]
    rank: int


class ModelRunnerOutput(msgspec.Struct, array_like=True, omit_defaults=True):
    """What one step gave; rows are those of the SchedulerOutput of the same `step_id`.

    Attributes:
        num_sampled: tokens sampled by each row (0 for rows that do not sample).
        token_ids: flat, in row order.
        logprobs: row -> one entry per sampled token, for rows that asked.
        prompt_logprobs: row -> entries for prompt positions computed in this step, for rows that asked;
            entry i belongs to prompt position `num_computed_tokens + 1 + i`.
        errors: row -> message; that request failed on its own, its neighbours did not.
        step_s: seconds the worker spent on the step (host clock).
        read_s: the last of them, for making this message once the device was done.
    """

    step_id: int
    num_sampled: list[int] = []
    token_ids: list[int] = []
    logprobs: dict[int, list[TokenLogprobs]] = {}
    prompt_logprobs: dict[int, list[TokenLogprobs]] = {}
    errors: dict[int, str] = {}
    step_s: float = 0.0
    parts: dict[str, Any] = {}
    read_s: float = 0.0


class Ready(msgspec.Struct, array_like=True):
    """First word of a worker (or core): what a torch-free core must know before the first step."""

    protocol_version: int
    num_blocks: int
    block_size: int
    max_model_len: int
    max_num_seqs: int
    kv_bytes_per_block: int
    device: str
    attention_backend: str
    startup: list[tuple[str, float]] = []  # (phase, seconds), in order


PROTOCOL_VERSION = 1
