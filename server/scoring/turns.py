"""Who is served next: a bounded resource, shared fairly between clients and between the requests of each."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
MOST_KEYS = 10_000
"""Clients whose use is remembered while a line lasts, before those that owe nothing are forgotten."""


class Origin(NamedTuple):
    """Where work comes from: a client, and one of the client's requests."""

    client: str
    request: int


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
    client fairly between requests. A turn begins while any unit is free, so that one larger than all of it fits."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._used = 0
        self._clients: _Line[str] = _Line()
        self._requests: dict[str, _Line[_Waiting]] = {}

    @asynccontextmanager
    async def turn(self, origin: Origin, cost: int) -> AsyncIterator[None]:
        """Wait for a turn and hold ``cost`` units during it."""
        if self._requests or self._used >= self._capacity:
            await self._wait(origin, cost)
        else:
            self._used += cost
        try:
            yield
        finally:
            self._used -= cost
            self._grant()

    async def _wait(self, origin: Origin, cost: int) -> None:
        waiting = _Waiting(origin, cost, asyncio.get_running_loop().create_future())
        line = self._requests.get(origin.client)
        if line is None:
            line = self._requests[origin.client] = _Line()
            self._clients.push(origin.client, origin.client)
        line.push(origin.request, waiting, cost)
        try:
            await waiting.ready
        except asyncio.CancelledError:
            if waiting.ready.done() and not waiting.ready.cancelled():  # granted, but never taken
                self._used -= cost
            self._grant()
            raise

    def _grant(self) -> None:
        while self._requests and self._used < self._capacity:
            client = self._clients.pop()
            line = self._requests[client]
            waiting = line.pop()
            if waiting.ready.cancelled():
                cost = 0
            else:
                cost = waiting.cost
                self._used += cost
                waiting.ready.set_result(None)
            self._clients.charge(client, cost)
            if line.entries:
                self._clients.push(client, client)
            else:
                del self._requests[client]
        if not self._requests:
            self._clients = _Line()
