"""The last answers a front has made, as times and counts, for people who watch."""

from collections import deque

import msgspec

MAX_RECENT = 128


class RecentAnswer(msgspec.Struct):
    """One answer from its first output on. Times are in seconds since the epoch, 0.0 where the event has not happened.

    Attributes:
        request_id: the engine's: the client's X-Request-Id with a suffix.
        index: which of a request's n answers.
        num_output_tokens: known when the answer has ended.
        finish_reason: None while it goes on.
    """

    request_id: str
    index: int
    arrival_time: float
    first_token_time: float
    num_prompt_tokens: int
    num_cached_tokens: int
    num_output_tokens: int = 0
    finish_time: float = 0.0
    finish_reason: str | None = None


class RecentAnswers:
    """Newest last; the oldest make room."""

    def __init__(self) -> None:
        self._answers: deque[RecentAnswer] = deque(maxlen=MAX_RECENT)

    def add(self, answer: RecentAnswer) -> RecentAnswer:
        """Whoever adds an answer goes on filling it in."""
        self._answers.append(answer)
        return answer

    def list(self) -> "list[RecentAnswer]":
        return list(self._answers)
