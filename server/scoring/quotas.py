"""Quotas of API keys: requests and tokens per minute."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from server.errors import QuotaExceeded

MINUTE = 60.0


@dataclass(frozen=True)
class Quota:
    """What a key may use; None is without limit."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None


class _Bucket:
    """A token bucket that holds a minute's worth, and that may be overdrawn: a debt is paid back before the next use.

    Tokens are known only after a request was accepted; with debts, the rate holds in the long run all the same.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._at = clock()

    def take(self, amount: float) -> None:
        self._refill()
        self._level -= amount

    def seconds_until(self, amount: float) -> float:
        """Return the time after which that much is there."""
        self._refill()
        return max(0.0, (amount - self._level) * MINUTE / self.per_minute)

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self.per_minute, self._level + (now - self._at) * self.per_minute / MINUTE)
        self._at = now


class Quotas:
    """What each principal has used. Clients that are no principals have no quota."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, dict[str, _Bucket]] = {}

    def set(self, quotas: Mapping[str, Quota]) -> None:
        """Take over the principals of a key file; what was used stays used where a quota has not changed."""
        self._buckets = {name: self._updated(self._buckets.get(name, {}), quota) for name, quota in quotas.items()}

    def __contains__(self, client: str) -> bool:
        """Return whether the client is a principal of the key file."""
        return client in self._buckets

    def _updated(self, old: dict[str, _Bucket], quota: Quota) -> dict[str, _Bucket]:
        limits = {"requests": quota.requests_per_minute, "tokens": quota.tokens_per_minute}
        return {
            kind: old[kind] if kind in old and old[kind].per_minute == per_minute else _Bucket(per_minute, self._clock)
            for kind, per_minute in limits.items()
            if per_minute is not None
        }

    def check(self, client: str) -> None:
        """Raise QuotaExceeded, with the time to wait, if the client may not make a request now."""
        for kind, bucket in self._buckets.get(client, {}).items():
            if (seconds := bucket.seconds_until(1)) > 0:
                raise QuotaExceeded(
                    f"the quota of this key, {bucket.per_minute} {kind} per minute, is used up",
                    retry_after=math.ceil(seconds),
                )

    def request(self, client: str) -> None:
        """Count a request."""
        if (bucket := self._buckets.get(client, {}).get("requests")) is not None:
            bucket.take(1)

    def tokens(self, client: str, count: int) -> None:
        """Count tokens that are to be scored."""
        if (bucket := self._buckets.get(client, {}).get("tokens")) is not None:
            bucket.take(count)
