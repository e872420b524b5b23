"""Admission of requests, bounded in requests, sequences and tokens, so that admitted requests are served in time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.errors import InvalidRequest, Overloaded
from server.monitoring.service_metrics import ServiceMetrics
from server.scoring.quotas import Quotas

HALF_LIFE_SECONDS = 30.0
"""Of the measured rate: long enough for steps and pauses, short enough for a change of what is asked."""
FEWEST_SECONDS = 10.0
"""Of work, before a rate is computed: what has begun and not finished makes the first seconds look slow."""


CLIENT_SHARE = 0.75


@dataclass(frozen=True)
class Limits:
    """What may be in flight: requests, sequences, and as many tokens as are scored in ``queue_seconds``."""

    requests: int
    sequences: int
    queue_seconds: float

    def of_one_client(self) -> "Limits":
        """Return what one client may have in flight."""
        return Limits(max(1, int(CLIENT_SHARE * self.requests)), self.sequences, CLIENT_SHARE * self.queue_seconds)


CHARACTERS_PER_TOKEN = 3
"""A guess before tokenization, a little low for English; the rate is measured in the same guesses."""


def about(text: str | list[int]) -> int:
    """Estimate the number of tokens of a text."""
    return len(text) if isinstance(text, list) else len(text) // CHARACTERS_PER_TOKEN + 1


@dataclass(frozen=True)
class Cost:
    """What a request asks for, known before it is tokenized: sequences, and about how many tokens."""

    sequences: int
    tokens: int


NOTHING = Cost(sequences=0, tokens=0)


class Rate:
    """Tokens per second while there is work, recent seconds counting most. Idle time does not count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tokens = self._seconds = 0.0
        self._since: float | None = None

    def working(self) -> None:
        """Note that there is work from now on."""
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
    """Holds room for requests while they are served.

    One client gets ``CLIENT_SHARE`` of each limit at most, so that there is room for others.
    """

    def __init__(
        self, limits: Limits, metrics: ServiceMetrics, quotas: Quotas, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits = limits
        self._quotas = quotas
        self._metrics = metrics
        self._rate = Rate(clock)
        self._all = _Held()
        self._clients: dict[str, _Held] = {}
        metrics.sequences_limit.set(limits.sequences)

    @contextmanager
    def room(self, client: str, cost: Cost) -> Iterator[None]:
        """Hold room for a request. Raises Overloaded or QuotaExceeded, with the time after which to try again.

        Raises InvalidRequest for a request that would not fit into an idle server.
        """
        if cost.sequences > self._limits.sequences:
            raise InvalidRequest(
                f"the request has {cost.sequences} sequences, expected at most {self._limits.sequences} at once"
            )
        self.check(client, cost)
        self._quotas.request(client)
        self._take(client, cost, 1)
        self._rate.working()
        finished = False
        try:
            yield
            finished = True
        finally:
            self._take(client, cost, -1)
            self._rate.done(cost.tokens if finished else 0, idle=not self._all.requests)

    def check(self, client: str, cost: Cost = NOTHING) -> None:
        """Raise Overloaded if there is no room, without a cost even for the smallest request; or QuotaExceeded."""
        self._quotas.check(client)
        self._check("the server", self._all, self._limits, cost)
        if (held := self._clients.get(client)) is not None:
            self._check("this client", held, self._limits.of_one_client(), cost)

    def _check(self, whose: str, held: "_Held", limits: Limits, cost: Cost) -> None:
        if not held.requests:
            return
        if held.requests >= limits.requests:
            raise Overloaded(
                f"{held.requests} requests of {whose} are in flight, the most that are taken",
                retry_after=self._seconds(held.tokens / held.requests),
            )
        if (excess := held.sequences + cost.sequences - limits.sequences) > 0:
            raise Overloaded(
                f"{held.sequences} sequences of {whose} are in flight, and {cost.sequences} more would exceed "
                f"{limits.sequences}",
                retry_after=self._seconds(held.tokens * min(1.0, excess / held.sequences)),
            )
        if (rate := self._rate.per_second) is None:
            return
        if (excess_tokens := held.tokens + cost.tokens - limits.queue_seconds * rate) > 0:
            raise Overloaded(
                f"about {held.tokens} tokens of {whose} are in flight, {held.tokens / rate:.0f} s of work at the "
                "present rate",
                retry_after=self._seconds(min(excess_tokens, held.tokens)),
            )

    def _seconds(self, tokens: float) -> int:
        """Return the seconds in which that many tokens are scored, at least one, as Retry-After has no fractions."""
        rate = self._rate.per_second
        return max(1, math.ceil(tokens / rate)) if rate else 1

    def _take(self, client: str, cost: Cost, sign: int) -> None:
        its = self._clients.setdefault(client, _Held())
        for held in (self._all, its):
            held.requests += sign
            held.sequences += sign * cost.sequences
            held.tokens += sign * cost.tokens
        if not its.requests:
            del self._clients[client]
        self._metrics.requests_in_flight.set(self._all.requests)
        self._metrics.sequences_in_flight.set(self._all.sequences)


@dataclass
class _Held:
    """What is in flight."""

    requests: int = 0
    sequences: int = 0
    tokens: int = 0
