"""Retries: after which errors, and after how long."""

import random
from dataclasses import dataclass, field

from client.errors import ConnectionFailed, Overloaded, QconfError, QuotaExceeded, ServerError, TimedOut, Unavailable

RETRIES = 4
FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0

# Scoring is idempotent: a request whose reply was lost may be sent again.
TRANSIENT = (ConnectionFailed, TimedOut, Overloaded, QuotaExceeded, Unavailable)


@dataclass
class RetryPolicy:
    """Exponential back-off with jitter, never less than the server's Retry-After.

    After a Retry-After of more than ``longest`` seconds, the error is raised: it holds the time for the caller.
    """

    retries: int = RETRIES
    longest: float = 120.0
    rng: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError(f"retries: expected 0 or more, got {self.retries}")

    def delay(self, attempt: int, error: QconfError) -> float | None:
        """Return the seconds to wait after failed attempt number ``attempt`` (the first is 0), or None to give up."""
        if attempt >= self.retries or not isinstance(error, TRANSIENT):
            return None
        # The exponent is bounded first: 2.0 ** 2000 overflows.
        backoff = min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(attempt, 60)) * self.rng.uniform(0.5, 1.0)
        asked = error.retry_after if isinstance(error, ServerError) else None
        if asked is None:
            return backoff
        # The sum, not the maximum: clients with the same Retry-After must not all return at once.
        return asked + backoff if asked <= self.longest else None
