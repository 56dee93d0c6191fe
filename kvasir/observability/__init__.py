"""What the engine did, in numbers: Prometheus metrics and the periodic log line.

Ring: front. Input -> output: scheduler figures and request outputs -> Prometheus text, one line of log.

Knows nothing about: HTTP, who asked, what was said. No prompt and no answer ever passes through here.
"""

from kvasir.observability.metrics import FinishedRequestInfo, Metrics
from kvasir.observability.observer import AnswerObserver, RequestInfo
from kvasir.observability.stat_loggers import StatLogger, StatLoggers
from kvasir.observability.timeline import Timelines
from kvasir.observability.tracing import make_tracer

__all__ = [
    "AnswerObserver",
    "FinishedRequestInfo",
    "Metrics",
    "RequestInfo",
    "StatLogger",
    "StatLoggers",
    "Timelines",
    "make_tracer",
]
