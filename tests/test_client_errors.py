"""The client's errors, and whether it tries again."""

import random
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from client import (
    AsyncClient,
    BadReply,
    Client,
    ConnectionFailed,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    QconfError,
    ServerError,
    TimedOut,
    TooLarge,
    Unauthorized,
    Unavailable,
)
from client.errors import BY_TYPE, parse_retry_after
from client.retry import LONGEST_DELAY, RetryPolicy
from qconf.error_types import STATUS
from tests.fake_server import FakeServer, Hook, Reply, error

STATUSES = [
    (400, InvalidRequest),
    (404, NotFound),
    (405, ServerError),
    (413, TooLarge),
    (429, Overloaded),
    (500, InternalError),
    (502, Unavailable),
    (503, Unavailable),
    (504, Unavailable),
]


@pytest.mark.parametrize(("status", "expected"), STATUSES)
def test_a_status_becomes_an_error_with_the_servers_words(status: int, expected: type[ServerError]) -> None:
    fake = FakeServer(lambda _: error(status, "label: too large", "label"))
    with Client("http://fake", retries=0, transport=fake.transport) as qconf, pytest.raises(ServerError) as caught:
        qconf.compare(prompt="a")
    assert type(caught.value) is expected
    assert str(caught.value) == "label: too large"
    assert (caught.value.status, caught.value.type, caught.value.param) == (status, "some_error", "label")


def test_an_error_of_something_in_between_says_where_it_came_from() -> None:
    fake = FakeServer(lambda _: httpx.Response(502, text="<html>\n  nginx says no\n</html>"))
    with (
        Client("http://fake", retries=0, transport=fake.transport) as qconf,
        pytest.raises(Unavailable, match="http://fake/compare answered 502 Bad Gateway: <html> nginx says no"),
    ):
        qconf.compare(prompt="a")


FOREIGN = [
    (httpx.ConnectError("refused"), ConnectionFailed, "cannot reach http://fake: refused"),
    (httpx.RemoteProtocolError("Server disconnected"), ConnectionFailed, "Server disconnected"),
    (httpx.ReadTimeout(""), TimedOut, r"http://fake did not reply in time \(ReadTimeout\)"),
    (httpx.ConnectTimeout(""), TimedOut, "ConnectTimeout"),
    (httpx.DecodingError("bad gzip"), BadReply, "cannot be read: bad gzip"),
]


@pytest.mark.parametrize(("foreign", "expected", "message"), FOREIGN)
def test_errors_of_httpx_become_ours(foreign: Exception, expected: type[QconfError], message: str) -> None:
    with (
        Client("http://fake", retries=0, transport=FakeServer(raising(foreign)).transport) as qconf,
        pytest.raises(expected, match=message) as caught,
    ):
        qconf.compare(prompt="a")
    assert caught.value.__cause__ is foreign


def raising(exc: Exception) -> Hook:
    def hook(request: httpx.Request) -> Reply:
        raise exc

    return hook


BAD_REPLIES = [
    pytest.param("not JSON", "sent a reply that is not a Comparison: the body: invalid JSON", id="text"),
    pytest.param("{}", "'models': field required", id="empty"),
    pytest.param('{"object": "chat.completion"}', "http://fake/compare", id="another API"),
    pytest.param("", "invalid JSON", id="nothing"),
]


@pytest.mark.parametrize(("text", "message"), BAD_REPLIES)
def test_a_reply_that_is_none_is_refused_and_not_asked_for_again(text: str, message: str) -> None:
    fake = FakeServer(lambda _: httpx.Response(200, text=text))
    with Client("http://fake", transport=fake.transport) as qconf, pytest.raises(BadReply, match=message):
        qconf.compare(prompt="a")
    assert len(fake.received) == 1


def failing(times: int, failure: Callable[[], Reply]) -> Hook:
    """Return a hook that fails this many times, then leaves the answer to the server."""
    left = iter(range(times))
    return lambda _: failure() if next(left, None) is not None else None


def refused() -> Reply:
    raise httpx.ConnectError("refused")


def timed_out() -> Reply:
    raise httpx.ReadTimeout("")


TRANSIENT = [
    pytest.param(refused, id="connection"),
    pytest.param(timed_out, id="time-out"),
    pytest.param(lambda: error(429, "busy"), id="429"),
    pytest.param(lambda: error(503, "loading"), id="503"),
    pytest.param(lambda: httpx.Response(500, text="Internal Server Error"), id="500 of a proxy"),
]


@pytest.mark.parametrize("failure", TRANSIENT)
def test_what_may_pass_is_tried_again(failure: Callable[[], Reply]) -> None:
    slept: list[float] = []
    fake = FakeServer(failing(3, failure))
    with Client("http://fake", transport=fake.transport, sleep=slept.append) as qconf:
        qconf.compare(prompt="a")
    assert len(fake.received) == 4
    assert [0.25 <= slept[0] <= 0.5, 0.5 <= slept[1] <= 1, 1 <= slept[2] <= 2] == [True, True, True]


async def test_the_asynchronous_client_tries_again_too() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    fake = FakeServer(failing(2, lambda: error(503, "loading", headers={"Retry-After": "3"})))
    async with AsyncClient("http://fake", transport=fake.transport, sleep=sleep) as qconf:
        await qconf.compare(prompt="a")
    assert len(fake.received) == 3
    assert all(3 < seconds <= 4 for seconds in slept)


@pytest.mark.parametrize("failure", TRANSIENT)
def test_after_the_last_retry_the_error_comes_out(failure: Callable[[], Reply]) -> None:
    slept: list[float] = []
    fake = FakeServer(failing(99, failure))
    with (
        Client("http://fake", retries=2, transport=fake.transport, sleep=slept.append) as qconf,
        pytest.raises(QconfError),
    ):
        qconf.compare(prompt="a")
    assert (len(fake.received), len(slept)) == (3, 2)


def never(seconds: float) -> None:
    pytest.fail(f"waited {seconds} s")


@pytest.mark.parametrize("status", [400, 404, 413, 500])
def test_what_will_not_pass_is_not_tried_again(status: int) -> None:
    fake = FakeServer(lambda _: error(status, "no"))
    with Client("http://fake", transport=fake.transport, sleep=never) as qconf, pytest.raises(ServerError):
        qconf.compare(prompt="a")
    assert len(fake.received) == 1


def test_retry_after_is_waited_for_and_a_little_more() -> None:
    policy = RetryPolicy(retries=1, rng=random.Random(0))
    assert policy.delay(0, Overloaded("busy", retry_after=7.0)) == pytest.approx(7.4, abs=0.1)
    assert policy.delay(1, Overloaded("busy", retry_after=7.0)) is None


@pytest.mark.parametrize(("timeout", "waited"), [(120.0, False), (600.0, True)])
def test_a_pause_may_be_as_long_as_a_reply(timeout: float, waited: bool) -> None:
    """A slow server with a queue of minutes: a replay, which has ten minutes for a reply, does not lose the item."""
    fake = FakeServer(failing(1, lambda: error(429, "busy", headers={"Retry-After": "204"})))
    slept: list[float] = []
    outcome = nullcontext() if waited else pytest.raises(ServerError)
    with Client("http://fake", transport=fake.transport, sleep=slept.append, timeout=timeout) as client, outcome:
        client.compare(prompt="a")
    assert slept == ([pytest.approx(204.4, abs=0.3)] if waited else [])


def test_a_retry_after_of_hours_is_left_to_the_caller() -> None:
    fake = FakeServer(lambda _: error(503, "maintenance", headers={"Retry-After": "7200"}))
    with (
        Client("http://fake", transport=fake.transport, sleep=never) as qconf,
        pytest.raises(Unavailable) as caught,
    ):
        qconf.compare(prompt="a")
    assert caught.value.retry_after == 7200


def test_delays_grow_up_to_a_limit() -> None:
    policy = RetryPolicy(retries=2000)
    delays = [policy.delay(attempt, ConnectionFailed("refused")) for attempt in (0, 3, 9, 1500)]
    limits = [0.5, 4.0, LONGEST_DELAY, LONGEST_DELAY]
    assert all(delay and limit / 2 <= delay <= limit for delay, limit in zip(delays, limits, strict=True))


def test_retries_below_zero_are_refused() -> None:
    with pytest.raises(ValueError, match="retries: expected 0 or more, got -1"):
        Client("http://fake", retries=-1)


NOW = datetime(2025, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("120", 120.0),
        (" 5 ", 5.0),
        (format_datetime(NOW + timedelta(seconds=90), usegmt=True), 90.0),
        (format_datetime(NOW - timedelta(seconds=90), usegmt=True), 0.0),
        ("soon", None),
        ("-3", None),
        ("Sat, 01 Mar 2025 12:00:00 -0000", None),
    ],
)
def test_both_forms_of_retry_after_are_read(value: str | None, expected: float | None) -> None:
    assert parse_retry_after(value, NOW) == expected


def test_ready_never_raises() -> None:
    def unreachable(_: httpx.Request) -> Reply:
        raise httpx.ConnectTimeout("no route")

    with Client("http://fake", transport=FakeServer(unreachable).transport) as qconf:
        assert not qconf.ready()


TYPES = [
    ("authentication_error", 401, Unauthorized),
    ("deadline_exceeded", 504, DeadlineExceeded),
    ("invalid_request_error", 418, InvalidRequest),
    ("overloaded", 500, Overloaded),
    ("request_head_too_large", 431, TooLarge),
]


@pytest.mark.parametrize(("type_", "status", "expected"), TYPES)
def test_a_type_says_more_than_a_status(type_: str, status: int, expected: type[ServerError]) -> None:
    body = {"error": {"type": type_, "message": "no"}}
    fake = FakeServer(lambda _: httpx.Response(status, json=body))
    with Client("http://fake", retries=0, transport=fake.transport) as qconf, pytest.raises(ServerError) as caught:
        qconf.models()
    assert type(caught.value) is expected


def test_every_type_of_the_wire_has_an_error() -> None:
    assert set(BY_TYPE) == set(STATUS)
