"""``python -m benchmarks.soak``: whether the server ends where it began, after mixed traffic with faults.

Many kinds of clients at once, well-behaved and not (``soak_traffic``). What the server holds is read after a warm-up,
in which pools of threads and caches fill, and again after each sixth of the traffic: resident memory of the server and
of its engine, descriptors, threads, blocks of the KV cache, requests and sequences in flight. The exit code is 1 where
one of them grew by more than its tolerance, where a reply had a status that its kind of client must not see, or where
the probe's numbers changed.
"""

import argparse
import asyncio
import os
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

import aiohttp
import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.soak_traffic import KEY, Seen, Traffic, write_keys
from demo.local_server import LocalServer, running_server

WARM_SHARE = 0.5
PARTS = 6
CACHE_BYTES = 2**26
"""Of the KV cache: every block has been used, and is resident, by the end of the warm-up."""
PRIMITIVES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16"}
"""On CPUs oneDNN keeps the code of 1,024 shapes of matrix products, hundreds of MiB, which minutes of traffic
of all lengths fill. With few, what still grows is the server's own."""
SETTLE_SECONDS = 30
SPREAD = 1e-3
"""Of the probe's log-probabilities, in nats: other sequences in a batch may change a product's shape and rounding."""
GAUGES = ("qconf_requests_in_flight", "qconf_sequences_in_flight", "qconf_tokens_in_flight")
ENGINE_GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")


@dataclass(frozen=True)
class Held:
    """What the server and its engine hold: memory in MiB, descriptors, threads, work, the used share of KV blocks."""

    server_memory: float
    engine_memory: float
    descriptors: float
    threads: float
    in_flight: float
    engine: float


TOLERANCE = Held(server_memory=64, engine_memory=64, descriptors=2, threads=2, in_flight=0, engine=0)
"""Memory: allocators give back pages late, and how late depends on the last burst; a leak of 1 KiB per request would
exceed it within the 30 minutes of a run by hand. Descriptors and threads: a connection that the kernel has not closed
yet, a pool that grows by one more thread when it is first busy. Work and blocks: none."""


@dataclass(frozen=True)
class Outcome:
    """Of one soak: what was held before it and after each part, what was seen, and what is wrong in sentences."""

    held: list[Held]
    seen: Seen
    wrong: list[str]


def main() -> int:
    """Print what was seen; returns the exit code."""
    parser = argparse.ArgumentParser(description="Whether the server ends where it began.")
    parser.add_argument("--seconds", type=float, default=1800, help="length of the traffic, warm-up not counted")
    parser.add_argument("--seed", type=int, default=0, help="of the order of clients and of their requests")
    options = parser.parse_args()
    outcome = run(options.seconds, options.seed)
    print(f"{'':14}{'before':>9}{'after each part':>{9 * PARTS}}{'tolerance':>11}")
    for each in fields(Held):
        readings = "".join(f"{getattr(held, each.name):9.1f}" for held in outcome.held)
        print(f"{each.name:14}{readings}{getattr(TOLERANCE, each.name):11.0f}")
    for (kind, status), count in sorted(outcome.seen.statuses.items()):
        print(f"{kind:16}{status:>10}{count:10}")
    print(f"{outcome.seen.statuses.total()} clients; the probe's numbers: spread {outcome.seen.spread:.2g} nats")
    print("\n".join(outcome.wrong) or "everything ended where it began")
    return 1 if outcome.wrong else 0


def run(seconds: float, seed: int) -> Outcome:
    """Soak a server of the demo pair, which is started for it."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys"
        write_keys(keys, 0)
        options = {
            "--api-key-file": keys,
            "--state-dir": Path(folder) / "state",
            "--queue-seconds": 5,
            # Fewer than a burst has, so that bursts are refused in part on any machine.
            "--max-sequences": 512,
            "--kv-cache-memory-bytes": CACHE_BYTES,
        }
        os.environ |= PRIMITIVES
        arguments = [str(part) for option in options.items() for part in option]
        with running_server("--demo", *arguments) as server:
            outcome = asyncio.run(soak(server, keys, seconds, seed))
            outcome.wrong.extend(["the log has a traceback"] if "Traceback" in server.log.read_text() else [])
            return outcome


async def soak(server: LocalServer, keys: Path, seconds: float, seed: int) -> Outcome:
    """Warm up, measure, soak, measure."""
    seen = Seen()
    traffic = Traffic(server.url, keys, seen, seed)
    await traffic.run(WARM_SHARE * seconds)
    held = [await settled(server)]
    for _ in range(PARTS):
        await traffic.run(seconds / PARTS)
        held.append(await settled(server))
    wrong = [f"unexpected: {each}" for each in seen.unexpected]
    for each in fields(Held):
        grown = getattr(held[-1], each.name) - getattr(held[0], each.name)
        if grown > getattr(TOLERANCE, each.name):
            wrong.append(f"{each.name} grew by {grown:.1f}")
    if seen.spread > SPREAD:
        wrong.append(f"the probe's numbers differ by {seen.spread:.2g} nats")
    return Outcome(held, seen, wrong)


async def settled(server: LocalServer) -> Held:
    """Wait until nothing is in flight and connections have gone, then measure; after a while, measure all the same."""
    deadline = time.monotonic() + SETTLE_SECONDS
    held = await measured(server)
    while time.monotonic() < deadline:
        await asyncio.sleep(2)
        before, held = held, await measured(server)
        if not held.in_flight and not held.engine and held.descriptors == before.descriptors:
            break
    return held


async def measured(server: LocalServer) -> Held:
    """Read processes and metrics."""
    async with (
        aiohttp.ClientSession(server.url, headers={"authorization": f"Bearer {KEY}"}) as http,
        http.get("/metrics") as reply,
    ):
        text = await reply.text()
    found = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    root = psutil.Process(server.process.pid)
    family = [root, *root.children(recursive=True)]
    memory = [each.memory_info().rss / 2**20 for each in family]
    return Held(
        server_memory=memory[0],
        engine_memory=sum(memory[1:]),
        descriptors=sum(each.num_fds() for each in family),
        threads=sum(each.num_threads() for each in family),
        in_flight=sum(found[name] for name in GAUGES),
        engine=sum(found[name] for name in ENGINE_GAUGES),
    )


if __name__ == "__main__":
    sys.exit(main())
