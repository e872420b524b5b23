"""Confidence metrics of a stream of comparisons, and a sliding window over it, for each variant."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Gauge

from qconf.statistics.drift import Reference
from qconf.wire import ModelList
from server.monitoring.confidence_metrics import ConfidenceMetrics
from server.monitoring.labelled import Labelled
from server.monitoring.live_window import LiveWindow
from server.monitoring.observation import Observation, Observations
from server.monitoring.recent import RecentComparisons, RecentVariant

if TYPE_CHECKING:
    from qconf.run.reference import ReferenceRun


@dataclass(frozen=True)
class WindowOptions:
    """How much a window holds, and the folder that keeps it over restarts."""

    comparisons: int
    seconds: float
    folder: Path | None = None


class Comparisons:
    """Metrics of comparisons in a registry. With several variants they have the label ``variant``.

    ``stream`` distinguishes the saved windows of several streams. Not thread-safe.
    """

    def __init__(
        self,
        models: ModelList,
        reference: "ReferenceRun | None",
        options: WindowOptions,
        registry: CollectorRegistry,
        stream: str = "",
    ) -> None:
        self._waiting: list[list[Observation]] = []
        _, *variants = models.data
        registries = [registry] if len(variants) == 1 else [CollectorRegistry() for _ in variants]
        self._confidence = [ConfidenceMetrics(each) for each in registries]
        self._recent = {variant.id: RecentComparisons() for variant in variants}
        pairs = _pairs(models)
        # A reference of another pair is compared with the first variant.
        compared = pairs.index(reference.digests) if reference and reference.digests in pairs else 0
        if reference is not None:
            same_pair = pairs[compared] == reference.digests
            _describe_reference(registries[compared], str(reference.path), same_pair=same_pair)
        self._windows = [
            LiveWindow(
                options.comparisons,
                options.seconds,
                stream + " ".join(digests),
                reference.reference if reference and number == compared else Reference.of({}),
                each,
                options.folder,
            )
            for number, (digests, each) in enumerate(zip(pairs, registries, strict=True))
        ]
        if len(variants) > 1:
            by_variant = dict(zip((each.id for each in variants), registries, strict=True))
            registry.register(Labelled("variant", by_variant))

    def add(self, observation: list[Observation]) -> None:
        """Buffer what was observed of one comparison, of each variant."""
        self._waiting.append(observation)
        if len(self._waiting) >= self._windows[0].step:
            self.count()

    def count(self) -> None:
        """Count what is buffered."""
        if self._waiting:
            by_variant = zip(*self._waiting, strict=True)
            self._waiting = []
            observers = zip(self._confidence, self._windows, self._recent.values(), strict=True)
            for each, of_variant in zip(by_variant, observers, strict=True):
                observations = Observations(each)
                for observer in of_variant:
                    observer.observe(observations)

    def recent(self) -> dict[str, RecentVariant]:
        """Return what the last minutes were like, by variant."""
        return {name: comparisons.reply() for name, comparisons in self._recent.items()}

    def save(self) -> None:
        """Write the windows to their folder, if there is one. Raises OSError."""
        for window in self._windows:
            window.save()


def _pairs(models: ModelList) -> list[tuple[str, str]]:
    """Return the digests of the base and each variant."""
    base, *variants = models.data
    return [(base.digest, variant.digest) for variant in variants]


def _describe_reference(registry: CollectorRegistry, run: str, *, same_pair: bool) -> None:
    """Name the run that drift is computed from, and whether it is of the pair that is served."""
    about = "The run that live traffic is compared with."
    Gauge("qconf_reference_info", about, ["run", "same_pair"], registry=registry).labels(
        run, str(same_pair).lower()
    ).set(1)
