"""``python -m benchmarks.event_loop``: how long the server's event loop is blocked, by kind of work.

The ordinary server runs with one additional task on its event loop, which wakes every 2 ms and records its delay. Code
that blocks the loop, or holds the interpreter's lock on another thread, delays it; so does a machine whose cores are
all busy.
"""

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx

from benchmarks.throughput import Drawn
from demo.local_server import READY

BEAT_SECONDS = 0.002
VOCABULARY = 400
"""The demo pair's; ids above it are refused."""


def main() -> None:
    """Print a row per kind of work."""
    parser = argparse.ArgumentParser(description="How long the server's event loop is blocked, by kind of work.")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        lateness = Path(name) / "lateness"
        command = [sys.executable, "-m", "benchmarks.event_loop", "serve", str(lateness)]
        with subprocess.Popen([*command, "--demo", "--port", "0"], stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                url = next(found[1] for line in server.stdout if (found := READY.search(line)))
                asyncio.run(measure(url, lateness, options.rounds))
            finally:
                server.terminate()


def serve(lateness: Path) -> None:
    """Run the server, with a task that writes to a file when and how late it woke."""
    import server.__main__ as program
    from server import serve as module

    ordinary = module.serve

    async def observed(*arguments: Any) -> int:
        with lateness.open("w", buffering=1) as file:
            beat = asyncio.create_task(note(file))
            try:
                return await ordinary(*arguments)
            finally:
                beat.cancel()

    module.serve = observed  # type: ignore[assignment]  # it passes its arguments on
    sys.exit(program.main())


async def note(file: Any) -> None:
    """Write a line for every late beat: when, how late, processor time of the process and of this thread meanwhile."""
    while True:
        due, computed, own = time.time() + BEAT_SECONDS, time.process_time(), time.thread_time()
        await asyncio.sleep(BEAT_SECONDS)
        late = time.time() - due
        if late > BEAT_SECONDS:
            file.write(f"{time.time()} {late} {time.process_time() - computed} {time.thread_time() - own}\n")


async def measure(url: str, lateness: Path, rounds: int) -> None:
    """Do each kind of work and read the delays of the beats in that time."""
    print(f"{'':44}{'longest':>10}{'over 10 ms':>12}{'over 50 ms':>12}")
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        for name, work in kinds(client).items():
            await asyncio.gather(*work(0))
            await asyncio.sleep(0.5)
            started = time.time()
            for number in range(rounds):
                await asyncio.gather(*work(number + 1))
            lines = [line.split() for line in lateness.read_text().splitlines()]
            late = [1e3 * float(each[1]) for each in lines if float(each[0]) > started]
            over = [sum(each > limit for each in late) for limit in (10, 50)]
            print(f"{name:44}{max(late, default=0):7.1f} ms{over[0]:12}{over[1]:12}", flush=True)


def kinds(client: httpx.AsyncClient) -> dict[str, Any]:
    """Map the name of each kind of work to the requests of a round."""

    def prompts(number: int, count: int, length: int) -> list[list[int]]:
        return Drawn(VOCABULARY, count, length).sequences(random.Random(f"{number} {count} {length}"))

    async def post(path: str, body: dict[str, Any]) -> None:
        (await client.post(path, json=body)).raise_for_status()

    def single(number: int, count: int, length: int, **options: Any) -> list[Coroutine[Any, Any, None]]:
        return [post("/compare", {"prompt": ids, **options}) for ids in prompts(number, count, length)]

    def batch(number: int, count: int, length: int, **options: Any) -> list[Coroutine[Any, Any, None]]:
        entries = [{"prompt": ids, **options} for ids in prompts(number, count, length)]
        return [post("/compare/batch", {"requests": entries})]

    return {
        "64 requests of 256 tokens, summary": lambda number: single(number, 64, 256, detail="summary"),
        "64 requests of 256 tokens, tokens": lambda number: single(number, 64, 256),
        "16 requests of 1,000 tokens, top 20": lambda number: single(number, 16, 1000, top_logprobs=20),
        "a batch of 64 of 256 tokens, tokens": lambda number: batch(number, 64, 256),
        "a batch of 1,000 of 100 tokens, summary": lambda number: batch(number, 1000, 100, detail="summary"),
        "a refused body of 8 MiB": lambda number: [refused(client, number)],
    }


async def refused(client: httpx.AsyncClient, number: int) -> None:
    """Send the largest body that the server reads; none of it is scored."""
    body = json.dumps({"prompt": [number] * (8 * 2**20 // 3 - 100)})
    assert (await client.post("/compare", content=body)).status_code == 400


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        file = Path(sys.argv[2])
        sys.argv[1:3] = []
        serve(file)
    main()
