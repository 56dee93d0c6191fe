"""Counters and histograms as plain numbers, shown to Prometheus when it asks.

Everything is written by one thread (the front's event loop), up to once per token; the client library's own
classes take a lock and several calls for each value, these take an addition.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric


class Histogram:
    """Counts by bucket; `bounds` are upper ends, inclusive, in rising order."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]):
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def cumulative(self) -> list[tuple[str, float]]:
        pairs, running = [], 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            pairs.append(("+Inf" if bound == float("inf") else str(float(bound)), float(running)))
        return pairs


class Values:
    """A named set of gauges, counters and histograms with constant labels; scraped as one registry."""

    def __init__(self, prefix: str, labels: dict[str, str]):
        self._prefix = prefix
        self._names = tuple(labels)
        self._label_values = tuple(labels.values())
        self._help: dict[str, str] = {}
        self.gauges: dict[str, float] = {}
        self.counters: dict[str, float] = {}
        self.labelled: dict[str, tuple[str, dict[str, float]]] = {}
        self.histograms: dict[str, Histogram] = {}

    def gauge(self, name: str, help: str) -> None:
        self._help[name], self.gauges[name] = help, 0.0

    def counter(self, name: str, help: str) -> None:
        self._help[name], self.counters[name] = help, 0.0

    def labelled_counter(self, name: str, label: str, values: Iterable[str], help: str) -> dict[str, float]:
        """A counter with one label more; every value is shown from the start, so that rates exist."""
        self._help[name] = help
        self.labelled[name] = (label, dict.fromkeys(values, 0.0))
        return self.labelled[name][1]

    def histogram(self, name: str, bounds: Sequence[float], help: str) -> Histogram:
        self._help[name] = help
        self.histograms[name] = Histogram(bounds)
        return self.histograms[name]

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client on each scrape."""
        for name, value in self.gauges.items():
            gauge = GaugeMetricFamily(self._prefix + name, self._help[name], labels=self._names)
            gauge.add_metric(self._label_values, value)
            yield gauge
        for name, value in self.counters.items():
            counter = CounterMetricFamily(self._prefix + name, self._help[name], labels=self._names)
            counter.add_metric(self._label_values, value)
            yield counter
        for name, (label, by_value) in self.labelled.items():
            counter = CounterMetricFamily(self._prefix + name, self._help[name], labels=(*self._names, label))
            for label_value, value in by_value.items():
                counter.add_metric((*self._label_values, label_value), value)
            yield counter
        for name, histogram in self.histograms.items():
            family = HistogramMetricFamily(self._prefix + name, self._help[name], labels=self._names)
            family.add_metric(self._label_values, histogram.cumulative(), histogram.total)
            yield family

    def dump(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "gauges": dict(self.gauges),
            "counters": dict(self.counters),
            "labelled": {name: dict(by_value) for name, (_, by_value) in self.labelled.items()},
            "histograms": {name: [list(h.counts), h.total] for name, h in self.histograms.items()},
        }

    def add(self, dump: dict[str, Any]) -> None:
        """Adds another process's dump. Gauges are summed as well, but for times, of which the longest stays."""
        for name, value in dump["gauges"].items():
            known = self.gauges[name]
            self.gauges[name] = max(known, value) if name.endswith("_seconds") else known + value
        for name, value in dump["counters"].items():
            self.counters[name] += value
        for name, values in dump["labelled"].items():
            by_value = self.labelled[name][1]
            for label_value, value in values.items():
                by_value[label_value] = by_value.get(label_value, 0.0) + value
        for name, (counts, total) in dump["histograms"].items():
            histogram = self.histograms[name]
            histogram.counts = [a + b for a, b in zip(histogram.counts, counts, strict=True)]
            histogram.total += total


class _Joined:
    """Several sets as one: samples of one name stand together, as the format wants it."""

    def __init__(self, parts: Sequence[Values]):
        self._parts = parts

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for part in self._parts:
            for family in part.collect():
                if family.name in families:
                    families[family.name].samples.extend(family.samples)
                else:
                    families[family.name] = family
        yield from families.values()


def render(parts: Sequence[Values]) -> bytes:
    """Prometheus text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Joined(parts))  # type: ignore[arg-type]
    return generate_latest(registry)
