"""All metrics of a server, in one registry."""

import asyncio
import logging
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics import exposition as openmetrics

from qconf.wire import ModelList
from server.errors import StartError
from server.monitoring.comparisons import Comparisons, WindowOptions
from server.monitoring.labelled import Labelled
from server.monitoring.observation import Observation
from server.monitoring.recent import RecentReply
from server.monitoring.renamed import Renamed
from server.monitoring.service_metrics import ServiceMetrics
from server.scoring.scored import Scored

if TYPE_CHECKING:
    from qconf.run.reference import ReferenceRun

logger = logging.getLogger(__name__)
SAVE_SECONDS = 10
MIRRORED = (
    "qconf_comparisons",
    "qconf_compared_tokens",
    "qconf_top_token_disagreements",
    "qconf_token_",
    "qconf_window_comparisons",
    "qconf_drift_",
)
"""Metrics that mirrored calls have too, as qconf_shadow_*; the others are of choices, which they do not have."""


def load_reference(path: Path) -> "ReferenceRun":
    """Read the run that live traffic is compared with. StartError says why it cannot be read."""
    from qconf.run.choices import EvalError  # runs are read with pyarrow, which nothing else here needs
    from qconf.run.reference import read_reference

    try:
        return read_reference(path)
    except EvalError as error:
        raise StartError(f"--reference: {error}") from error


def make_folder(folder: Path, option: str) -> None:
    """Make the folder that an option names. StartError if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StartError(f"{option} {folder} cannot be written to: {error.strerror}") from error


class Monitor:
    """What is counted about the served models, and for each variant a window over the latest comparisons.

    With several variants their metrics have the label ``variant``. ``folder`` keeps the windows over restarts.
    Comparisons of mirrored calls have metrics and a window of their own for each of their ``sources``, with the label
    ``source``.
    """

    def __init__(
        self,
        models: ModelList,
        reference: "ReferenceRun | None" = None,
        *,
        window_comparisons: int,
        window_seconds: float,
        folder: Path | None = None,
        sources: Sequence[str] = (),
    ) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(REGISTRY)  # vLLM's own, and those of the process
        self.metrics = ServiceMetrics(self.registry)
        self.metrics.describe(models)
        self._lock = threading.Lock()
        options = WindowOptions(window_comparisons, window_seconds, folder)
        self._asked = Comparisons(models, reference, options, self.registry)
        registries = {source: CollectorRegistry() for source in sources}
        self._mirrored = {
            source: Comparisons(models, reference, options, registry, stream=f"mirrored {source} ")
            for source, registry in registries.items()
        }
        self._streams = [self._asked, *self._mirrored.values()]
        theirs = CollectorRegistry()
        theirs.register(Labelled("source", registries))
        self.registry.register(Renamed(theirs, MIRRORED, "qconf_", "qconf_shadow_"))

    def observe(self, scored: Sequence[Scored]) -> None:
        """Buffer one comparison; buffered ones are counted together, at the latest when metrics are read."""
        self.add([Observation.of(each) for each in scored])

    def add(self, observation: list[Observation]) -> None:
        """Buffer what was observed of one comparison, of each variant."""
        with self._lock:
            self._asked.add(observation)

    def observe_mirrored(self, source: str, scored: Sequence[Scored]) -> None:
        """Buffer one comparison of a mirrored call."""
        self.add_mirrored(source, [Observation.of(each) for each in scored])

    def add_mirrored(self, source: str, observation: list[Observation]) -> None:
        """Buffer what was observed of one comparison of a mirrored call, of each variant."""
        with self._lock:
            self._mirrored[source].add(observation)

    def _count(self) -> None:
        for stream in self._streams:
            stream.count()

    def recent(self) -> RecentReply:
        """Return what the last minutes were like, without mirrored calls."""
        with self._lock:
            self._count()
            variants = self._asked.recent()
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
            text: bytes = openmetrics.generate_latest(self.registry, openmetrics.ALLOWUTF8)  # type: ignore[no-untyped-call]
            return text, openmetrics.CONTENT_TYPE_LATEST
        return encode(self.registry), content_type

    def save(self) -> None:
        """Write the windows to their folder, if there is one."""
        with self._lock:
            self._count()
        try:
            for stream in self._streams:
                stream.save()
        except OSError as error:  # the next attempt may succeed; keep serving
            logger.warning("--state-dir cannot be written to: %s", error.strerror)

    async def keep(self) -> None:
        """Save regularly, so that a killed server loses only seconds of its window."""
        while True:
            await asyncio.sleep(SAVE_SECONDS)
            await asyncio.to_thread(self.save)
