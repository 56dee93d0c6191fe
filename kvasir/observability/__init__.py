"""What the engine did, in numbers: Prometheus metrics and the periodic log line.

Ring: front. Input -> output: scheduler figures and request outputs -> Prometheus text, one line of log.

Knows nothing about: HTTP, who asked, what was said. No prompt and no answer ever passes through here.
"""

from kvasir.observability.metrics import FinishedRequestInfo, Metrics

__all__ = ["FinishedRequestInfo", "Metrics"]
