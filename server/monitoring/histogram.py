"""A Prometheus histogram that takes arrays; prometheus_client's own takes one value a call."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from server.engine.twin.rows import Floats


class ArrayHistogram(Collector):
    """Counts of values up to each bucket's bound, and their sum, for each value of a label if there is one."""

    def __init__(
        self,
        name: str,
        documentation: str,
        bounds: Sequence[float],
        *,
        label: tuple[str, Sequence[str]] | None = None,
        registry: CollectorRegistry,
    ) -> None:
        self._name, self._documentation = name, documentation
        self._label = label
        self._bounds = np.array(bounds, dtype=np.float64)
        series = 1 if label is None else len(label[1])
        self._counts = np.zeros((series, len(bounds) + 1), dtype=np.int64)
        self._sums = np.zeros(series)
        registry.register(self)

    def observe(self, values: Floats, series: int = 0) -> None:
        """Add values to the series of the label's value with that index."""
        buckets = np.searchsorted(self._bounds, values, side="left")
        self._counts[series] += np.bincount(buckets, minlength=self._counts.shape[1])
        self._sums[series] += values.sum(dtype=np.float64)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram for the registry, without a sum if it is signed: Prometheus' sums must not fall."""
        names = None if self._label is None else [self._label[0]]
        family = HistogramMetricFamily(self._name, self._documentation, labels=names)
        bounds = [*map(str, self._bounds.tolist()), "+Inf"]
        for value, counts, total in zip(
            [None] if self._label is None else self._label[1], self._counts.tolist(), self._sums.tolist(), strict=True
        ):
            cumulative = [float(count) for count in itertools.accumulate(counts)]
            family.add_metric([] if value is None else [value], list(zip(bounds, cumulative, strict=True)), total)
        yield family
