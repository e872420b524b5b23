"""``python -m benchmarks.fairness``: what a small client waits for beside a large one.

One client sends single requests, with a pause after each. It does so on an idle server, then while another client,
from another address, sends batches of a thousand items, then idle again. Printed are its latencies, and the large
client's items per second alone and beside it: what fairness costs. The load comes from the same machine, and takes its
part of the cores.
"""

import argparse
import asyncio
import itertools
import random
import time
from collections.abc import Awaitable
from typing import TypeVar

import aiohttp

from benchmarks.load import request
from demo.local_server import running_server

T = TypeVar("T")
PAUSE_SECONDS = 0.1
SMALL, LARGE = "127.0.0.1", "127.0.0.2"


def main() -> None:
    """Print the small client's latencies, and the large client's rates."""
    parser = argparse.ArgumentParser(description="What a small client waits for beside a large one.")
    parser.add_argument("--requests", type=int, default=200, help="of the small client, in each of the three parts")
    parser.add_argument("--batch", type=int, default=1000, help="items in a request of the large client")
    options, engine = parser.parse_known_args()
    with running_server("--demo", "--max-sequences", "100000", "--queue-seconds", "600", *engine) as server:
        asyncio.run(measure(server.url, options.requests, options.batch))


async def measure(url: str, requests: int, batch: int) -> None:
    """Measure the small client idle, beside the large one, and idle; and the large one alone."""
    numbers = itertools.count()
    small_connector, large_connector = (aiohttp.TCPConnector(local_addr=(each, 0), limit=0) for each in (SMALL, LARGE))
    timeout = aiohttp.ClientTimeout(total=600)
    async with (
        aiohttp.ClientSession(url, connector=small_connector, timeout=timeout) as small,
        aiohttp.ClientSession(url, connector=large_connector, timeout=timeout) as large,
    ):
        await latencies(small, numbers, 20)
        idle = await latencies(small, numbers, requests)
        others = itertools.count(10**6)
        load = [asyncio.create_task(batches(large, others, batch)) for _ in range(2)]
        await asyncio.sleep(10)
        alone, _ = await rate(large, asyncio.sleep(20))
        shared, beside = await rate(large, latencies(small, numbers, requests), requests)
        for each in load:
            each.cancel()
        await asyncio.gather(*load, return_exceptions=True)
        await asyncio.sleep(1)
        idle += await latencies(small, numbers, requests)
    print(f"small client   {'p50':>9}{'p99':>9}")
    for name, times in (("idle", idle), ("beside", beside)):
        print(f"{name:15}{quantile(times, 0.5):8.3f}s{quantile(times, 0.99):8.3f}s")
    print(f"p99 beside / idle: {quantile(beside, 0.99) / quantile(idle, 0.99):.2f}")
    print(f"large client, items/s: {alone:.1f} alone, {shared:.1f} beside the small one, {shared / alone:.2f}")


async def latencies(http: aiohttp.ClientSession, numbers: "itertools.count[int]", count: int) -> list[float]:
    """Return the seconds that each of so many requests took, one after the other."""
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        async with http.post("/compare", json=request(next(numbers))) as reply:
            reply.raise_for_status()
            await reply.read()
        seconds.append(time.perf_counter() - started)
        await asyncio.sleep(random.uniform(0, 2 * PAUSE_SECONDS))
    return seconds


async def batches(http: aiohttp.ClientSession, numbers: "itertools.count[int]", size: int) -> None:
    """Send batches until cancelled."""
    while True:
        body = {"requests": [request(next(numbers)) for _ in range(size)]}
        async with http.post("/compare/batch", json=body) as reply:
            reply.raise_for_status()
            await reply.read()


async def rate(http: aiohttp.ClientSession, during: Awaitable[T], others: int = 0) -> tuple[float, T]:
    """Return the comparisons per second while something is awaited, but for so many others, and its result."""
    before, started = await comparisons(http), time.perf_counter()
    result = await during
    return (await comparisons(http) - before - others) / (time.perf_counter() - started), result


async def comparisons(http: aiohttp.ClientSession) -> float:
    """Return the number of comparisons that the server has answered, entries of batches one by one."""
    async with http.get("/metrics") as reply:
        text = await reply.text()
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith("qconf_comparisons_total "))


def quantile(times: list[float], share: float) -> float:
    """Return a quantile, an observed value."""
    return sorted(times)[min(len(times) - 1, int(share * len(times)))]


if __name__ == "__main__":
    main()
