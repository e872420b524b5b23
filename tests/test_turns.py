"""Turns are fair between clients, and between the requests of one client."""

import asyncio

import pytest

from server.scoring.turns import Origin, Turns


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
