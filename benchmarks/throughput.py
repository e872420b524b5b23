"""``python -m benchmarks.throughput``: speed of scoring prompts under both models, compared with plain vLLM.

benchmarks/README.md describes the cases. Every engine is started once and warmed up by a round that does not count;
then all cases take turns in every round, in alternating order, so that disturbances of the machine affect all of them.
Every round has new random prompts, so that no cache helps except within an item of case f. Unknown arguments, such as
``--max-num-batched-tokens 8192``, are passed to every engine.
"""

import argparse
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Literal

import torch

from benchmarks.engines import (
    Asked,
    Compare,
    Done,
    PeakMemory,
    Prefill,
    Score,
    Work,
    machine,
    running_http,
    running_plain,
    running_twin,
)
from benchmarks.random_pair import SIZES, SPECIAL, VOCABULARIES, RandomPair, make_pair, vocabulary
from server.engine.preload import preload_libraries

TOP = 20
CONCURRENCIES = (1, 8, 64)
DETAILS: tuple[Literal["tokens", "summary"], ...] = ("tokens", "summary")
CHOICES, CHOICE_TOKENS = 4, 20
CONTEXTS = (200, 1000)
ROLES = ("base", "quantized", "engine", "server")
DEVICE_MEMORY = (0.2, 0.1, 0.3, 0.3)
"""Shares of a GPU's memory for each role: enough for 8 billion parameters where there are 141 GB."""
CASES = {
    "a": "limit: bare prefill, twice",
    "b": "plain vLLM twice, all log-probs",
    "b flat": "plain vLLM twice, all log-probs, flat",
    "c": f"plain vLLM twice, top {TOP}",
    "d": "our engine",
    **{f"e {detail} {n}": f"our server, {detail}, {n} at a time" for detail in DETAILS for n in CONCURRENCIES},
    **{f"f peer {n}": f"choices after {n}: plain vLLM twice, top {TOP}" for n in CONTEXTS},
    **{f"f ours {n}": f"choices after {n}: our engine" for n in CONTEXTS},
}
RATIOS = (
    ("d", "a"),
    ("d", "c"),
    ("d", "b"),
    ("d", "b flat"),
    *((f"e {detail} {CONCURRENCIES[-1]}", "d") for detail in DETAILS),
    *((f"f ours {n}", f"f peer {n}") for n in CONTEXTS),
)
ITEMS, ITEM_TOKENS = (1, 10, 100, 1000, 10_000), 16
LENGTHS, LENGTH_TOKENS = (64, 256, 1024, 4096), 4096

Starter = Callable[[], AbstractContextManager[Asked]]


@dataclass(frozen=True)
class Step:
    """Work of one engine for a case in each round: ``count`` tokens (or choices)."""

    case: str
    role: str
    count: int
    work: Callable[[random.Random], Work]


@dataclass
class Figure:
    """Measurements of a case: seconds per engine and round."""

    count: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    latencies: list[float] = field(default_factory=list)

    def add(self, role: str, done: Done) -> None:
        """Add a round."""
        self.seconds.setdefault(role, []).append(done.seconds)
        self.latencies += done.latencies

    @property
    def rates(self) -> list[float]:
        """Tokens (or choices) per second under both models: one after the other where they are two engines."""
        return [self.count / sum(each) for each in zip(*self.seconds.values(), strict=True)]

    def percentile(self, percent: int) -> float | None:
        """Return a percentile of the requests' latencies in milliseconds; None without requests."""
        return 1e3 * quantiles(self.latencies, n=100, method="inclusive")[percent - 1] if self.latencies else None


def main() -> None:
    """Print tables, and with ``--json`` write the figures to a file."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # vLLM and torch warn in each of their processes
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    options, arguments = parse()
    preload_libraries()
    with tempfile.TemporaryDirectory() as name:
        pair = find_pair(options, Path(name))
        options.vocabulary = json.loads((pair.base / "config.json").read_text(encoding="utf-8"))["vocab_size"]
        starters = make_starters(pair, options, arguments)
        facts: dict[str, Any] = {}
        figures = measure(make_steps(options), starters, options, facts)
        growth = grow(pair, starters["engine"], options, arguments) if "g" in options.cases else []
    ratios = {
        f"{ours} / {theirs}": ratio(figures[ours], figures[theirs])
        for ours, theirs in RATIOS
        if ours in figures and theirs in figures
    }
    show(figures, ratios, growth)
    if options.json:
        described = {
            "machine": machine() | facts,
            "options": vars(options) | {"engines": arguments},
            "cases": {case: described_figure(case, figure) for case, figure in figures.items()},
            "ratios": ratios,
            "growth": growth,
        }
        options.json.write_text(json.dumps(described, indent=2, default=str) + "\n", encoding="utf-8")


def parse() -> tuple[argparse.Namespace, list[str]]:
    """Return the options, and the arguments for the engines."""
    parser = argparse.ArgumentParser(description="Compare our engine and server with plain vLLM, run once per model.")
    parser.add_argument("--cases", type=lambda text: text.split(","), default="a,b,c,d,e,f", help="letters from a to g")
    parser.add_argument("--size", choices=SIZES, default="small", help="of the random pair")
    parser.add_argument("--vocabulary", type=vocabulary, default=32_000, help="of the random pair")
    parser.add_argument("--pair", type=Path, help="folder of a pair, made there if it is not there yet")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=16, help="in a, c and d")
    parser.add_argument("--length", type=int, default=256, help="tokens of each, in e too")
    parser.add_argument("--exact-prompts", type=int, default=1, help="in b, which is slow")
    parser.add_argument("--exact-length", type=int, default=64, help="tokens of each")
    parser.add_argument("--requests", type=int, default=64, help="in e, if not twice as many as are in flight")
    parser.add_argument("--items", type=int, default=8, help="with choices, in f")
    parser.add_argument("--sequential", action="store_true", help="one engine at a time, where all would not fit")
    parser.add_argument(
        "--device-memory",
        type=float,
        nargs=len(ROLES),
        metavar=tuple(role.upper() for role in ROLES),
        help="shares of a GPU's memory (default: 0.2 0.1 0.3 0.3; with --sequential each gets what vLLM takes)",
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    options, arguments = parser.parse_known_args()
    if unknown := set(options.cases) - set("abcdefg"):
        parser.error(f"--cases names {', '.join(sorted(unknown))}: expected letters from a to g")
    return options, arguments


def find_pair(options: argparse.Namespace, folder: Path) -> RandomPair:
    """Return the named pair, or a new one."""
    folder = options.pair or folder / "pair"
    pair = RandomPair(folder / "base", folder / "quantized")
    return pair if pair.base.exists() else make_pair(folder, SIZES[options.size], options.vocabulary)


def make_starters(pair: RandomPair, options: argparse.Namespace, arguments: list[str]) -> dict[str, Starter]:
    """Return functions that start the engine or server of each role."""
    shares = options.device_memory
    if shares is None and torch.cuda.is_available() and not options.sequential:
        shares = DEVICE_MEMORY
    own = {
        role: [*arguments, *([] if shares is None else ["--gpu-memory-utilization", str(shares[i])])]
        for i, role in enumerate(ROLES)
    }
    return {
        "base": partial(running_plain, pair.base, own["base"]),
        "quantized": partial(running_plain, pair.quantized, own["quantized"]),
        "engine": partial(running_twin, pair.base, pair.quantized, own["engine"]),
        "server": partial(running_http, pair.base, pair.quantized, own["server"]),
    }


@dataclass(frozen=True)
class Drawn:
    """Random work: ``prompts`` of ``length`` tokens each."""

    vocabulary: int
    prompts: int
    length: int

    @property
    def tokens(self) -> int:
        """Tokens of all prompts together."""
        return self.prompts * self.length

    def ids(self, rng: random.Random, length: int) -> list[int]:
        """Return a random sequence."""
        return [rng.randrange(len(SPECIAL), self.vocabulary) for _ in range(length)]

    def sequences(self, rng: random.Random) -> list[list[int]]:
        """Return the prompts."""
        return [self.ids(rng, self.length) for _ in range(self.prompts)]

    def choices(self, rng: random.Random) -> list[list[int]]:
        """Return each prompt with each of its choices."""
        contexts = self.sequences(rng)
        return [context + self.ids(rng, CHOICE_TOKENS) for context in contexts for _ in range(CHOICES)]


def make_steps(options: argparse.Namespace) -> list[Step]:
    """Return all steps of a round."""
    drawn = Drawn(options.vocabulary, options.prompts, options.length)
    exact = Drawn(options.vocabulary, options.exact_prompts, options.exact_length)
    steps = []
    for case, size, logprobs in (("a", drawn, None), ("b", exact, -1), ("b flat", exact, -1), ("c", drawn, TOP)):
        for role in ("base", "quantized"):
            work = partial(prefill, size.sequences, logprobs, case != "b")
            steps.append(Step(case, role, size.tokens, work))
    steps.append(Step("d", "engine", drawn.tokens, partial(score, drawn.sequences, 0)))
    for n in CONCURRENCIES:
        requests = Drawn(options.vocabulary, max(options.requests, 2 * n), options.length)
        for detail in DETAILS:
            http = partial(compare, requests.sequences, detail, n)
            steps.append(Step(f"e {detail} {n}", "server", requests.tokens, http))
    for n in CONTEXTS:
        items = Drawn(options.vocabulary, options.items, n)
        for role in ("base", "quantized"):
            steps.append(Step(f"f peer {n}", role, CHOICES * items.prompts, partial(prefill, items.choices, TOP, True)))
        steps.append(Step(f"f ours {n}", "engine", CHOICES * items.prompts, partial(score, items.choices, n - 1)))
    return [step for step in steps if step.case[0] in options.cases]


Sequences = Callable[[random.Random], list[list[int]]]


def prefill(sequences: Sequences, logprobs: int | None, flat: bool, rng: random.Random) -> Work:
    return Prefill(sequences(rng), logprobs, flat)


def score(sequences: Sequences, start: int, rng: random.Random) -> Work:
    return Score([(ids, start) for ids in sequences(rng)])


def compare(sequences: Sequences, detail: Literal["tokens", "summary"], concurrency: int, rng: random.Random) -> Work:
    return Compare(sequences(rng), detail, concurrency)


def measure(
    steps: list[Step], starters: dict[str, Starter], options: argparse.Namespace, facts: dict[str, Any]
) -> dict[str, Figure]:
    """Run all steps in every round; with ``--sequential``, all rounds of one engine before the next engine's."""
    figures: dict[str, Figure] = {}
    roles = [role for role in ROLES if any(step.role == role for step in steps)]
    for group in [[role] for role in roles] if options.sequential else [roles]:
        mine = [step for step in steps if step.role in group]
        with ExitStack() as stack:
            engines = {role: stack.enter_context(starters[role]()) for role in group}
            for engine in engines.values():
                facts |= engine.facts
            for number in range(options.rounds + 1):
                print(f"{', '.join(group)}: round {number} of {options.rounds}", file=sys.stderr, flush=True)
                for step in mine if number % 2 else mine[::-1]:
                    done = engines[step.role].ask(step.work(random.Random(f"{step.case} {number}")))
                    if number:  # the first round warms up
                        figures.setdefault(step.case, Figure(step.count)).add(step.role, done)
    return {case: figures[case] for case in CASES if case in figures}


def grow(pair: RandomPair, starter: Starter, options: argparse.Namespace, arguments: list[str]) -> list[dict[str, Any]]:
    """Measure time per token and peak memory for more items, longer items, or a larger vocabulary."""
    rows = []
    for words in sorted({*VOCABULARIES.values(), options.vocabulary}):
        with tempfile.TemporaryDirectory() as name:
            sizes = [("vocabulary", Drawn(words, options.prompts, options.length))]
            if words == options.vocabulary:
                engine = starter()
                sizes += [("items", Drawn(words, items, ITEM_TOKENS)) for items in ITEMS]
                sizes += [("length", Drawn(words, max(1, LENGTH_TOKENS // n), n)) for n in LENGTHS]
            else:
                other = make_pair(Path(name), SIZES[options.size], words)
                engine = make_starters(other, options, arguments)["engine"]()
            with engine as asked:
                rows += [measure_growth(asked, grows, work, options.rounds) for grows, work in sizes]
    return sorted(rows, key=lambda row: str(row["grows"]))


def measure_growth(engine: Asked, grows: str, work: Drawn, rounds: int) -> dict[str, Any]:
    """Measure one row: rounds after one that warms up."""
    print(f"growth of {grows}: {work}", file=sys.stderr, flush=True)
    microseconds = []
    with PeakMemory(engine.pid) as memory:
        for number in range(rounds + 1):
            done = engine.ask(score(work.sequences, 0, random.Random(f"{grows} {number}")))
            microseconds.append(1e6 * done.seconds / work.tokens)
    figures = {"microseconds_per_token": spread(microseconds[1:]), "peak_gigabytes": memory.gigabytes}
    return {"grows": grows, **vars(work), **figures}


def ratio(ours: Figure, theirs: Figure) -> dict[str, float]:
    """Return the spread of the ratio of rates in each round: disturbances affect both."""
    return spread([a / b for a, b in zip(ours.rates, theirs.rates, strict=True)])


def spread(values: list[float]) -> dict[str, float]:
    """Return the median and both ends."""
    return {"median": median(values), "min": min(values), "max": max(values)}


def described_figure(case: str, figure: Figure) -> dict[str, Any]:
    """Return a case's entry in the file."""
    return {
        "what": CASES[case],
        "unit": unit(case),
        **spread(figure.rates),
        "count": figure.count,
        "seconds": figure.seconds,
        "p50_ms": figure.percentile(50),
        "p99_ms": figure.percentile(99),
    }


def unit(case: str) -> str:
    return "choices/s" if case.startswith("f") else "tokens/s"


def show(figures: dict[str, Figure], ratios: dict[str, dict[str, float]], growth: list[dict[str, Any]]) -> None:
    """Print all tables."""
    if figures:
        print(f"{'case':14}{'':47}{'median':>10}{'min':>10}{'max':>10}  {'unit':11}{'p50':>10}{'p99':>10}")
    for case, figure in figures.items():
        rates = "".join(f"{value:10,.{1 if value >= 100 else 2}f}" for value in spread(figure.rates).values())
        latencies = "".join(f"{value:7,.0f} ms" for n in (50, 99) if (value := figure.percentile(n)) is not None)
        print(f"{case:14}{CASES[case]:47}{rates}  {unit(case):11}{latencies}")
    for name, values in ratios.items():
        print(f"{name:28}{values['median']:8.3g} ({values['min']:.3g}-{values['max']:.3g})")
    if growth:
        print(f"\n{'growth of':14}{'vocabulary':>12}{'items':>8}{'length':>8}{'us/token (spread)':>24}  peak GB")
    for row in growth:
        times = "{median:,.0f} ({min:,.0f}-{max:,.0f})".format(**row["microseconds_per_token"])
        memory = ", ".join(f"{name} {value:.2f}" for name, value in row["peak_gigabytes"].items())
        print(f"{row['grows']:14}{row['vocabulary']:12,}{row['prompts']:8,}{row['length']:8,}{times:>24}  {memory}")


if __name__ == "__main__":
    main()
