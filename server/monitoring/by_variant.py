"""One registry's metrics for each quantized variant, as one set of metrics with a label more."""

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

LABEL = "variant"


class ByVariant(Collector):
    """All metrics of several registries, whose metrics have the same names, told apart by the label ``variant``."""

    def __init__(self, registries: Mapping[str, CollectorRegistry]) -> None:
        self._registries = registries

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        families: dict[str, Metric] = {}
        for variant, registry in self._registries.items():
            for family in registry.collect():
                samples = [each._replace(labels={LABEL: variant} | each.labels) for each in family.samples]
                if (found := families.get(family.name)) is None:
                    family.samples, families[family.name] = samples, family
                else:
                    found.samples += samples
        yield from families.values()
