"""Several registries' metrics, as one set of metrics with a label more."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector


class Labelled(Collector):
    """All metrics of registries whose metrics have the same names, told apart by a label: its values are the keys."""

    def __init__(self, label: str, registries: Mapping[str, CollectorRegistry]) -> None:
        self._label = label
        self._registries = registries

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        families: dict[str, Metric] = {}
        for value, registry in self._registries.items():
            for family in registry.collect():
                samples = [each._replace(labels={self._label: value} | each.labels) for each in family.samples]
                if (found := families.get(family.name)) is None:
                    family.samples, families[family.name] = samples, family
                else:
                    found.samples += samples
        yield from families.values()
