"""How long the parts of one request take."""

import time
from collections.abc import Sequence

from qconf.wire import Timing
from server.engine.twin.rows import Rows


class Stopwatch:
    """Times the parts of one request."""

    def __init__(self) -> None:
        self._started = self._tokenized = self._scored = time.perf_counter()
        self._queued = 0.0

    def tokenized(self) -> None:
        """Note that tokenization is done."""
        self._tokenized = time.perf_counter()

    def scored(self, first: Sequence[Sequence[Rows]]) -> None:
        """Note that the engine is done; it began with these sequences' rows, all submitted at once."""
        self._scored = time.perf_counter()
        self._queued = min((rows[0].queue_seconds for rows in first), default=0.0)

    def timing(self) -> Timing:
        """Return the parts up to now."""
        return Timing(
            tokenize_ms=1e3 * (self._tokenized - self._started),
            queue_ms=1e3 * self._queued,
            engine_ms=1e3 * (self._scored - self._tokenized - self._queued),
            total_ms=1e3 * (time.perf_counter() - self._started),
        )
