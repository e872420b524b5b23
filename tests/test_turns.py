"""Turns are fair between clients, and between the requests of one client."""

import asyncio

import pytest

from server.scoring.turns import SHARED_SECONDS, SHORT_SECONDS, Origin, Turns


class Work:
    """A client that takes turns and notes who got one."""

    def __init__(self, capacity: int) -> None:
        self.turns = Turns(capacity)
        self.order: list[Origin] = []
        self.held = 0
        self.most_held = 0

    async def one(self, origin: Origin, cost: int = 1) -> None:
        async with self.turns.turn(origin, cost):
            self.order.append(origin)
            self.held += cost
            self.most_held = max(self.most_held, self.held)
            await asyncio.sleep(0)
            self.held -= cost


async def test_a_single_request_does_not_wait_for_the_batch_of_another_client() -> None:
    work = Work(1)
    batch, single = Origin("a", 0), Origin("b", 1)
    tasks = [asyncio.create_task(work.one(batch)) for _ in range(100)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(work.one(single)))
    await asyncio.gather(*tasks)
    assert work.order.index(single) <= 2
    assert len(work.order) == 101


async def test_a_single_request_does_not_wait_for_a_batch_of_its_own_client() -> None:
    work = Work(1)
    tasks = [asyncio.create_task(work.one(Origin("a", 0))) for _ in range(100)]
    await asyncio.sleep(0)
    tasks.append(asyncio.create_task(work.one(Origin("a", 1))))
    await asyncio.gather(*tasks)
    assert work.order.index(Origin("a", 1)) <= 2


async def test_many_requests_give_a_client_no_larger_share() -> None:
    work = Work(1)
    crowd = [asyncio.create_task(work.one(Origin("crowd", number))) for number in range(300)]
    lone = [asyncio.create_task(work.one(Origin("lone", 1000))) for _ in range(50)]
    await asyncio.gather(*crowd, *lone)
    first = [origin.client for origin in work.order[:100]]
    assert abs(first.count("lone") - first.count("crowd")) <= 2


async def test_shares_are_of_cost_not_of_turns() -> None:
    work = Work(10)
    tasks = [asyncio.create_task(work.one(Origin("large", 0), 10)) for _ in range(50)]
    tasks += [asyncio.create_task(work.one(Origin("small", 1), 1)) for _ in range(500)]
    await asyncio.gather(*tasks)
    turns = work.order[: work.order.index(Origin("large", 0)) + 1 + 220]
    large = 10 * sum(origin.client == "large" for origin in turns)
    small = sum(origin.client == "small" for origin in turns)
    assert large == pytest.approx(small, abs=20)


async def test_the_resource_is_exceeded_by_one_turn_at_most_and_all_get_theirs() -> None:
    work = Work(8)
    costs = [1, 3, 5, 20, 2] * 20
    await asyncio.gather(*(work.one(Origin(str(i % 7), i), cost) for i, cost in enumerate(costs)))
    assert len(work.order) == len(costs)
    assert work.most_held <= 7 + max(costs)
    assert work.held == 0


async def test_whoever_gives_up_leaves_no_trace() -> None:
    work = Work(1)
    for _ in range(50):
        tasks = [asyncio.create_task(work.one(Origin(str(i % 3), i))) for i in range(30)]
        for step, task in enumerate(tasks[::2]):
            if step % 3 == 0:
                await asyncio.sleep(0)
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    before = len(work.order)
    await asyncio.wait_for(work.one(Origin("z", 0)), 1)
    assert len(work.order) == before + 1


async def test_while_single_requests_come_less_is_given_ahead_of_them() -> None:
    clock = Clock()
    turns = await measured(clock)
    most = 1000 * SHORT_SECONDS

    def ask(client: str, count: int, cost: int = 10) -> list[Held]:
        return [Held(turns, Origin(client, 0), cost) for _ in range(count)]

    large = ask("large", 200)
    assert await granted(large) == 100
    small = ask("small", 1)
    assert await granted(small) == 0
    await large[0].end()
    assert (await granted(large), await granted(small)) == (100, 1)
    for each in large[1:97]:
        clock.now += 0.01
        await each.end()
    # What was given before is done, but for the 30 that now may be held, and nothing new was given.
    assert await granted(large) == 100
    for ended in range(97, 150):
        clock.now += 0.01
        await large[ended].end()
        assert await granted(large[ended + 1 :]) * 10 <= most + 10
    clock.now += SHARED_SECONDS
    await large[150].end()
    assert await granted(large) == 200
    for each in [*small, *large[151:]]:
        await each.end()


async def test_many_clients_with_little_work_each_lose_nothing() -> None:
    clock = Clock()
    turns = await measured(clock)
    held = [Held(turns, Origin(str(number), 0), 20) for number in range(60)]
    assert await granted(held) == 50
    for each in held:
        await each.end()


async def test_short_turns_do_not_make_themselves_shorter() -> None:
    """Turns that take twice as long for the same cost, as short ones may, do not change how much is given."""
    clock = Clock()
    turns = await measured(clock)
    held = [Held(turns, Origin("large", 0), 10) for _ in range(1000)]
    await granted(held)
    for number, each in enumerate(held):
        if number % 100 == 0:
            small = Held(turns, Origin("small", number), 1)
        clock.now += 0.02
        await each.end()
        if number % 100 == 99:
            await small.end()
            if number < 900:
                assert 30 <= 10 * (await granted(held) - number - 1) <= 40


async def test_clients_that_always_have_work_share_all_of_it() -> None:
    """Two large clients lose no throughput to short turns."""
    clock = Clock()
    turns = await measured(clock)
    held = [Held(turns, Origin(client, 0), 10) for client in ("a", "b") for _ in range(200)]
    assert await granted(held) == 100
    clock.now += SHARED_SECONDS
    for each in held[:100]:
        await each.end()
    assert await granted(held[100:]) == 100
    for each in held[100:]:
        await each.end()


async def test_a_turn_that_goes_on_for_long_does_not_make_the_rate_look_low() -> None:
    """As one in which an answer is generated, token by token."""
    clock = Clock()
    turns = await measured(clock)
    writer = Held(turns, Origin("writer", 0), 10)
    await granted([writer])
    for _ in range(1000):
        clock.now += 0.1
        turns.worked(100)
    await writer.end()
    held = [Held(turns, Origin(client, 0), 1) for client in ("other", "small")]
    assert await granted(held) == 2
    large = [Held(turns, Origin("large", 0), 10) for _ in range(100)]
    assert 30 <= 10 * await granted(large) <= 40  # three hundredths of a second at 1,000 a second
    for each in [*held, *large]:
        await each.end()


class Clock:
    """Time that tests move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def measured(clock: Clock) -> Turns:
    """Return turns of 1,000 units that have seen 1,000 a second."""
    turns = Turns(1000, clock)
    for _ in range(40):
        async with turns.turn(Origin("earlier", 0), 500):
            clock.now += 0.5
    return turns


class Held:
    """One turn, asked for now and held until it is ended."""

    def __init__(self, turns: Turns, origin: Origin, cost: int) -> None:
        self.granted = False
        self._over = asyncio.Event()
        self._task = asyncio.create_task(self._take(turns, origin, cost))

    async def _take(self, turns: Turns, origin: Origin, cost: int) -> None:
        async with turns.turn(origin, cost):
            self.granted = True
            await self._over.wait()

    async def end(self) -> None:
        self._over.set()
        await self._task


async def granted(turns: list[Held]) -> int:
    """Return how many of them have begun, ended ones too."""
    for _ in range(10):
        await asyncio.sleep(0)
    return sum(each.granted for each in turns)
