"""How many requests are in flight at once: fewer while the server is overloaded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from client.errors import Overloaded


class InFlight:
    """Bounds the attempts in flight by additive increase and multiplicative decrease (Chiu and Jain 1989).

    An attempt that is refused because the server is overloaded halves the bound. It grows by one after as many
    successful attempts as it allows in flight, to at most ``most``. Between its attempts a request is not in flight.
    """

    def __init__(self, most: int) -> None:
        self._most = self._bound = most
        self._in_flight = self._succeeded = self._halved = 0
        self._left = asyncio.Condition()

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """Wait until one more attempt may be in flight; the context's body is the attempt."""
        async with self._left:
            await self._left.wait_for(lambda: self._in_flight < self._bound)
            self._in_flight += 1
        halved = self._halved
        try:
            yield
            self._succeed()
        except Overloaded:
            # Attempts sent before the bound was halved say nothing about the new one.
            if halved == self._halved:
                self._bound = max(1, self._bound // 2)
                self._succeeded = 0
                self._halved += 1
            raise
        finally:
            self._in_flight -= 1
            async with self._left:
                self._left.notify_all()

    def _succeed(self) -> None:
        self._succeeded += 1
        if self._succeeded >= self._bound < self._most:
            self._bound += 1
            self._succeeded = 0
