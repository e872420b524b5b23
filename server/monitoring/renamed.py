"""One registry's metrics under other names."""

from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector


class Renamed(Collector):
    """Those metrics of a registry whose names begin with one of ``kept``, with another beginning."""

    def __init__(self, registry: CollectorRegistry, kept: Sequence[str], old: str, new: str) -> None:
        self._registry = registry
        self._kept = tuple(kept)
        self._old, self._new = old, new

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        for family in self._registry.collect():
            if family.name.startswith(self._kept):
                family.name = self._renamed(family.name)
                family.samples = [each._replace(name=self._renamed(each.name)) for each in family.samples]
                yield family

    def _renamed(self, name: str) -> str:
        return self._new + name.removeprefix(self._old)
