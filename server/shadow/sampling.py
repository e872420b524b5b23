"""Which mirrored calls are scored: always those of the same keys."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

OBSERVE = "/observe"
COMPLETIONS = "/mirror/v1/completions"
CHAT = "/mirror/v1/chat/completions"
ROUTES = (OBSERVE, COMPLETIONS, CHAT)
"""Where mirrored calls come in."""


def place(salt: str, key: str) -> float:
    """Return the key's place among all keys, from 0 up to 1. With another salt it is another."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6]) / 2**48


@dataclass(frozen=True)
class SampledKeys:
    """The share of keys whose calls are scored, by route.

    A key's place is the same on all routes and servers with one salt: the keys of a smaller rate are among those of a
    larger one.
    """

    salt: str
    rates: Mapping[str, float]

    def takes(self, route: str, key: str) -> bool:
        """Return whether the calls of a key are scored."""
        return place(self.salt, key) < self.rates[route]
