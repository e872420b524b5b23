"""``python -m benchmarks.hostile``: ten thousand hostile requests against a running server, and files for its readers.

A row for each part: cases, what is wrong with the replies, tracebacks in the server's log, the longest block of its
event loop (processor time of its thread, and how late it was), and what the server holds afterwards. Exit code 1 if
anything is wrong.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from benchmarks.hostile.bodies import bodies
from benchmarks.hostile.cases import Case
from benchmarks.hostile.connections import connections
from benchmarks.hostile.mutants import mutants
from benchmarks.hostile.openapi import explore
from benchmarks.hostile.readers import READERS
from benchmarks.hostile.sending import send_all
from benchmarks.hostile.slow import slow_clients
from benchmarks.hostile.watch import blocked, state
from demo.local_server import LocalServer, running_server

KEY = "sk-0123456789abcdef"
MOST_BLOCKED = 0.1
MOST_SHOWN = 20


def main() -> int:
    """Run all parts."""
    parser = argparse.ArgumentParser(description="Hostile requests and files, in thousands.")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mutants", type=int, default=5000, help="valid requests with random edits")
    parser.add_argument("--examples", type=int, default=150, help="schemathesis: cases for each operation and phase")
    parser.add_argument("--runs", type=int, default=10_000, help="atheris: runs for each reader")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "keys").write_text(f"hostile = {KEY}\n")
        program = ("benchmarks.event_loop", "serve", str(folder / "lateness"))
        arguments = ("--demo", "--api-key-file", str(folder / "keys"))
        with running_server(*arguments, log=folder / "log", program=program) as server:
            parts = Parts(server, folder / "lateness")
            for _ in range(2):
                parts.send("catalogue, 150 slow clients", [*bodies(KEY), *connections(KEY)], slow=50)
            parts.send("catalogue without a key", list(strangers()))
            parts.send(f"mutants, seed {options.seed}", list(mutants(options.seed, options.mutants, KEY)))
            parts.explore(options.examples, options.seed)
            parts.send("catalogue", [*bodies(KEY), *connections(KEY)])
    wrong = parts.wrong + sum(fuzzed(reader, options.runs, options.seed) for reader in READERS)
    print(f"{parts.cases} requests, {len(READERS) * options.runs} files: {wrong or 'nothing'} wrong")
    return 1 if wrong else 0


def strangers() -> Iterator[Case]:
    """Yield the bodies without a key: whatever they hold, the reply is 401."""
    for case in bodies():
        yield replace(case, allowed=frozenset({401}))


class Parts:
    """Prints a row for each part."""

    def __init__(self, server: LocalServer, lateness: Path) -> None:
        self._server = server
        self._lateness = lateness
        self.cases = self.wrong = 0
        print(
            f"{'':36}{'cases':>8}{'wrong':>7}{'seconds':>9}{'tracebacks':>12}{'loop':>8}{'late':>8}{'MiB':>7}{'files':>7}{'threads':>9}"
        )
        self._row("the server before", 0, 0, time.time())

    def send(self, name: str, cases: list[Case], slow: int = 0) -> None:
        """Send cases, beside so many slow clients of each kind."""
        since = time.time()
        found = asyncio.run(self._sent(cases, slow))
        for line in found[:MOST_SHOWN]:
            print(line)
        self._row(name, len(cases), len(found), since)

    async def _sent(self, cases: list[Case], slow: int) -> list[str]:
        async with slow_clients(self._server.url, slow) as replies:
            outcomes = await send_all(self._server.url, cases)
        odd = [f"slow clients: {reply}" for reply in replies if " 408 " not in reply and " 401 " not in reply]
        return odd + [f"{each.case.family}, {each.case.name}: {each.wrong}" for each in outcomes if each.wrong]

    def explore(self, examples: int, seed: int) -> None:
        """Let schemathesis work."""
        since = time.time()
        explored = explore(self._server.url, examples=examples, seed=seed, key=KEY)
        if explored.failures:
            print(explored.printed)
        self._row(f"schemathesis, seed {seed}", explored.cases, explored.failures, since)

    def _row(self, name: str, cases: int, wrong: int, since: float) -> None:
        seconds = time.time() - since
        now, block = state(self._server, KEY), blocked(self._lateness, since)
        self.cases += cases
        self.wrong += wrong + now.tracebacks + (now.in_flight > 0) + (block.own > MOST_BLOCKED)
        print(
            f"{name:36}{cases:8}{wrong:7}{seconds:9.0f}{now.tracebacks:12}{1e3 * block.own:5.0f} ms"
            f"{1e3 * block.late:5.0f} ms{now.mebibytes:7.0f}{now.descriptors:7}{now.threads:9}",
            flush=True,
        )


def fuzzed(reader: str, runs: int, seed: int) -> int:
    """Fuzz one reader, and return 1 if something surprised it."""
    since = time.time()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.hostile.fuzz", reader, folder]
        command += ["--runs", str(runs), "--seed", str(seed)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        print(done.stdout.decode(errors="replace")[-3000:])
    print(
        f"{f'atheris: {reader}, seed {seed}':36}{runs:8}{int(done.returncode != 0):7}{time.time() - since:9.0f}",
        flush=True,
    )
    return int(done.returncode != 0)


if __name__ == "__main__":
    sys.exit(main())
