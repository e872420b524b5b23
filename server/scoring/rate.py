"""The rate at which work is done, as measured."""

import time
from collections.abc import Callable

HALF_LIFE_SECONDS = 30.0
"""Of the measured rate: long enough for steps and pauses, short enough for a change of what is asked."""
FEWEST_SECONDS = 10.0
"""Of work, before a rate is computed: what has begun and not finished makes the first seconds look slow."""


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

    def pause(self) -> None:
        """Leave out the time since the latest call: what is done in it says nothing of the rate."""
        self._since = None

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
