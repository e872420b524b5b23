"""A server that is overloaded gets fewer requests at once, and the run has the same content."""

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from client.bench.in_flight import InFlight
from client.errors import Overloaded
from qconf.run.folder import read_run
from tests.fake_server import FakeServer, error
from tests.replays import replay_options, run
from tests.test_bench_pace import simulated

CONCURRENCY = 32


class Small(httpx.MockTransport):
    """Takes some comparisons at once, answers each after a second, and refuses the others, as the server does."""

    def __init__(self, handler: Callable[[httpx.Request], httpx.Response], room: int) -> None:
        super().__init__(handler)
        self.room = room
        self.in_flight = self.most = self.refused = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if self.in_flight >= self.room:
            self.refused += 1
            return error(429, "enough to do", headers={"retry-after": "1"})
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await asyncio.sleep(1)
        self.in_flight -= 1
        return await super().handle_async_request(request)


@pytest.mark.parametrize("room", [1, 3])
def test_a_small_server_refuses_little_and_the_run_is_that_of_a_large_one(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio, "run", simulated)
    options = replace(replay_options(tmp_path), concurrency=CONCURRENCY, retries=20)
    fake = FakeServer()
    tables = []
    for seats in (CONCURRENCY, room):
        transport = Small(fake.answer, seats)
        monkeypatch.setattr(FakeServer, "transport", transport)
        out = tmp_path / str(seats)
        assert run(replace(options, out=out), fake)[0] == 0
        tables.append(read_run(out).table)
        assert transport.most == seats
    assert tables[0].equals(tables[1])
    # With a fixed number in flight, 224 and 135 are refused.
    assert transport.refused < CONCURRENCY + 43


class Probed(Exception):
    """Ends attempts without an answer, which changes no bound."""


async def allowed(in_flight: InFlight) -> int:
    """Return how many attempts may be in flight at once, at most 8."""
    entered = 0
    with contextlib.suppress(Probed):
        async with AsyncExitStack() as stack:
            with contextlib.suppress(TimeoutError):
                while entered < 8:
                    await asyncio.wait_for(stack.enter_async_context(in_flight.attempt()), 0.01)
                    entered += 1
            raise Probed
    return entered


async def refused(in_flight: InFlight) -> None:
    with contextlib.suppress(Overloaded):
        async with in_flight.attempt():
            await asyncio.sleep(1)
            raise Overloaded("enough to do")


async def answered(in_flight: InFlight) -> None:
    async with in_flight.attempt():
        await asyncio.sleep(1)


def test_the_bound_is_halved_once_for_all_that_was_sent_before() -> None:
    async def main() -> None:
        in_flight = InFlight(8)
        await asyncio.gather(*(refused(in_flight) for _ in range(8)))
        assert await allowed(in_flight) == 4
        for bound in (2, 1, 1):
            await refused(in_flight)
            assert await allowed(in_flight) == bound

    simulated(main())


def test_the_bound_grows_by_one_after_as_many_answers_and_not_beyond_the_first_one() -> None:
    async def main() -> None:
        in_flight = InFlight(5)
        await refused(in_flight)
        for answers, bound in ((1, 2), (1, 3), (2, 3), (1, 4), (4, 5), (100, 5)):
            await asyncio.gather(*(answered(in_flight) for _ in range(answers)))
            assert await allowed(in_flight) == bound

    simulated(main())
