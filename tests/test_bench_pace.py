"""The pace of a replay: estimates against simulated servers, whose remaining time is known, and lines at all times."""

import asyncio
import random
import re
import selectors
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.bench.display.live import LINE_EVERY
from client.bench.items import Item, Window
from client.bench.pace import RECENT_SECONDS, Pace
from client.bench.replay import longest_first
from client.bench.sources.load import BenchOptions
from tests.fake_server import FakeServer
from tests.replays import replay_options, run

TOLERANCE = 0.25
"""How much is done of what is in flight is unknown, and at a tenth of the time that is up to half of what is done."""


def text_item(number: int, characters: int, **fields: Any) -> Item:
    item = Item(
        task="mine",
        doc_id=number,
        kind="multiple_choice",
        doc_hash="",
        prompt_hash="",
        contexts=("x" * characters,),
        choices=("yes", "no"),
        choice_context=(0, 0),
        choice_chars=(3, 2),
        choice_bytes=(3, 2),
    )
    return replace(item, **fields)


def window_item(number: int, tokens: int) -> Item:
    return text_item(number, 0, kind="window", window=Window([1], [2] * (tokens - 1), 1))


class Server:
    """Computes a number of tokens per second, of the oldest item in flight or of all in equal parts."""

    def __init__(self, items: list[Item], concurrency: int, all_at_once: bool) -> None:
        self.now = 0.0
        self.tokens_per_second = 100.0
        self.pace = Pace(sum(item.length for item in items), clock=lambda: self.now)
        self._queue = iter(items)
        self._all_at_once = all_at_once
        self._in_flight: list[list[Any]] = []
        for _ in range(concurrency):
            self._send()

    def _send(self) -> None:
        if item := next(self._queue, None):
            self.pace.send(item)
            self._in_flight.append([item, item.length])

    def run(self, until: float) -> None:
        """Finish the items that end up to then."""
        while self._in_flight:
            served = self._in_flight if self._all_at_once else self._in_flight[:1]
            step = min(rest for _, rest in served)
            end = self.now + step * len(served) / self.tokens_per_second
            if end > until:
                share = (until - self.now) * self.tokens_per_second / len(served)
                for entry in served:
                    entry[1] -= share
                self.now = until
                return
            self.now = end
            for entry in served:
                entry[1] -= step
            done = next(entry for entry in served if entry[1] <= 1e-9)
            self._in_flight.remove(done)
            self.pace.finish((done[0].task, done[0].doc_id))
            self._send()


def drawn(count: int, rng: random.Random) -> list[Item]:
    """Return items of very different lengths, the longest first."""
    return longest_first(text_item(number, int(rng.lognormvariate(5.5, 1.0))) for number in range(count))


@pytest.mark.parametrize("all_at_once", [True, False])
@pytest.mark.parametrize(("count", "concurrency"), [(300, 1), (1000, 8), (4000, 32)])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.75])
def test_the_estimate_is_right_though_long_items_come_first(
    count: int, concurrency: int, all_at_once: bool, share: float
) -> None:
    items = drawn(count, random.Random(count))
    server = Server(items, concurrency, all_at_once)
    seconds = sum(item.length for item in items) / server.tokens_per_second
    server.run(share * seconds)
    assert server.pace.seconds_left() == pytest.approx((1 - share) * seconds, rel=TOLERANCE)


@pytest.mark.parametrize("all_at_once", [True, False])
def test_windows_and_texts_are_of_one_unit(all_at_once: bool) -> None:
    items = longest_first([*drawn(1000, random.Random(0)), *(window_item(1000 + number, 512) for number in range(100))])
    server = Server(items, 8, all_at_once)
    seconds = sum(item.length for item in items) / server.tokens_per_second
    server.run(seconds / 4)
    assert server.pace.seconds_left() == pytest.approx(0.75 * seconds, rel=TOLERANCE)


def test_a_slower_server_is_noticed_in_recent_time() -> None:
    items = drawn(2000, random.Random(0))
    server = Server(items, 8, all_at_once=True)
    length = sum(item.length for item in items)
    half = length / server.tokens_per_second / 2
    server.run(half)
    server.tokens_per_second /= 4
    server.run(half + 5 * RECENT_SECONDS)
    left = length / 2 / server.tokens_per_second - 5 * RECENT_SECONDS
    assert server.pace.seconds_left() == pytest.approx(left, rel=TOLERANCE)


def test_nothing_is_estimated_from_nothing() -> None:
    server = Server([text_item(number, 100) for number in range(10)], 4, all_at_once=False)
    each = text_item(0, 100).length / server.tokens_per_second
    known = []
    for finished in range(8):
        server.run((finished + 0.5) * each)
        known.append((server.pace.items_per_second() is not None, server.pace.seconds_left() is not None))
    assert known == [(False, False)] + 3 * [(True, False)] + 4 * [(True, True)]
    server.run(10 * each)
    assert server.pace.in_flight == 0
    assert server.pace.seconds_left() == 0


def test_a_length_counts_everything_that_is_scored() -> None:
    item = text_item(0, 400)
    assert item.length == 400 / 4 + (3 + 2) / 4 + 2 * 16
    assert replace(item, unconditional=True).length == item.length + (3 + 2) / 4 + 2 * 16
    assert replace(item, contexts=("x" * 400, "y" * 40)).length == item.length + 40 / 4
    assert window_item(0, 512).length == 512


class Skipping(selectors.SelectSelector):
    """Lets the time that an event loop would wait pass at once."""

    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.now += timeout or 0.0
        return super().select(0)


def simulated(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine in simulated time."""
    selector = Skipping()

    def make_loop() -> asyncio.AbstractEventLoop:
        loop = asyncio.SelectorEventLoop(selector)
        loop.time = lambda: selector.now  # type: ignore[method-assign]
        return loop

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(main)


class Slow(httpx.MockTransport):
    """Answers each comparison after some seconds."""

    seconds = 12.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(self.seconds)
        return await super().handle_async_request(request)


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the lines about a replay in simulated time."""
    monkeypatch.setattr(asyncio, "run", simulated)
    options: BenchOptions = replay_options(tmp_path)
    fake = FakeServer()
    monkeypatch.setattr(FakeServer, "transport", Slow(fake.answer))
    failed, output = run(options, fake)
    assert failed == 0
    return re.findall(r"^\d+/43 items.*", output, re.MULTILINE)


def test_lines_come_steadily_while_no_item_is_finished(lines: list[str]) -> None:
    rounds = -(-43 // 8)
    assert len(lines) == rounds * Slow.seconds // LINE_EVERY + 1
    assert lines[:2] == 2 * ["0/43 items, 8 in flight"]
    assert lines[2].startswith("8/43 items, 8 in flight, ")
    assert lines[-1].startswith("43/43 items, ")
    assert " left" not in lines[-1]
