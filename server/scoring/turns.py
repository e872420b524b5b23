"""Who is served next: a bounded resource, shared fairly between clients and between the requests of each."""

import asyncio
import itertools
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Generic, NamedTuple, TypeVar

from server.scoring.rate import Rate

T = TypeVar("T")
SHARED_SECONDS = 30.0
"""After the latest single request that came in beside another client's work."""
SHORT_SECONDS = 0.03
QUIET_SECONDS = 0.1
"""Without other work, before work in the background begins: a client that asks again at once does not meet it."""
MOST_KEYS = 10_000
"""Clients whose use is remembered while a line lasts, before those that owe nothing are forgotten."""


class Origin(NamedTuple):
    """Where work comes from: a client, and one of the client's requests, which is told of each sequence's end, and of
    what is generated, in tokens of scoring. ``background`` work begins only while there is no other."""

    client: str
    request: int
    scored: Callable[[], None] = lambda: None
    generated: Callable[[int], None] = lambda tokens: None
    background: bool = False


@dataclass
class _Line(Generic[T]):
    """A start-time fair queue: whoever has used least since the line formed comes next.

    P. Goyal, H. Vin, H. Cheng, "Start-time fair queueing", SIGCOMM 1996. ``clock`` is the start tag of the entry
    served last; a newcomer starts there, and so neither waits for the past of others nor profits from having been away.
    """

    clock: float = 0.0
    used: dict[Hashable, float] = field(default_factory=dict)
    entries: list[tuple[float, int, T]] = field(default_factory=list)
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def push(self, key: Hashable, entry: T, cost: float = 0.0) -> None:
        start = max(self.clock, self.used.get(key, 0.0))
        self.used[key] = start + cost
        heappush(self.entries, (start, next(self.numbers), entry))

    def pop(self) -> T:
        self.clock, _, entry = heappop(self.entries)
        return entry

    def charge(self, key: Hashable, cost: float) -> None:
        """Charge the key of the entry that was popped last."""
        self.used[key] = self.clock + cost
        if len(self.used) > MOST_KEYS:
            self.used = {key: used for key, used in self.used.items() if used > self.clock}


@dataclass
class _Waiting:
    origin: Origin
    cost: int
    ready: "asyncio.Future[None]"


class Turns:
    """A resource of a number of units. Those who wait get theirs by ``Origin``: fairly between clients, and within a
    client fairly between requests. A turn begins while any unit is free, so that one larger than all of it fits.

    Where turns that were given cannot be taken back, a newcomer waits for them whatever comes next. So while single
    requests come in beside another client's work, no client is given more than is done in ``SHORT_SECONDS``.
    """

    def __init__(self, capacity: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._clock = clock
        self._rate = Rate(clock)
        self._shared_until = clock()
        self._used = 0
        self._held: Counter[str] = Counter()
        self._clients: _Line[str] = _Line()
        self._aside: set[str] = set()
        self._requests: dict[str, _Line[_Waiting]] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._idle_since = -math.inf

    @property
    def _share(self) -> float | None:
        """Units that one client may hold, None for all: while single requests come, and the rate is known."""
        rate = self._rate.per_second if self._clock() < self._shared_until else None
        return None if rate is None else SHORT_SECONDS * rate

    @asynccontextmanager
    async def turn(self, origin: Origin, cost: int) -> AsyncIterator[None]:
        """Wait for a turn and hold ``cost`` units during it.

        In the background, wait until nobody else has had or wanted a turn for a moment, and hold nothing: others do
        not wait.
        """
        if origin.background:
            while (left := QUIET_SECONDS - self.idle_seconds) > 0:
                await (asyncio.sleep(left) if self._idle.is_set() else self._idle.wait())
            yield
            return
        if self._used and not self._held[origin.client] and origin.client not in self._requests:
            self._shared_until = self._clock() + SHARED_SECONDS
        await self._wait(origin, cost)
        try:
            yield
        finally:
            self._give_back(origin.client, cost)
            self._count(cost, idle=not self._used)
            self._grant()

    def worked(self, cost: int) -> None:
        """Count so many units of work, done within a turn that goes on."""
        self._count(cost, idle=False)
        self._rate.working()

    def _count(self, cost: int, *, idle: bool) -> None:
        if self._share is None:
            self._rate.done(cost, idle=idle)
        else:
            # Short turns are less efficient. Measured, they would make themselves shorter and shorter.
            self._rate.pause()

    @property
    def idle_seconds(self) -> float:
        """The time for which nobody has had or wanted a turn, other than in the background."""
        return self._clock() - self._idle_since if self._idle.is_set() else 0.0

    def _take(self, client: str, cost: int) -> None:
        self._idle.clear()
        self._used += cost
        self._held[client] += cost
        self._rate.working()

    def _give_back(self, client: str, cost: int) -> None:
        self._used -= cost
        self._held[client] -= cost
        if not self._held[client]:
            del self._held[client]
        if client in self._aside and not self._has_its_share(client):
            self._aside.remove(client)
            self._clients.push(client, client)

    def _has_its_share(self, client: str) -> bool:
        share = self._share
        return share is not None and self._held[client] >= share

    async def _wait(self, origin: Origin, cost: int) -> None:
        waiting = _Waiting(origin, cost, asyncio.get_running_loop().create_future())
        line = self._requests.get(origin.client)
        if line is None:
            line = self._requests[origin.client] = _Line()
            self._clients.push(origin.client, origin.client)
        line.push(origin.request, waiting, cost)
        self._grant()
        try:
            await waiting.ready
        except asyncio.CancelledError:
            if waiting.ready.done() and not waiting.ready.cancelled():  # granted, but never taken
                self._give_back(origin.client, cost)
            self._grant()
            raise

    def _grant(self) -> None:
        while self._clients.entries and self._used < self._capacity:
            client = self._clients.pop()
            if self._has_its_share(client):
                self._aside.add(client)
                continue
            line = self._requests[client]
            waiting = line.pop()
            if waiting.ready.cancelled():
                cost = 0
            else:
                cost = waiting.cost
                self._take(client, cost)
                waiting.ready.set_result(None)
            self._clients.charge(client, cost)
            if line.entries:
                self._clients.push(client, client)
            else:
                del self._requests[client]
        if not self._requests:
            self._clients = _Line()
            if not self._used and not self._idle.is_set():
                self._idle.set()
                self._idle_since = self._clock()
