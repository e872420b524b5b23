"""``python -m benchmarks.monitoring``: cost of counting comparisons, as a share of the time to serve them.

A server with the demo pair answers comparisons of several shapes, 32 at a time; between rounds, as many of the same
shape are counted in this process, with a reference of items and tokens. The demo pair is so small that the shares are
about as large as they can be on a CPU.
"""

import argparse
import asyncio
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from client import AsyncClient
from demo.local_server import running_server
from qconf.run.reference import ReferenceRun
from qconf.statistics.drift import QUANTITIES, UNITS, Reference, Sample
from qconf.wire import ModelInfo, ModelList, ServerInfo
from server.engine.twin.rows import WIDTH, Rows
from server.monitoring.monitor import Monitor
from server.monitoring.observation import Item, Observation
from server.scoring.scored import MODELS

CONCURRENCY = 32
VOCABULARY = 500
"""The first ids of the demo pair, all of them words."""


@dataclass(frozen=True)
class Shape:
    """Comparisons of one kind: tokens of the prompt, choices, tokens of each."""

    name: str
    prompt: int
    choices: int = 0
    tokens: int = 0

    def request(self, rng: random.Random) -> dict[str, Any]:
        """Return a comparison of random tokens."""
        prompt, *choices = (
            [rng.randrange(2, VOCABULARY) for _ in range(length)]
            for length in [self.prompt, *[self.tokens] * self.choices]
        )
        return {"prompt": prompt, "detail": "summary"} | ({"continuations": choices, "label": 0} if choices else {})

    def observation(self, rng: np.random.Generator) -> Observation:
        """Return the observation that the server would count for it."""
        scored = self.choices * self.tokens or self.prompt - 1
        item = Item((0, 1), (0.6, 0.7), 0, (0.2, 0.3)) if self.choices else None
        return Observation(Rows(rng.random((scored, WIDTH))), item)


SHAPES = (
    Shape("4 choices of 20 tokens, 200 before", 200, 4, 20),
    Shape("4 choices of 20 tokens, 20 before", 20, 4, 20),
    Shape("a text of 64 tokens", 64),
    Shape("a text of 256 tokens", 256),
    Shape("a text of 1,000 tokens", 1000),
)


def main() -> None:
    """Print a table, and with ``--json`` write the figures to a file."""
    parser = argparse.ArgumentParser(description="Measure what counting a comparison costs.")
    parser.add_argument("--comparisons", type=int, default=100, help="per shape and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    monitor = make_monitor()
    seconds: dict[str, list[tuple[float, float]]] = {shape.name: [] for shape in SHAPES}
    with running_server("--demo") as server:
        for number in range(options.rounds + 1):
            for shape in SHAPES:
                served = asyncio.run(serve(server.url, shape, options.comparisons, seed=number))
                counted = count(monitor, shape, options.comparisons, seed=number)
                if number:  # the first round warms up
                    seconds[shape.name].append((served, counted))
    figures = {
        name: {
            "served_ms": median(served for served, _ in pairs) * 1e3,
            "counted_ms": median(counted for _, counted in pairs) * 1e3,
            "share": median(counted / served for served, counted in pairs),
            "largest_share": max(counted / served for served, counted in pairs),
        }
        for name, pairs in seconds.items()
    }
    print(f"{'per comparison':36}{'served':>10}{'counted':>10}{'share':>10}{'largest':>10}")
    for name, each in figures.items():
        times = f"{each['served_ms']:7.2f} ms{each['counted_ms']:7.3f} ms"
        print(f"{name:36}{times}{each['share']:10.2%}{each['largest_share']:10.2%}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


async def serve(url: str, shape: Shape, comparisons: int, seed: int) -> float:
    """Return the seconds per comparison served."""
    rng = random.Random(f"{shape.name} {seed}")
    room = asyncio.Semaphore(CONCURRENCY)
    async with AsyncClient(url) as client:

        async def one(request: dict[str, Any]) -> None:
            async with room:
                await client.compare(**request)

        requests = [shape.request(rng) for _ in range(comparisons)]
        started = time.perf_counter()
        await asyncio.gather(*map(one, requests))
        return (time.perf_counter() - started) / comparisons


def count(monitor: Monitor, shape: Shape, comparisons: int, seed: int) -> float:
    """Return the seconds per comparison counted, with a scrape after them."""
    rng = np.random.default_rng(seed)
    observations = [shape.observation(rng) for _ in range(comparisons)]
    started = time.perf_counter()
    for observation in observations:
        monitor.add([observation])
    monitor.exposition("")
    return (time.perf_counter() - started) / comparisons


def make_monitor() -> Monitor:
    """Make a monitor of all metrics, with a reference of all quantities."""
    rng = np.random.default_rng(0)
    samples = {(unit, name): Sample.independent(rng.random(5000)) for unit in UNITS for name in QUANTITIES}
    facts = {"created": 0, "revision": None, "digest": "", "architecture": "", "dtype": "", "quantization": None}
    infos = [ModelInfo.model_validate(facts | {"id": role, "root": role, "max_model_len": 0}) for role in MODELS]
    models = ModelList(data=infos, server=ServerInfo(version="", vllm="", device=""))
    reference = ReferenceRun(Path("random"), Reference.of(samples), None)
    return Monitor(models, reference, window_comparisons=2000, window_seconds=6 * 3600)


if __name__ == "__main__":
    main()
