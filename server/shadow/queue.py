"""Calls that wait to be scored: bounded, and never waited for by those who add to it."""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from qconf.openai_calls import ToScore

MOST_BYTES = 64 * 2**20
"""Of the bodies of all calls that wait; in memory they take a few times as much."""


@dataclass(frozen=True)
class Entry:
    """A call that waits: its route and its source, what is scored of it, its body's size, and when it came."""

    route: str
    source: str
    to_score: ToScore
    size: int
    arrived: float


class ShadowQueue:
    """A queue that refuses what it has no room for."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._bytes = 0
        self._entries: deque[Entry] = deque()
        self._filled = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def put(self, entry: Entry) -> bool:
        """Add an entry, or return False where there is no room."""
        if len(self._entries) >= self._most or self._bytes + entry.size > MOST_BYTES:
            return False
        self._entries.append(entry)
        self._bytes += entry.size
        self._filled.set()
        return True

    async def get(self) -> Entry:
        """Wait for an entry and take it, the oldest first."""
        while not self._entries:
            self._filled.clear()
            await self._filled.wait()
        entry = self._entries.popleft()
        self._bytes -= entry.size
        return entry
