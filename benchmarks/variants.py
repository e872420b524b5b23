"""``python -m benchmarks.variants``: what each further quantized variant of one base costs.

One server for each number of variants, all running at once, are asked in turns, closed loop: the time for an item
relative to a pair's. A base and N variants are N + 1 models; N pairs would be 2 N.
"""

import argparse
import asyncio
import itertools
from contextlib import ExitStack

import aiohttp
import numpy as np

from benchmarks.load import closed
from demo.local_server import LocalServer, running_server
from qconf.demo import PAIR


def main() -> None:
    """Print a row for each number of variants."""
    parser = argparse.ArgumentParser(description="What each further quantized variant of one base costs.")
    parser.add_argument("--model", default=str(PAIR / "base"))
    parser.add_argument("--quantized", default=str(PAIR / "quantized"), help="served under several names")
    parser.add_argument("--most", type=int, default=3, help="variants")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10, help="of each server in each round")
    options = parser.parse_args()
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running_server("--model", options.model, *_variants(options.quantized, count)))
            for count in range(1, options.most + 1)
        ]
        rates = np.array(asyncio.run(measure(servers, options.rounds, options.seconds)))
    times = np.median(rates[:, :1] / rates, axis=0)
    print(f"{'variants':>8}{'items/s':>9}{'time for an item, pair = 1':>28}{'by models':>11}{'as pairs':>10}")
    for count, (rate, each) in enumerate(zip(np.median(rates, axis=0), times, strict=True), 1):
        print(f"{count:8}{rate:9.1f}{each:28.2f}{(count + 1) / 2:11.2f}{float(count):10.2f}")


def _variants(quantized: str, count: int) -> list[str]:
    return [each for number in range(count) for each in ("--quantized", f"variant{number}={quantized}")]


async def measure(servers: list[LocalServer], rounds: int, seconds: float) -> list[list[float]]:
    """Return the items per second of each server in each round."""
    numbers = itertools.count()

    async def rate(server: LocalServer, seconds: float) -> float:
        async with aiohttp.ClientSession(server.url, connector=aiohttp.TCPConnector(limit=0)) as http:
            return (await closed(http, numbers, seconds))[0]

    for server in servers:
        await rate(server, 3)
    return [[await rate(server, seconds) for server in servers] for _ in range(rounds)]


if __name__ == "__main__":
    main()
