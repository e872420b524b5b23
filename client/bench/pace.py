"""The pace of a replay: how fast items are finished, and how long the rest takes."""

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from client.bench.items import Item
from client.bench.journal import Key

RECENT_SECONDS = 60.0
ROUNDS = 4
"""Where that many times the items in flight take longer, "recent" goes back so far."""
IN_FLIGHT = 1 / 3
"""The share of an item in flight that counts as done: hardly begun on average on a server that takes one item after the
other, half done on one that takes all at once, and replies do not say which."""


class _Sample(NamedTuple):
    seconds: float
    length: float


class Pace:
    """Measures by length how much is done in recent time, and estimates the remaining time.

    ``length`` is what all items that have to be scored have together. Long items are sent first, so that an estimate by
    their number would be several times too high at first.
    """

    def __init__(self, length: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._length = length
        self._clock = clock
        self._in_flight: dict[Key, float] = {}
        self._sent_length = self._finished_length = 0.0
        self._finished = 0
        # One for each finished item, after the first.
        self._recent = deque([_Sample(clock(), 0.0)])

    @property
    def in_flight(self) -> int:
        """Return the number of items that have been sent and are not finished."""
        return len(self._in_flight)

    def send(self, item: Item) -> None:
        """Count the item as in flight."""
        self._in_flight[item.task, item.doc_id] = item.length
        self._sent_length += item.length

    def finish(self, key: Key) -> None:
        """Count the item in flight as finished, whether it was scored or failed."""
        self._finished += 1
        self._finished_length += self._in_flight.pop(key)
        now = self._clock()
        self._recent.append(_Sample(now, self._done))
        while len(self._recent) > ROUNDS * self.in_flight + 2 and now - self._recent[1].seconds >= RECENT_SECONDS:
            self._recent.popleft()

    @property
    def _done(self) -> float:
        return self._finished_length + IN_FLIGHT * (self._sent_length - self._finished_length)

    def items_per_second(self) -> float | None:
        """Return how many items were finished per second in recent time; None before the first."""
        elapsed = self._clock() - self._recent[0].seconds
        return (len(self._recent) - 1) / elapsed if self._finished and elapsed > 0 else None

    def seconds_left(self) -> float | None:
        """Return the estimated time for the rest; None until as many items are finished as are in flight."""
        begin = self._recent[0]
        recent = self._done - begin.length
        if not self._finished or self._finished < self.in_flight or recent <= 0:
            return None
        return (self._length - self._done) * (self._clock() - begin.seconds) / recent
