"""``python -m benchmarks.load``: what the server answers when more is asked than it can do.

Open loop: requests are sent at their times whether or not earlier ones were answered, as many clients would. Capacity
is measured first, closed loop. At each multiple of it: throughput of good answers as a share of capacity, refusals,
failures, latency of good answers, the server's memory, and a fixed probe whose numbers must never change. The load
comes from the same machine, and takes its part of the cores from the engine, which on a GPU has a device of its own:
so good answers are also counted per second of processor time that the engine got, as a share of what they were per
second at capacity.
"""

import argparse
import asyncio
import itertools
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import psutil

from demo.local_server import LocalServer, running_server

VOCABULARY = 400
"""The demo pair's; ids above it are refused."""
PROBE = {"prompt": list(range(5, 60)), "continuations": [[7, 8, 9], [10, 11]], "detail": "summary"}
IN_FLIGHT = 64


@dataclass
class Seen:
    """What came of the requests of one load."""

    statuses: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)
    probes: set[str] = field(default_factory=set)


def main() -> None:
    """Print a row for each load."""
    parser = argparse.ArgumentParser(description="What the server answers when more is asked than it can do.")
    parser.add_argument("--loads", default="0.5,1,2,5", help="multiples of capacity")
    parser.add_argument("--seconds", type=float, default=60, help="length of each load")
    options = parser.parse_args()
    with running_server("--demo", "--queue-seconds", "5") as server:
        asyncio.run(measure(server, [float(each) for each in options.loads.split(",")], options.seconds))


async def measure(server: LocalServer, loads: list[float], seconds: float) -> None:
    """Measure capacity, then each load."""
    numbers = itertools.count()
    async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as http:
        await closed(http, numbers, 5)
        before = engine_seconds(server)
        capacity, took = await closed(http, numbers, min(seconds, 20))
        per_second = capacity * took / (engine_seconds(server) - before)
        print(f"capacity {capacity:.1f} requests/s, resident memory {memory(server):.0f} MiB")
        print(
            f"{'load':>6}{'good/capacity':>15}{'per engine s':>14}{'200':>8}{'429':>8}{'other':>7}"
            f"{'p50':>8}{'p99':>8}{'wait':>6}{'MiB':>7}"
        )
        everything: list[str] = []
        probes: set[str] = set()
        for load in loads:
            before = engine_seconds(server)
            seen, took = await opened(http, numbers, load * capacity, seconds)
            share = seen.statuses["200"] / (engine_seconds(server) - before) / per_second
            everything += seen.ids
            probes |= seen.probes
            print(row(load, capacity, seen, took, share, memory(server)), flush=True)
        assert len(everything) == len(set(everything)), "a request was answered twice"
        print(f"the probe's numbers: {len(probes)} version(s)")


async def closed(http: aiohttp.ClientSession, numbers: "itertools.count[int]", seconds: float) -> tuple[float, float]:
    """Return the requests per second with a fixed number of them in flight, and for how many seconds."""
    until, done = time.perf_counter() + seconds, 0

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < until:
            async with http.post("/compare", json=request(next(numbers))) as reply:
                reply.raise_for_status()
                await reply.read()
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    took = time.perf_counter() - started
    return done / took, took


async def opened(
    http: aiohttp.ClientSession, numbers: "itertools.count[int]", rate: float, seconds: float
) -> tuple[Seen, float]:
    """Send at the rate for so long; the time from the first request to the last answer comes too."""
    seen = Seen()
    tasks: list[asyncio.Task[None]] = []
    arrivals = random.Random(0)
    started = due = time.perf_counter()
    while due < started + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        probe = len(tasks) % 100 == 0
        tasks.append(asyncio.create_task(ask(http, PROBE if probe else request(next(numbers)), seen, probe=probe)))
        due += arrivals.expovariate(rate)
    await asyncio.gather(*tasks)
    return seen, time.perf_counter() - started


async def ask(http: aiohttp.ClientSession, body: dict[str, Any], seen: Seen, *, probe: bool) -> None:
    """Send one request and note its outcome."""
    started = time.perf_counter()
    try:
        async with http.post("/compare", json=body) as reply:
            content = await reply.read()
    except aiohttp.ClientError as error:
        seen.statuses[repr(error)] += 1
        return
    seen.statuses[str(reply.status)] += 1
    if reply.status == 429:
        seen.waits.append(int(reply.headers["retry-after"]))
    if reply.status == 200:
        answer = json.loads(content)
        seen.seconds.append(time.perf_counter() - started)
        seen.ids.append(answer["id"])
        if probe:
            seen.probes.add(json.dumps(answer["continuations"]))


def request(number: int) -> dict[str, Any]:
    """Make an item of four choices; no two items are alike."""
    ids = np.random.default_rng(number).integers(5, VOCABULARY, 60 + 4 * 8).tolist()
    choices = [ids[start : start + 8] for start in range(60, len(ids), 8)]
    return {"prompt": ids[:60], "continuations": choices, "detail": "summary"}


def memory(server: LocalServer) -> float:
    """Return the resident memory of the server and its engine in MiB."""
    process = psutil.Process(server.process.pid)
    return float(sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])) / 2**20


def engine_seconds(server: LocalServer) -> float:
    """Return the processor time of the engine's processes so far."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    return float(sum(sum(each.cpu_times()[:2]) for each in children))


def row(load: float, capacity: float, seen: Seen, took: float, per_engine_second: float, resident: float) -> str:
    """Format one line of the table."""
    good, refused = seen.statuses["200"], seen.statuses["429"]
    other = seen.statuses.total() - good - refused
    times = sorted(seen.seconds) or [float("nan")]
    p50, p99 = (times[min(len(times) - 1, int(share * len(times)))] for share in (0.5, 0.99))
    wait = sum(seen.waits) / len(seen.waits) if seen.waits else 0.0
    share = good / took / capacity
    if other:
        print({status: count for status, count in seen.statuses.items() if status not in ("200", "429")})
    counts = f"{load:6.1f}{share:15.2f}{per_engine_second:14.2f}{good:8}{refused:8}{other:7}"
    return f"{counts}{p50:7.2f}s{p99:7.2f}s{wait:5.1f}s{resident:7.0f}"


if __name__ == "__main__":
    main()
