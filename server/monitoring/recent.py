"""What the last minutes were like, for the page."""

import time
from collections import deque
from collections.abc import Callable

import numpy as np
from pydantic import BaseModel

from server.monitoring.observation import Observations
from server.monitoring.sliding import SlidingSums

SECONDS = 300.0
MOST_REQUESTS = 10_000
MOST_COMPARISONS = 2**31
ROUTES = ("/compare", "/compare/batch", "/v1/completions", "/v1/chat/completions")
"""Routes whose requests are counted: those that score or generate."""


class RecentVariant(BaseModel):
    """Comparisons with one variant. A mean of nothing is null; ``flip_rate`` is over items of two choices or more."""

    comparisons: int
    mean_kl: float | None
    items: int
    flip_rate: float | None


class RecentReply(BaseModel):
    """The last ``seconds``, fewer where more than 10,000 requests came. ``p95_ms`` is of the answered requests."""

    seconds: float
    requests: int
    requests_per_second: float
    p95_ms: float | None
    variants: dict[str, RecentVariant]


class RecentRequests:
    """The latest requests that score or generate: when each ended and how long it took."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests: deque[tuple[float, float | None]] = deque(maxlen=MOST_REQUESTS)

    def add(self, route: str, status: int, seconds: float) -> None:
        """Add a request that ended. One that failed counts as a request and has no latency."""
        if route in ROUTES:
            self._requests.append((self._clock(), seconds if status == 200 else None))

    def reply(self, variants: dict[str, RecentVariant]) -> RecentReply:
        """Return the rate and the 95th percentile of the latency."""
        now = self._clock()
        latest = [each for each in tuple(self._requests) if each[0] > now - SECONDS]
        span = now - latest[0][0] if len(latest) == MOST_REQUESTS else SECONDS
        latencies = [seconds for _, seconds in latest if seconds is not None]
        return RecentReply(
            seconds=span,
            requests=len(latest),
            requests_per_second=len(latest) / span,
            p95_ms=1e3 * float(np.percentile(latencies, 95)) if latencies else None,
            variants=variants,
        )


class RecentComparisons:
    """KL and flips of the latest comparisons with one variant."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._window = SlidingSums(4, MOST_COMPARISONS, SECONDS)

    def observe(self, observations: Observations) -> None:
        """Add comparisons."""
        choices = observations.choices
        flips = float((choices[:, 0] != choices[:, 1]).sum())
        kl = observations.tokens["kl"]
        sums = np.array([len(kl), float(kl.sum()), len(choices), flips])
        self._window.add(sums, observations.count, self._clock())

    def reply(self) -> RecentVariant:
        """Return the means."""
        comparisons, (tokens, kl, items, flips) = self._window.total(self._clock())
        return RecentVariant(
            comparisons=comparisons,
            mean_kl=kl / tokens if tokens else None,
            items=int(items),
            flip_rate=flips / items if items else None,
        )
