"""What the last minutes were like, by a clock that the tests advance."""

from pathlib import Path

import numpy as np
import pytest

from qconf.run.folder import read_run
from server.monitoring.observation import Observations
from server.monitoring.recent import MOST_REQUESTS, SECONDS, RecentComparisons, RecentRequests
from tests.synthetic_run import items, write
from tests.test_keys import Clock
from tests.test_monitor import monitor, observations


def test_requests_leave_after_five_minutes() -> None:
    clock = Clock()
    requests = RecentRequests(clock)
    for millisecond in range(1, 101):
        requests.add("/compare", 200, millisecond / 1e3)
    requests.add("/compare", 503, 60.0)
    requests.add("/metrics", 200, 60.0)
    reply = requests.reply({})
    assert (reply.requests, reply.requests_per_second, reply.seconds) == (101, 101 / SECONDS, SECONDS)
    assert reply.p95_ms == pytest.approx(np.percentile(np.arange(1, 101), 95))
    clock.now = SECONDS + 1
    reply = requests.reply({})
    assert (reply.requests, reply.requests_per_second, reply.p95_ms) == (0, 0, None)


def test_the_rate_of_many_requests_is_that_of_the_latest() -> None:
    clock = Clock()
    requests = RecentRequests(clock)
    for _ in range(2 * MOST_REQUESTS):
        clock.now += 0.01
        requests.add("/compare", 200, 0.005)
    reply = requests.reply({})
    assert reply.requests == MOST_REQUESTS
    assert reply.requests_per_second == pytest.approx(100, rel=1e-3)


def test_kl_and_flips_of_the_last_five_minutes(tmp_path: Path) -> None:
    clock = Clock()
    comparisons = RecentComparisons(clock)
    assert comparisons.reply().mean_kl is None
    run = read_run(write(tmp_path / "run", items("piqa", 50, 1, noise=1)))
    seen = observations(run, np.random.default_rng(0))
    comparisons.observe(Observations(seen))
    reply = comparisons.reply()
    assert (reply.comparisons, reply.items) == (50, 50)
    assert reply.mean_kl == pytest.approx(np.concatenate([each.tokens["kl"] for each in seen]).mean())
    assert reply.flip_rate == np.mean([each.item.choices[0] != each.item.choices[1] for each in seen if each.item])
    assert reply.flip_rate not in (None, 0, 1)
    clock.now = SECONDS + 1
    assert comparisons.reply().comparisons == 0


def test_each_variant_has_its_own_numbers(tmp_path: Path) -> None:
    watched = monitor(variants=("first", "second"))
    run = read_run(write(tmp_path / "run", items("piqa", 3, 1, noise=1)))
    rng = np.random.default_rng(0)
    for pair in zip(observations(run, rng), observations(run, rng), strict=True):
        watched.add(list(pair))
    recent = watched.recent().variants
    assert list(recent) == ["first", "second"]
    assert [each.comparisons for each in recent.values()] == [3, 3]
    assert recent["first"].mean_kl != recent["second"].mean_kl
