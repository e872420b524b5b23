"""``python -m benchmarks.replicas``: what several servers can be expected to do, from measurements of one.

The model: servers do not disturb each other, so a replay ends with the server that has the largest share of its work,
until the client or Envoy has no more processor time. Shares are exact: the hashes of the demo's contexts say which
server gets an item, and the items' lengths how much that is. Names of servers are part of the hashes, so shares are
those of many groups of names.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import numpy as np
import psutil

from benchmarks.load import request
from client.bench.items import Item
from client.bench.sources.lm_eval_tasks import load_tasks
from client.routing import context_hash, preferred
from demo.local_server import running_server
from qconf.demo import TASKS
from qconf.run.folder import read_manifest
from qconf.wire import CompareRequest
from tests.balancer import balancer

SERVERS = (1, 2, 4)
GROUPS = 200
WARM_UP = 20
TASK_COUNT = 6


def main() -> None:
    """Print what one server, the client and Envoy take, and what that means for several servers."""
    parser = argparse.ArgumentParser(description="Expected throughput of several servers, from measurements of one.")
    parser.add_argument("--limit", type=int, default=100, help="items of each of the demo's six tasks")
    parser.add_argument("--requests", type=int, default=300, help="single requests on each way")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running_server("--demo") as server:
        folder = Path(name)
        with balancer(folder, [server.url]) as envoy:
            print_latencies({"direct": server.url, "through Envoy": envoy.url}, options.requests)
            start = processor_seconds(server.url, 1, folder / "start")
            client = processor_seconds(server.url, options.limit, folder / "direct") - start
            before = psutil.Process(envoy.process.pid).cpu_times()
            processor_seconds(envoy.url, options.limit, folder / "envoy")
            after = psutil.Process(envoy.process.pid).cpu_times()
        timing = read_manifest(folder / "direct").timing
    assert timing is not None
    items = TASK_COUNT * options.limit
    client /= items - TASK_COUNT
    router = (after.user + after.system - before.user - before.system) / items
    one = timing.items_per_second
    print(f"\none server: {one:.1f} items/s; processor time for each item: client {1e3 * client:.2f} ms, ", end="")
    print(f"Envoy {1e3 * router:.2f} ms")
    print_prediction(one, 1 / client, 1 / router)


def print_latencies(ways: dict[str, str], requests: int) -> None:
    """Print the latencies of single requests, which go both ways in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with httpx.Client(timeout=60) as http:
        for number in range(-WARM_UP, requests):
            for turn, name in enumerate(sorted(ways, reverse=number % 2 == 1)):
                body = request(2 * (number + WARM_UP) + turn)
                began = time.perf_counter()
                http.post(f"{ways[name]}/compare", json=body).raise_for_status()
                if number >= 0:
                    seconds[name].append(time.perf_counter() - began)
    for name, each in seconds.items():
        low, median, high = 1e3 * np.quantile(each, [0.25, 0.5, 0.75])
        print(f"{name:14} p50 {median:.2f} ms (quartiles {low:.2f}, {high:.2f})")


def processor_seconds(url: str, limit: int, out: Path) -> float:
    """Replay the demo's tasks, and return the processor time of the client, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["client.bench", "--url", url, "--tasks", "demo", "--include-path", str(TASKS), "--limit", str(limit)]
    subprocess.run(
        [sys.executable, "-m", *command, "--quiet", "--out", str(out)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def largest_shares(items: Sequence[Item], servers: int) -> list[float]:
    """Return the largest share of the work that one of so many servers has, for each group of names."""
    work = [(context, item.length / len(item.contexts)) for item in items for context in contexts_of(item)]
    shares = []
    for group in range(GROUPS):
        done = dict.fromkeys((f"http://group{group}-{number}:8000" for number in range(servers)), 0.0)
        for context, length in work:
            done[preferred(context, list(done))[0]] += length
        shares.append(max(done.values()) / sum(done.values()))
    return shares


def contexts_of(item: Item) -> list[str]:
    """Return the hash of each of an item's requests."""
    return [
        context_hash(
            CompareRequest(
                prompt=context,
                continuations=[
                    text for text, of in zip(item.choices, item.choice_context, strict=True) if of == number
                ],
            )
        )
        for number, context in enumerate(item.contexts)
    ]


def print_prediction(one: float, client: float, router: float) -> None:
    """Print throughputs of the whole demo, from one server's items per second and the most of the client and Envoy."""
    loaded = load_tasks(["demo"], include_path=TASKS, num_fewshot=None, limit=None, cluster=None)
    items = [item for task in loaded.tasks for item in task.items]
    print(f"\n{'servers':>8}{'largest share (95 %)':>24}{'by the servers':>16}{'expected items/s':>18}")
    for servers in SERVERS:
        shares = largest_shares(items, servers)
        share, worst = np.quantile(shares, [0.5, 0.95])
        by_servers = one / share
        print(f"{servers:8}{f'{share:.3f} ({worst:.3f})':>24}{by_servers:16.0f}{min(by_servers, client, router):18.0f}")
    print(f"most of the client: {client:.0f} items/s, of Envoy: {router:.0f}")


if __name__ == "__main__":
    main()
