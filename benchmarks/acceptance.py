"""``python -m benchmarks.acceptance``: check qconf on this machine's GPU. See benchmarks/README.md.

Neither network nor model hub is needed. Each case is recorded as soon as it has ended, the most important first, and a
case that fails does not stop the others. Unknown arguments are passed to every engine.
"""

import argparse
import json
import platform
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from benchmarks.cases import FAILED, NOT_AVAILABLE, NOT_RUN, PASSED, Case, Record, Report, Wrong, exit_code, run_cases
from benchmarks.correctness import correctness_cases, used
from benchmarks.engines import PeakMemory, machine
from benchmarks.random_pair import SIZES, VOCABULARIES, vocabulary
from benchmarks.references import in_process
from benchmarks.throughput import TOP, Drawn, find_pair
from client import Client
from demo.local_server import running_server
from qconf import __version__
from server.engine.twin.rows import WIDTH

PARTS = ("correctness", "throughput", "memory")
RESULTS = Path(__file__).parent / "results"
MODES = {"compiled": "--no-enforce-eager", "eager": "--enforce-eager"}
TIMED = (("compiled", "a,c,d,f"), ("eager", "d"), ("compiled", "e"), ("eager", "a,c,e,f"), ("compiled", "b"))
"""Cases of benchmarks.throughput. Those with several engines start slowly, and b is only there for its ratio."""
WORK = ("--prompts", "64", "--length", "1024", "--items", "32", "--requests", "128")
REHEARSED = (("eager", "d"), ("compiled", "e"))
LITTLE_WORK = ("--prompts", "4", "--length", "64", "--requests", "4", "--rounds", "1")
STEPS = (1, 1, 2, 4, 8)
"""Multiples of requests in the memory case: each step has as many as all before it."""
PROMPT = 2000
IN_FLIGHT = 4
SMALL_CACHE = ("--kv-cache-memory-bytes", str(2**27))
"""On a CPU a cache takes memory only as it is filled: this one is full before the second half."""


def main() -> int:
    """Print a table as cases end; return 1 if one of them failed."""
    options, arguments = parse()
    facts = described()
    suffix = "-rehearsal" if options.rehearse else ""
    path = options.json or RESULTS / f"{re.sub('[^a-z0-9]+', '-', facts['device'].lower())}{suffix}.json"
    report = Report(path, facts)
    print(f"{facts['device']}, driver {facts['driver']}, {facts['versions']}\n{'elapsed':>7} {'took':>7}", flush=True)
    outcomes: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = options.pairs or Path(name)
        make = {
            "correctness": partial(correctness_cases, options.size, options.vocabulary),
            "throughput": partial(throughput_cases, options.throughput_size, options.vocabulary),
            "memory": partial(memory_cases, options.size, options.vocabulary),
        }
        for part in options.parts:
            cases = make[part](folder, arguments, options.rehearse)
            outcomes += run_cases(part, cases, report, options.minutes)
    counts = [f"{outcomes.count(outcome)} {outcome}" for outcome in (PASSED, FAILED, NOT_AVAILABLE, NOT_RUN)]
    print(f"{', '.join(counts)}: {path}")
    return exit_code(outcomes)


def parse() -> tuple[argparse.Namespace, list[str]]:
    """Return the options, and the arguments for the engines."""
    parser = argparse.ArgumentParser(description="Check qconf on a GPU.")
    parser.add_argument("--parts", type=lambda text: text.split(","), default=PARTS, help="default: " + ",".join(PARTS))
    parser.add_argument("--size", choices=SIZES, default="1b", help="of the random pair except for throughput")
    parser.add_argument("--throughput-size", choices=SIZES, default="8b", help="of the random pair for throughput")
    parser.add_argument("--vocabulary", type=vocabulary, default=VOCABULARIES["128k"], help="of the random pairs")
    parser.add_argument("--pairs", type=Path, help="folder that keeps the random pairs, and may have them already")
    parser.add_argument("--minutes", type=float, default=9, help="per part, after which no other case is started")
    parser.add_argument("--rehearse", action="store_true", help="few cases and a tiny pair, on any machine")
    parser.add_argument("--json", type=Path, help="file for the results (default: benchmarks/results/DEVICE.json)")
    options, arguments = parser.parse_known_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"--parts names {', '.join(sorted(unknown))}: expected some of {', '.join(PARTS)}")
    if options.rehearse:
        options.size = options.throughput_size = "tiny"
        options.vocabulary = VOCABULARIES["1k"]
    return options, arguments


def described() -> Record:
    """Return what runs, when, and where. The driver names the GPU: torch would allocate memory on it."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    name, _, driver = (_printed(query) or platform.machine() + " CPU").partition("\n")[0].partition(", ")
    revision = _printed(["git", "describe", "--always", "--dirty", "--abbrev=40"])
    facts = machine()
    facts["versions"]["qconf"] = __version__
    return facts | {
        "device": name,
        "driver": driver or None,
        "revision": revision,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "benchmarks.acceptance", *sys.argv[1:]]),
    }


def _printed(command: Sequence[str]) -> str | None:
    """Return the output of a program; None where it is missing or fails."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, cwd=RESULTS.parent)
    return done.stdout.strip() if done.returncode == 0 else None


def throughput_cases(size: str, words: int, folder: Path, arguments: list[str], rehearse: bool) -> list[Case]:
    """Return groups of cases of ``benchmarks.throughput``, each in a process of its own."""
    cases = []
    for mode, letters in REHEARSED if rehearse else TIMED:
        work = LITTLE_WORK if rehearse else WORK
        pair = ["--pair", str(folder / size), "--size", size, "--vocabulary", str(words)]
        command = [*pair, "--cases", letters, *work, MODES[mode], *arguments]
        cases.append(Case(f"{size}, {mode}, {letters}", partial(time_pair, command)))
    return cases


def time_pair(arguments: list[str], record: Record) -> str:
    """Record the figures of ``benchmarks.throughput``, and print its messages."""
    with tempfile.TemporaryDirectory() as name:
        figures = Path(name) / "figures.json"
        command = [sys.executable, "-m", "benchmarks.throughput", *arguments, "--json", str(figures)]
        said = []
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            for line in process.stderr or ():
                print(line, end="", file=sys.stderr, flush=True)
                said.append(line)
        if process.returncode:
            raise Wrong("".join(said))
        found = json.loads(figures.read_text(encoding="utf-8"))
    record |= {"dtype": found["machine"]["dtype"], "cases": found["cases"], "ratios": found["ratios"]}
    record["options"] = {key: value for key, value in found["options"].items() if key not in ("pair", "json")}
    return ", ".join(f"{case} {figure['median']:,.0f} {figure['unit']}" for case, figure in found["cases"].items())


def memory_cases(size: str, words: int, folder: Path, arguments: list[str], rehearse: bool) -> list[Case]:
    """Return one case: whether a server's memory grows with the requests it has answered."""
    first, cache = (4, list(SMALL_CACHE)) if rehearse else (8, [])
    pair = argparse.Namespace(pair=folder / size, size=size, vocabulary=words)
    name = f"{size}, requests of {PROMPT:,} tokens, top {TOP}"
    return [Case(name, partial(check_growth, pair, [first * step for step in STEPS], [*cache, *arguments]))]


def check_growth(named: argparse.Namespace, steps: list[int], arguments: list[str], record: Record) -> str:
    """Measure peak memory of the server's processes and of the GPU while it answers more and more requests."""
    pair = in_process(find_pair, named, named.pair.parent)
    command = ["--model", str(pair.base), "--quantized", str(pair.quantized), "--log-level", "INFO", *arguments]
    with running_server(*command) as server, Client(server.url, timeout=600) as client:
        record["memory"] = used(server.log.read_text(encoding="utf-8", errors="replace"))["memory"]
        record["steps"] = []
        rng = random.Random(0)
        for requests in [0, *steps]:
            prompts = Drawn(named.vocabulary, requests, PROMPT).sequences(rng)
            with PeakMemory(server.process.pid) as memory, ThreadPoolExecutor(IN_FLIGHT) as pool:
                list(pool.map(lambda prompt: client.compare(prompt=prompt, top_logprobs=TOP), prompts))
            record["steps"].append({"requests": requests, **memory.gigabytes})
    *_, middle, last = record["steps"]
    growth = {name: last[name] - middle[name] for name in last if name != "requests"}
    rows = last["requests"] * PROMPT * (WIDTH + 4 * TOP) * 4 / 1e9
    told = ", ".join(f"{name} {last[name]:.2f} GB, {grown:+.3f}" for name, grown in growth.items())
    told += f" in the second half of the requests, whose rows were {rows:.3f}"
    if max(growth.values()) >= rows:
        raise Wrong(told)
    return told


if __name__ == "__main__":
    sys.exit(main())
