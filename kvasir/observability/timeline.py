"""What happened to each of the latest requests, and when: the answer to "why was this one slow". No text, no ids of
tokens.
"""

import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Any

from kvasir.messages import EngineCoreOutput, EventKind, RequestOutput
from kvasir.observability.observer import RequestInfo

MAX_REQUESTS = 1024
MAX_EVENTS = 256
"""Of one request; of more, the latest are kept."""


@dataclass(slots=True)
class Timeline:
    """Times are in seconds since the epoch, 0.0 where the event has not happened."""

    info: RequestInfo
    scheduled_time: float = 0.0
    first_token_time: float = 0.0
    finish_time: float = 0.0
    finish_reason: str | None = None
    num_cached_tokens: int = 0
    num_output_tokens: int = 0
    num_preemptions: int = 0
    recomputed_tokens: int = 0
    out_s: float = 0.0  # time between preemptions and being placed again
    _out_since: float = 0.0
    events: deque[tuple[float, str, int]] = field(default_factory=lambda: deque(maxlen=MAX_EVENTS))

    def note(self, kind: EventKind, at: float, tokens: int) -> None:
        self.events.append((at, str(kind), tokens))
        if kind is EventKind.SCHEDULED and not self.scheduled_time:
            self.scheduled_time = at
        elif kind is EventKind.PREEMPTED:
            self.num_preemptions += 1
            self._out_since = at
        elif kind is EventKind.RESUMED:
            self.recomputed_tokens += tokens
            if self._out_since:
                self.out_s += max(at - self._out_since, 0.0)
            self._out_since = 0.0

    def phases(self, now: float) -> dict[str, float]:
        """Seconds waiting in the queue, computing the prompt, answering, thrown out; they add up to the total."""
        arrival, end = self.info.arrival_time, self.finish_time or now
        scheduled = self.scheduled_time or end
        first = self.first_token_time or end
        return {
            "queue_s": max(scheduled - arrival, 0.0),
            "prefill_s": max(first - scheduled, 0.0) if self.scheduled_time else 0.0,
            "decode_s": max(end - first - self.out_s, 0.0),
            "preempted_s": self.out_s,
        }

    def report(self, now: float) -> dict[str, Any]:
        phases = self.phases(now)
        total = sum(phases.values())
        largest = max(phases, key=lambda name: phases[name])
        events = [(self.info.arrival_time, "queued", self.info.num_prompt_tokens), *self.events]
        if self.first_token_time:
            events.append((self.first_token_time, "first_token", 1))
        events.sort(key=lambda event: event[0])
        if self.finish_time:
            events.append((self.finish_time, "finished", self.num_output_tokens))
        return {
            "request_id": self.info.request_id,
            "arrival_time": self.info.arrival_time,
            "prompt_tokens": self.info.num_prompt_tokens,
            "cached_tokens": self.num_cached_tokens,
            "output_tokens": self.num_output_tokens,
            "finish_reason": self.finish_reason,
            "preemptions": self.num_preemptions,
            "recomputed_tokens": self.recomputed_tokens,
            "phases": {name: round(seconds, 6) for name, seconds in phases.items()},
            "summary": f"{total:.3f} s so far" if not self.finish_time else f"{total:.3f} s",
            "most_of_it": f"{_WORDS[largest]}: {phases[largest]:.3f} s",
            "events": [
                {"at_s": round(moment - self.info.arrival_time, 6), "event": kind, "tokens": tokens}
                for moment, kind, tokens in events
            ],
        }


_WORDS = {
    "queue_s": "waiting for a place",
    "prefill_s": "computing the prompt",
    "decode_s": "generating",
    "preempted_s": "thrown out for want of KV cache",
}


class Timelines:
    """A ring of the latest requests; the oldest make room."""

    def __init__(self) -> None:
        self._by_id: OrderedDict[str, Timeline] = OrderedDict()
        self._by_asked: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def add(self, info: RequestInfo) -> Timeline:
        while len(self._by_id) >= MAX_REQUESTS:
            old, timeline = self._by_id.popitem(last=False)
            siblings = self._by_asked.get(timeline.info.asked_as, [])
            if old in siblings:
                siblings.remove(old)
            if not siblings:
                self._by_asked.pop(timeline.info.asked_as, None)
        timeline = self._by_id[info.request_id] = Timeline(info)
        self._by_asked.setdefault(info.asked_as, []).append(info.request_id)
        return timeline

    def find(self, request_id: str) -> list[Timeline]:
        """By the HTTP request's id, an answer's id (`chatcmpl-...`) or the engine's own id."""
        for name in (request_id, request_id.partition("-")[2], request_id.partition("_")[2]):
            if name in self._by_asked:
                return [self._by_id[i] for i in self._by_asked[name]]
            if name in self._by_id:
                return [self._by_id[name]]
        return []

    def on_core_output(self, said: EngineCoreOutput) -> None:
        """Called with each message of the core, before anybody hears of its tokens."""
        for event in said.events:
            timeline = self._by_id.get(event.request_id)
            if timeline is None:  # one of n answers: `INDEX_id`
                timeline = self._by_id.get(event.request_id.partition("_")[2])
            if timeline is not None:
                timeline.note(event.kind, event.time, event.tokens)


class TimelineObserver:
    """Fills in what the answers themselves tell."""

    __slots__ = ("_left", "timeline")
    hears_outputs = True

    def __init__(self, timeline: Timeline):
        self.timeline = timeline
        self._left = timeline.info.params.n

    def on_output(self, output: RequestOutput, n: int) -> None:
        timeline = self.timeline
        if not timeline.first_token_time:
            timeline.first_token_time = output.metrics.first_token_time
            timeline.num_cached_tokens = output.num_cached_tokens
        for answer in output.outputs:
            timeline.num_output_tokens += len(answer.token_ids)
            if answer.finish_reason is not None:
                self._left -= 1
                timeline.finish_reason = answer.finish_reason
                if not self._left:
                    timeline.finish_time = output.metrics.last_token_time

    def on_closed(self, reason: str) -> None:
        if not self.timeline.finish_time:
            self.timeline.finish_time, self.timeline.finish_reason = time.time(), reason
