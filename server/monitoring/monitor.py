"""All metrics of a server, in one registry."""

import asyncio
import logging
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import exposition as openmetrics

from qconf.statistics.drift import Reference
from qconf.wire import ModelList
from server.errors import StartError
from server.monitoring.by_variant import ByVariant
from server.monitoring.confidence_metrics import ConfidenceMetrics
from server.monitoring.live_window import LiveWindow
from server.monitoring.observation import Observation, Observations
from server.monitoring.recent import RecentComparisons, RecentReply
from server.monitoring.service_metrics import ServiceMetrics
from server.scoring.scored import Scored

if TYPE_CHECKING:
    from qconf.run.reference import ReferenceRun

logger = logging.getLogger(__name__)
SAVE_SECONDS = 10


def load_reference(path: Path) -> "ReferenceRun":
    """Read the run that live traffic is compared with. StartError says why it cannot be read."""
    from qconf.run.choices import EvalError  # runs are read with pyarrow, which nothing else here needs
    from qconf.run.reference import read_reference

    try:
        return read_reference(path)
    except EvalError as error:
        raise StartError(f"--reference: {error}") from error


def make_state_folder(folder: Path) -> None:
    """Make the folder that keeps the window. StartError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StartError(f"--state-dir {folder} cannot be written to: {error.strerror}") from error


class Monitor:
    """What is counted about the served models, and for each variant a window over the latest comparisons.

    With several variants their metrics have the label ``variant``. ``folder`` keeps the windows over restarts.
    """

    def __init__(
        self,
        models: ModelList,
        reference: "ReferenceRun | None" = None,
        *,
        window_comparisons: int,
        window_seconds: float,
        folder: Path | None = None,
    ) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(REGISTRY)  # vLLM's own, and those of the process
        self.metrics = ServiceMetrics(self._registry)
        self.metrics.describe(models)
        base, *variants = models.data
        pairs = [(base.digest, variant.digest) for variant in variants]
        # A reference of other models is compared with the first variant.
        referred = pairs.index(reference.digests) if reference and reference.digests in pairs else 0
        self._lock = threading.Lock()
        self._waiting: list[list[Observation]] = []
        registries = [self._registry] if len(variants) == 1 else [CollectorRegistry() for _ in variants]
        if reference is not None:
            same_pair = pairs[referred] == reference.digests
            _describe_reference(registries[referred], str(reference.path), same_pair=same_pair)
        self._confidence = [ConfidenceMetrics(registry) for registry in registries]
        self._recent = {variant.id: RecentComparisons() for variant in variants}
        self._windows = [
            LiveWindow(
                window_comparisons,
                window_seconds,
                " ".join(digests),
                reference.reference if reference and number == referred else Reference.of({}),
                registry,
                folder,
            )
            for number, (digests, registry) in enumerate(zip(pairs, registries, strict=True))
        ]
        if len(variants) > 1:
            self._registry.register(ByVariant(dict(zip((each.id for each in variants), registries, strict=True))))

    def observe(self, scored: Sequence[Scored]) -> None:
        """Buffer one comparison; buffered ones are counted together, at the latest when metrics are read."""
        self.add([Observation.of(each) for each in scored])

    def add(self, observation: list[Observation]) -> None:
        """Buffer what was observed of one comparison, of each variant."""
        with self._lock:
            self._waiting.append(observation)
            if len(self._waiting) >= self._windows[0].step:
                self._count()

    def _count(self) -> None:
        if self._waiting:
            by_variant = zip(*self._waiting, strict=True)
            self._waiting = []
            observers = zip(self._confidence, self._windows, self._recent.values(), strict=True)
            for each, of_variant in zip(by_variant, observers, strict=True):
                observations = Observations(each)
                for observer in of_variant:
                    observer.observe(observations)

    def recent(self) -> RecentReply:
        """Return what the last minutes were like."""
        with self._lock:
            self._count()
            variants = {name: comparisons.reply() for name, comparisons in self._recent.items()}
        return self.metrics.recent.reply(variants)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics in the format that an Accept header asks for, and its content type."""
        encode, content_type = choose_encoder(accept)
        with self._lock:  # held meanwhile, so that all series are of one moment
            self._count()
            return self._encoded(encode, content_type)

    def _encoded(self, encode: Callable[[CollectorRegistry], bytes], content_type: str) -> tuple[bytes, str]:
        if content_type.startswith("application/openmetrics-text"):
            # With the escaping that Prometheus asks for by default, prometheus_client (0.26) takes the colon out of
            # the names of vLLM's samples, and leaves it in those of its families. All names are plain: none is escaped.
            text: bytes = openmetrics.generate_latest(self._registry, openmetrics.ALLOWUTF8)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return encode(self._registry), content_type

    def save(self) -> None:
        """Write the windows to their folder, if there is one."""
        with self._lock:
            self._count()
        try:
            for window in self._windows:
                window.save()
        except OSError as error:  # the next attempt may succeed; keep serving
            logger.warning("--state-dir cannot be written to: %s", error.strerror)

    async def keep(self) -> None:
        """Save regularly, so that a killed server loses only seconds of its window."""
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await asyncio.to_thread(self.save)


def _describe_reference(registry: CollectorRegistry, run: str, *, same_pair: bool) -> None:
    """Name the run that drift is computed from, and whether it is of the pair that is served."""
    about = "The run that live traffic is compared with."
    Gauge("qconf_reference_info", about, ["run", "same_pair"], registry=registry).labels(
        run, str(same_pair).lower()
    ).set(1)
