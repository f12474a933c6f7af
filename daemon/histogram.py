"""A histogram that takes a whole batch at once: one observation of the library's own costs more than a handler."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class BatchHistogram(Collector):
    """Buckets, counts and sums per label value; without a label, under ''."""

    def __init__(
        self, name: str, text: str, buckets: Sequence[float], registry: CollectorRegistry, label: str | None = None
    ) -> None:
        self._name, self._text, self._label = name, text, label
        self._bounds = list(buckets)
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}
        registry.register(self)

    def observe(self, value: float, label: str = "", times: int = 1) -> None:
        """Add a value, so many times."""
        self._of(label)[bisect_left(self._bounds, value)] += times
        self._sums[label] += value * times

    def observe_each(self, values: Sequence[float], label: str = "") -> None:
        """Add many values."""
        counts, bounds = self._of(label), self._bounds
        for value in values:
            counts[bisect_left(bounds, value)] += 1
        self._sums[label] += sum(values)

    def _of(self, label: str) -> list[int]:
        if label not in self._counts:
            self._counts[label], self._sums[label] = [0] * (len(self._bounds) + 1), 0.0
        return self._counts[label]

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The exposition's view: cumulative buckets."""
        family = HistogramMetricFamily(self._name, self._text, labels=[self._label] if self._label else [])
        for label, counts in self._counts.items():
            total, buckets = 0, []
            for bound, count in zip([*self._bounds, float("inf")], counts, strict=True):
                total += count
                buckets.append(("+Inf" if bound == float("inf") else str(float(bound)), total))
            family.add_metric([label] if self._label else [], buckets, self._sums[label])
        return [family]
