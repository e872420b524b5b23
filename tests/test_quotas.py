"""Quotas of API keys: what is refused, for how long, and what a changed file changes."""

import pytest

from server.errors import QuotaExceeded
from server.scoring.quotas import Quota, Quotas


class Clock:
    """Time that tests move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def quotas(clock: Clock) -> Quotas:
    quotas = Quotas(clock)
    quotas.set({"few": Quota(requests_per_minute=3), "short": Quota(tokens_per_minute=600), "free": Quota()})
    return quotas


def wait(quotas: Quotas, client: str) -> int:
    with pytest.raises(QuotaExceeded) as refused:
        quotas.check(client)
    assert refused.value.retry_after is not None
    return refused.value.retry_after


def test_a_minutes_requests_may_come_at_once_and_then_one_by_one(quotas: Quotas, clock: Clock) -> None:
    for _ in range(3):
        quotas.check("few")
        quotas.request("few")
    assert wait(quotas, "few") == 20
    clock.now += 19.5
    assert wait(quotas, "few") == 1
    clock.now += 0.51
    quotas.check("few")
    quotas.request("few")
    assert wait(quotas, "few") == 20


def test_tokens_that_exceed_the_quota_are_paid_back_first(quotas: Quotas, clock: Clock) -> None:
    quotas.check("short")
    quotas.tokens("short", 1200)
    assert wait(quotas, "short") == 61  # 600 too many at ten a second, and one to begin with
    clock.now += 60.2
    quotas.check("short")
    clock.now += 3600
    quotas.tokens("short", 599)
    quotas.check("short")
    quotas.tokens("short", 1)
    assert wait(quotas, "short") == 1


@pytest.mark.parametrize("seconds", [60, 600, 3600])
def test_nobody_gets_more_than_a_minutes_worth_and_the_rate(quotas: Quotas, clock: Clock, seconds: int) -> None:
    """However requests are timed: 7 tokens as often as they are taken, at a clock that does not divide evenly."""
    used = 0
    while clock.now < seconds:
        try:
            quotas.check("short")
        except QuotaExceeded:
            clock.now += 0.037
        else:
            quotas.tokens("short", 7)
            used += 7
    assert 600 + 10 * seconds - 7 <= used <= 600 + 10 * seconds + 7


def test_clients_without_a_quota_have_none(quotas: Quotas) -> None:
    for client in ("free", "127.0.0.1"):
        for _ in range(1000):
            quotas.request(client)
            quotas.tokens(client, 1000)
        quotas.check(client)
    assert "free" in quotas
    assert "127.0.0.1" not in quotas


def test_a_changed_file_forgets_only_what_it_changes(quotas: Quotas) -> None:
    quotas.tokens("short", 600)
    for _ in range(3):
        quotas.request("few")
    quotas.set({"few": Quota(requests_per_minute=4), "short": Quota(tokens_per_minute=600)})
    quotas.check("few")
    wait(quotas, "short")
    quotas.set({"short": Quota()})
    quotas.check("short")
    assert "few" not in quotas
