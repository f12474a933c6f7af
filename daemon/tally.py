"""A counter of what the database has counted already."""

from collections.abc import Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


class Tally(Collector):
    """Shows the counts that it was given last, by the values of its labels; none while they are not known."""

    def __init__(self, name: str, text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._text, self._labels = name, text, labels
        self._counts: Mapping[tuple[str, ...], int] = {}
        registry.register(self)

    def show(self, counts: Mapping[tuple[str, ...], int]) -> None:
        """These are the counts now."""
        self._counts = counts

    def collect(self) -> Iterable[CounterMetricFamily]:
        """The exposition's view."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self._counts.items():
            family.add_metric(values, count)
        return [family]
