"""How the parts of a request are awaited."""

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from server.scoring.together import together_within


async def test_a_batch_begins_no_more_than_its_limit_and_keeps_the_order() -> None:
    begun = most = 0

    async def entry(number: int, cost: int) -> int:
        nonlocal begun, most
        begun += cost
        most = max(most, begun)
        await asyncio.sleep(0.001 * (number % 3))
        begun -= cost
        return number

    costs = [1, 3, 0, 7, 20, 2] * 10
    work = ((cost, entry(number, cost)) for number, cost in enumerate(costs))
    assert await asyncio.wait_for(together_within(8, work), 10) == list(range(60))
    assert 8 <= most <= 7 + max(costs)


async def test_a_failure_ends_the_batch_and_what_was_not_begun_never_begins() -> None:
    begun = []

    async def entry(number: int) -> None:
        begun.append(number)
        await asyncio.sleep(0)
        if number == 5:
            raise ValueError("five")

    def entries() -> Iterator[tuple[int, Coroutine[Any, Any, None]]]:
        for number in range(100):
            yield 1, entry(number)

    with pytest.raises(ValueError, match="five"):
        await together_within(2, entries())
    assert begun[-1] < 10
