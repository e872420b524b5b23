"""``python -m benchmarks.until``: savings and wrong verdicts of ``client.bench --until``, in simulation.

A case is a simulated benchmark and a limit. It is replayed many times in random order: with a mean well within the
limit, for the number of items that it takes; with a mean just beyond the limit or on it, for the share of wrong
verdicts. For comparison, the table has the wrong verdicts of an ordinary 95 % interval checked after every item.

With ``--run`` and ``--rules``, the items of a whole run are drawn in many orders instead.
"""

import argparse
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from client.bench.items import Item
from client.bench.standing import Standing
from client.bench.until import Until, load_rules
from qconf.run.columns import ItemResult
from qconf.run.folder import read_run
from qconf.statistics.arrays import Floats
from qconf.statistics.sequential import Asymptotic, Betting, Limits

CHUNK = 128
FIRST_LOOK = 30
TINY = 1e-7

Make = Callable[[np.random.Generator, float], Floats]


@dataclass(frozen=True)
class Case:
    """A benchmark whose mean ``make`` sets: ``safe``, or next to the limit, which is ``at_least`` or ``at_most``."""

    name: str
    items: int
    make: Make
    safe: float
    low: float
    high: float
    at_least: float | None = None
    at_most: float | None = None
    counted: bool = True

    def limits(self) -> Limits:
        kind = Betting if np.isfinite(self.high) else Asymptotic
        return kind(self.items, self.low, self.high, at_least=self.at_least, at_most=self.at_most)

    def boundaries(self) -> tuple[float, float]:
        """Return the means next to the limit: the last that keeps it and the first that breaks it, in whole items."""
        limit, sign = (self.at_least, 1) if self.at_least is not None else (self.at_most or 0.0, -1)
        if not self.counted:
            return limit + sign * TINY, limit - sign * TINY
        kept = math.ceil(round(sign * limit * self.items, 6)) * sign
        return kept / self.items, (kept - sign) / self.items


@dataclass(frozen=True)
class Result:
    """Shares of the items that settled a case, median and 90th percentile; shares of wrong verdicts."""

    case: str
    replays: int
    median: float
    p90: float
    wrong_pass: float
    wrong_fail: float
    wrong_pass_looking: float


def discordant(items: int, share: float) -> Make:
    """Make changes of accuracy: 0 except for a share of items, which are right under one model only."""

    def make(_: np.random.Generator, mean: float) -> Floats:
        change = round(items * mean)
        count = round(items * share)
        gained = (count + change) // 2
        return np.repeat([1.0, -1.0, 0.0], [gained, gained - change, items - 2 * gained + change])

    return make


def rare(items: int) -> Make:
    """Make a share of items that flip."""
    return lambda _, mean: np.repeat([1.0, 0.0], [round(items * mean), items - round(items * mean)])


def skewed(items: int, sigma: float) -> Make:
    """Make divergences: lognormal, scaled to the mean."""

    def make(rng: np.random.Generator, mean: float) -> Floats:
        values = rng.lognormal(0, sigma, items)
        return np.asarray(values * mean / values.mean())

    return make


def spread(items: int, deviation: float) -> Make:
    """Make changes of confidence: normal, shifted to the mean."""

    def make(rng: np.random.Generator, mean: float) -> Floats:
        values = rng.normal(0, deviation, items)
        return np.asarray(values - values.mean() + mean)

    return make


CASES = (
    Case("accuracy ≥ -2 points, 3 % discordant", 1800, discordant(1800, 0.03), 0.0, -1, 1, at_least=-0.02),
    Case("accuracy ≥ -2 points, 6 % discordant", 10042, discordant(10042, 0.06), 0.0, -1, 1, at_least=-0.02),
    Case("accuracy ≥ -1 point, 6 % discordant", 10042, discordant(10042, 0.06), 0.0, -1, 1, at_least=-0.01),
    Case("accuracy within ±2 points, 3 % discordant", 1800, discordant(1800, 0.03), 0.0, -1, 1, -0.02, 0.02),
    Case("flips ≤ 5 %, 3 %", 1800, rare(1800), 0.03, 0, 1, at_most=0.05),
    Case("flips ≤ 1 %, none", 1800, rare(1800), 0.0, 0, 1, at_most=0.01),
    Case("confidence in truth ≥ -1 point, sd 5", 1800, spread(1800, 0.05), 0.0, -1, 1, at_least=-0.01, counted=False),
    Case("JS ≤ 0.01, mean 0.002", 1800, skewed(1800, 0.7), 0.002, 0, np.log(2), at_most=0.01, counted=False),
    Case(
        "KL ≤ 0.02, mean 0.0064 (asymptotic)", 1800, skewed(1800, 1.0), 0.0064, 0, np.inf, at_most=0.02, counted=False
    ),
    Case(
        "KL ≤ 0.02, mean 0.0064 (asymptotic)",
        10042,
        skewed(10042, 1.0),
        0.0064,
        0,
        np.inf,
        at_most=0.02,
        counted=False,
    ),
    Case(
        "KL ≤ 0.02, mean 0.0064, heavy tail (asymptotic)",
        1800,
        skewed(1800, 2.0),
        0.0064,
        0,
        np.inf,
        at_most=0.02,
        counted=False,
    ),
)


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(description="Savings and wrong verdicts of --until.")
    parser.add_argument("--replays", type=int, default=500)
    parser.add_argument("--run", type=Path, help="a whole run, to be drawn in many orders")
    parser.add_argument("--rules", type=Path, help="rules that judge the run")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.run:
        redraw(options.run, options.rules, options.replays)
        return
    print("| case | items | settled after: median, 90th percentile | wrong pass | wrong fail | wrong pass, looking |")
    print("| --- | --- | --- | --- | --- | --- |")
    results = [simulate(case, options.replays) for case in CASES]
    if options.json:
        options.json.write_text(json.dumps([asdict(result) for result in results], indent=2) + "\n")


def redraw(run: Path, rules: Path, replays: int) -> None:
    """Draw the items of a run in many orders; print a row for each rule, and one for all of them."""
    rows = {(row.task, row.doc_id): row for row in read_run(run).items()}
    items = [_item(row) for row in rows.values()]
    found: dict[str, list[Standing]] = {}
    kept = []
    for seed in range(replays):
        until = Until(load_rules(rules), items, seed)
        for item in until.queue():
            until.add(rows[item.task, item.doc_id])
        kept.append(len(until.kept))
        for standing in until.standings():
            found.setdefault(f"{standing.name} {standing.at_least} {standing.at_most}", []).append(standing)
    print("| rule | verdicts | settled after: median, 90th percentile |")
    print("| --- | --- | --- |")
    for name, standings in found.items():
        counts = Counter(standing.outcome for standing in standings)
        print(f"| {name} | {dict(counts)} | {_settled([each.used / each.of for each in standings])} |")
    print(f"| all | | {_settled([count / len(items) for count in kept])} |")


def _item(row: ItemResult) -> Item:
    return Item(**{each.name: getattr(row, each.name) for each in fields(Item) if hasattr(row, each.name)})


def _settled(shares: Sequence[float] | Floats) -> str:
    return f"{100 * np.median(shares):.0f} %, {100 * np.quantile(shares, 0.9):.0f} %"


def simulate(case: Case, replays: int) -> Result:
    """Replay a case, and print its row. Shares of wrong verdicts have exact 95 % intervals."""
    rng = np.random.default_rng(0)
    kept, broken = case.boundaries()
    shares = np.array([settled_at for _, settled_at in verdicts(case, case.safe, replays, rng)]) / case.items
    fails = sum(outcome == "fail" for outcome, _ in verdicts(case, kept, replays, rng))
    passes = sum(outcome == "pass" for outcome, _ in verdicts(case, broken, replays, rng))
    looking = sum(looks(case, rng.permutation(case.make(rng, broken))) for _ in range(replays))
    result = Result(
        case=case.name,
        replays=replays,
        median=float(np.median(shares)),
        p90=float(np.quantile(shares, 0.9)),
        wrong_pass=passes / replays,
        wrong_fail=fails / replays,
        wrong_pass_looking=looking / replays,
    )
    print(
        f"| {case.name} | {case.items:,} | {_settled(shares)} | "
        f"{share(passes, replays)} | {share(fails, replays)} | {share(looking, replays)} |",
        flush=True,
    )
    return result


def verdicts(case: Case, mean: float, replays: int, rng: np.random.Generator) -> Iterator[tuple[str | None, int]]:
    """Yield verdicts, and the numbers of items that they took."""
    for _ in range(replays):
        values = rng.permutation(case.make(rng, mean))
        limits = case.limits()
        for begin in range(0, case.items, CHUNK):
            part = values[begin : begin + CHUNK]
            limits.update(part, part)
            if limits.outcome is not None:
                break
        yield limits.outcome, limits.settled_at or case.items


def looks(case: Case, values: Floats) -> bool:
    """Return whether an ordinary 95 % interval, checked after every item from the 30th on, would pass the case."""
    count = np.arange(1, case.items + 1)
    mean = np.cumsum(values) / count
    error = np.sqrt(np.maximum(np.cumsum(values**2) / count - mean**2, 0.0) / count)
    low, high = mean - 1.96 * error, mean + 1.96 * error
    least = -np.inf if case.at_least is None else case.at_least
    most = np.inf if case.at_most is None else case.at_most
    return bool(((low >= least) & (high <= most))[FIRST_LOOK:-1].any())


def share(count: int, of: int) -> str:
    """Return a share in percent with its exact interval (Clopper & Pearson 1934)."""
    low, high = stats.binomtest(count, of).proportion_ci(method="exact")
    return f"{100 * count / of:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    main()
