"""All metrics of a server, in one registry."""

import asyncio
import logging
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import exposition as openmetrics

from qconf.statistics.drift import Reference
from qconf.wire import ModelList
from server.errors import StartError
from server.monitoring.confidence_metrics import ConfidenceMetrics
from server.monitoring.live_window import LiveWindow
from server.monitoring.observation import Observation, Observations
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
    """What is counted about a pair, and the window over its latest comparisons.

    ``folder`` keeps the window over restarts.
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
        digests = tuple(model.digest for model in models.data)
        if reference is not None:
            self.metrics.compared_with(str(reference.path), same_pair=digests == reference.digests)
        self._lock = threading.Lock()
        self._waiting: list[Observation] = []
        self._confidence = ConfidenceMetrics(self._registry)
        self._window = LiveWindow(
            window_comparisons,
            window_seconds,
            " ".join(digests),
            Reference.of({}) if reference is None else reference.reference,
            self._registry,
            folder,
        )

    def observe(self, scored: Scored) -> None:
        """Buffer one comparison; buffered ones are counted together, at the latest when metrics are read."""
        self.add(Observation.of(scored))

    def add(self, observation: Observation) -> None:
        """Buffer one observation."""
        with self._lock:
            self._waiting.append(observation)
            if len(self._waiting) >= self._window.step:
                self._count()

    def _count(self) -> None:
        if self._waiting:
            observations = Observations(self._waiting)
            self._waiting = []
            self._confidence.observe(observations)
            self._window.observe(observations)

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
        """Write the window to its folder, if it has one."""
        with self._lock:
            self._count()
        try:
            self._window.save()
        except OSError as error:  # the next attempt may succeed; keep serving
            logger.warning("--state-dir cannot be written to: %s", error.strerror)

    async def keep(self) -> None:
        """Save regularly, so that a killed server loses only seconds of its window."""
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await asyncio.to_thread(self.save)
