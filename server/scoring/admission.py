"""Which requests are taken: bounded in requests, sequences and tokens, so that whoever is taken is served in time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.errors import InvalidRequest, Overloaded
from server.monitoring.service_metrics import ServiceMetrics

HALF_LIFE_SECONDS = 30.0
"""Of the measured rate: long enough for steps and pauses, short enough for a change of what is asked."""
FEWEST_SECONDS = 0.5
"""Of work, before a rate is told from it."""


@dataclass(frozen=True)
class Limits:
    """What may be in flight: requests, sequences, and as many tokens as are scored in ``queue_seconds``."""

    requests: int
    sequences: int
    queue_seconds: float


CHARACTERS_PER_TOKEN = 3
"""A guess before tokenization, a little low for English; the rate is measured in the same guesses."""


def about(text: str | list[int]) -> int:
    """About how many tokens a text has."""
    return len(text) if isinstance(text, list) else len(text) // CHARACTERS_PER_TOKEN + 1


@dataclass(frozen=True)
class Cost:
    """What a request asks for, known before it is tokenized: sequences, and about how many tokens."""

    sequences: int
    tokens: int


class Rate:
    """Tokens per second while there is work, recent seconds counting most. Idle time does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = self._seconds = 0.0
        self._since: float | None = None

    def working(self) -> None:
        """There is work from now on."""
        if self._since is None:
            self._since = self._clock()

    def done(self, tokens: int, *, idle: bool) -> None:
        """Count finished tokens; ``idle`` says that nothing is left."""
        if self._since is not None:
            elapsed = self._clock() - self._since
            keep = 0.5 ** (elapsed / HALF_LIFE_SECONDS)
            self._tokens, self._seconds = self._tokens * keep, self._seconds * keep + elapsed
            self._since = None if idle else self._clock()
        self._tokens += tokens

    @property
    def per_second(self) -> float | None:
        """Tokens per second, or None before enough was seen."""
        return self._tokens / self._seconds if self._tokens and self._seconds >= FEWEST_SECONDS else None


class Admission:
    """Holds room for requests while they are served."""

    def __init__(self, limits: Limits, metrics: ServiceMetrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._metrics = metrics
        self._rate = Rate(clock)
        self._requests = self._sequences = self._tokens = 0
        metrics.sequences_limit.set(limits.sequences)

    @contextmanager
    def room(self, cost: Cost) -> Iterator[None]:
        """Hold room for a request. Raises Overloaded, with the time after which there should be room again.

        Raises InvalidRequest for a request that would not fit into an idle server.
        """
        if cost.sequences > self._limits.sequences:
            raise InvalidRequest(
                f"the request has {cost.sequences} sequences, expected at most {self._limits.sequences} at once"
            )
        self._check(cost)
        self._take(cost, 1)
        self._rate.working()
        finished = False
        try:
            yield
            finished = True
        finally:
            self._take(cost, -1)
            self._rate.done(cost.tokens if finished else 0, idle=not self._requests)

    def _check(self, cost: Cost) -> None:
        if not self._requests:
            return
        if self._requests >= self._limits.requests:
            raise Overloaded(
                f"{self._requests} requests are in flight, the most that are taken",
                retry_after=self._seconds(self._tokens / self._requests),
            )
        sequences = self._sequences + cost.sequences
        if sequences > self._limits.sequences:
            raise Overloaded(
                f"{self._sequences} sequences are in flight, and {cost.sequences} more would exceed "
                f"{self._limits.sequences}",
                retry_after=self._seconds(self._tokens * (sequences - self._limits.sequences) / self._sequences),
            )
        if (rate := self._rate.per_second) is None:
            return
        excess = self._tokens + cost.tokens - self._limits.queue_seconds * rate
        if excess > 0:
            raise Overloaded(
                f"about {self._tokens} tokens are in flight, {self._tokens / rate:.0f} s of work at the present rate",
                retry_after=self._seconds(min(excess, self._tokens)),
            )

    def _seconds(self, tokens: float) -> int:
        """The time in which that many tokens are scored: at least a second, as Retry-After has no fractions."""
        rate = self._rate.per_second
        return max(1, math.ceil(tokens / rate)) if rate else 1

    def _take(self, cost: Cost, sign: int) -> None:
        self._requests += sign
        self._sequences += sign * cost.sequences
        self._tokens += sign * cost.tokens
        self._metrics.requests_in_flight.set(self._requests)
        self._metrics.sequences_in_flight.set(self._sequences)
