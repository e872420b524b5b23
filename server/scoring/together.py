"""Work that is done at once, and fails at once."""

import asyncio
import math
from collections.abc import Coroutine, Iterable
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all, and return their results in order; the first failure cancels the others and is raised."""
    return await together_within(math.inf, ((0, each) for each in work))


async def together_within(limit: float, work: Iterable[tuple[int, Coroutine[Any, Any, T]]]) -> list[T]:
    """Do as ``together``, but begin the next only when the costs of those begun and not done are below a limit."""
    begun = 0
    done = asyncio.Event()

    def end(cost: int, _: asyncio.Task[T]) -> None:
        nonlocal begun
        begun -= cost
        done.set()

    tasks = []
    try:
        async with asyncio.TaskGroup() as group:
            for cost, each in work:
                begun += cost
                tasks.append(group.create_task(each))
                tasks[-1].add_done_callback(partial(end, cost))
                while begun >= limit:
                    done.clear()
                    await done.wait()
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]
