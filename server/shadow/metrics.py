"""What becomes of mirrored calls: every one of them is counted, under a reason where it is not scored."""

import itertools
from collections.abc import Mapping, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from qconf.error_types import STATUS
from qconf.openai_calls import Part, Reason
from server.shadow.sources import OTHER

QUEUED, NOT_SAMPLED, QUEUE_FULL = "queued", "not_sampled", "queue_full"
OUTCOMES = (QUEUED, NOT_SAMPLED, QUEUE_FULL, *get_args(Reason))
STOPPED = "stopped"
"""Why a call that was queued is not scored: the server ended before."""
WAIT_BOUNDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000)


class ShadowMetrics:
    """Counters of mirrored calls. Of those that were queued, each is scored, failed, waiting or being scored.

    ``sources`` are the values of the label ``source``.
    """

    def __init__(
        self, rates: Mapping[str, float], sources: Sequence[str], most: int, registry: CollectorRegistry
    ) -> None:
        self._sources = sources
        self.calls = Counter(
            "qconf_shadow_calls",
            "Mirrored calls that were accepted, by what became of them at once. The others of qconf_shadow_* are of "
            "those that were queued.",
            ["route", "source", "outcome"],
            registry=registry,
        )
        self.scored = Counter(
            "qconf_shadow_scored",
            "Mirrored calls that were scored, by what of them was: the answer's token ids, its text, or the prompt.",
            ["source", "part"],
            registry=registry,
        )
        self.failed = Counter(
            "qconf_shadow_failed",
            "Mirrored calls that could not be scored, by error type; stopped: the server ended before.",
            ["source", "reason"],
            registry=registry,
        )
        self.waiting = Gauge("qconf_shadow_queue", "Mirrored calls that wait to be scored.", registry=registry)
        self.limit = Gauge(
            "qconf_shadow_queue_limit", "Mirrored calls waiting beyond which others are dropped.", registry=registry
        )
        self.wait = Histogram(
            "qconf_shadow_wait_seconds",
            "From a mirrored call's arrival until it is scored.",
            buckets=WAIT_BOUNDS,
            registry=registry,
        )
        rate = Gauge("qconf_shadow_rate", "Share of keys whose calls are scored.", ["route"], registry=registry)
        self.limit.set(most)
        for route, share in rates.items():
            rate.labels(route).set(share)
        for source in sources:
            for route, outcome in itertools.product(rates, OUTCOMES):
                self.calls.labels(route, source, outcome)
            for part in get_args(Part):
                self.scored.labels(source, part)
            for reason in (*STATUS, STOPPED):
                self.failed.labels(source, reason)

    def label_of(self, source: str) -> str:
        """Return the value of the label ``source`` for a call from a source."""
        return source if source in self._sources else OTHER
