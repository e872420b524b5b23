"""``python -m benchmarks.coverage``: coverage of 95 % intervals, and wrong passes of rules.

Pairs of models with known truth are simulated case by case and analysed as a run's items are. The Markdown tables are
those of docs/explanation/intervals.md.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy import optimize  # type: ignore[import-untyped]

from benchmarks.populations import ANSWERS, PAIRS, draw, draw_answers, window_means
from eval.analysis.items import Compared, compared_estimates, compared_spreads, pair_estimates
from eval.analysis.model_metrics import estimates, resampled
from eval.analysis.tokens import QUANTILES, mean_over_tokens, quantile_interval
from eval.gate import verdict
from qconf.rules import Rule
from qconf.run.choices import Choices
from qconf.statistics.intervals import UNBOUNDED_ITEMS, UNBOUNDED_REACH, Interval, Mean, Proportion, Z

POPULATION, TIMES = 250_000, 100
"""The truth is the mean over samples of POPULATION items, which together have at least TIMES the items of a run."""
RESAMPLES = 200
SIZES = {
    "calibrated": (20, 50, 300, 2_000, 20_000),
    "base miscalibrated": (20, 300),
    "quantized miscalibrated": (20, 300, 2_000),
    "both miscalibrated": (300,),
    "rare events": (20, 50, 300, 2_000),
    "ties": (20, 300),
    "saturated": (20, 50, 300),
    "clusters of 5": (100, 500, 2_000),
}
SPREADS = ("calibrated", "quantized miscalibrated", "both miscalibrated")


@dataclass
class Misses:
    """Numbers of runs whose interval was all above or all below the truth. Runs with too few items for a verdict are
    inconclusive, not misses."""

    runs: int = 0
    above: int = 0
    below: int = 0
    inconclusive: int = 0

    def add(self, interval: Interval, truth: float) -> None:
        """Count a run. A difference by rounding is not a miss."""
        self.runs += 1
        if interval.units < interval.least or not np.isfinite([interval.low, interval.high]).all():
            self.inconclusive += 1
            return
        slack = 1e-9 + 1e-6 * abs(truth)
        self.above += interval.low > truth + slack
        self.below += interval.high < truth - slack

    @property
    def coverage(self) -> float:
        """Share of the conclusive runs whose interval contains the truth; NaN where there are none."""
        judged = self.runs - self.inconclusive
        return 1 - (self.above + self.below) / judged if judged else math.nan


def intervals(choices: Choices) -> dict[str, Interval]:
    """Return every interval of an analysis of items by name; models' statistics have "quantized" and "delta"."""
    clusters = choices.cluster_numbers
    pair = {name: each.interval(clusters) for name, each in pair_estimates(choices).items()}
    return _flat(compared_estimates(choices, clusters)) | pair


def _flat(compared: Mapping[str, Compared]) -> dict[str, Interval]:
    return {f"{of} {name}": getattr(each, of) for name, each in compared.items() for of in ("quantized", "delta")}


def coverage(name: str, items: int, runs: int, *, seed: int = 0, spread: bool = False) -> dict[str, Misses]:
    """Count misses of the truth by the statistics' intervals (or spreads), in so many runs of so many items."""
    rng, truth = np.random.default_rng([seed, items]), _truth(name, -(-TIMES * items // POPULATION), spread)
    misses: dict[str, Misses] = {}
    for _ in range(runs):
        choices = draw(PAIRS[name], items, rng)
        found = _flat(compared_spreads(choices, None, rng, RESAMPLES)) if spread else intervals(choices)
        for each, interval in found.items():
            misses.setdefault(each, Misses()).add(interval, truth[each])
    return misses


@cache
def _truth(name: str, parts: int, spread: bool) -> dict[str, float]:
    rng = np.random.default_rng(0)
    points = [_points(draw(PAIRS[name], POPULATION, rng), spread) for _ in range(parts)]
    return {each: float(np.mean([part[each] for part in points])) for each in points[0]}


def _points(choices: Choices, spread: bool) -> dict[str, float]:
    base, quantized = (
        {name: each.point for name, each in (resampled if spread else estimates)(choices, answers).items()}
        for answers in (choices.base, choices.quantized)
    )
    found = {} if spread else {name: each.point for name, each in pair_estimates(choices).items()}
    for name, value in quantized.items():
        found |= {f"quantized {name}": value, f"delta {name}": value - base[name]}
    return found


def of_windows(windows: int, heavy: float, runs: int) -> dict[str, Misses]:
    """Count misses of a mean over the tokens of a corpus, and of quantiles."""
    rng = np.random.default_rng([windows, round(10 * heavy)])
    mean = float(np.exp(heavy**2 / 2 + 0.3**2 / 2))
    # A product of lognormal factors is lognormal.
    spread = np.hypot(heavy, 0.3)
    misses = {"mean": Misses()} | {name: Misses() for name in QUANTILES}
    for _ in range(runs):
        values, tokens = window_means(windows, heavy, rng)
        misses["mean"].add(mean_over_tokens(values.sum(axis=1), tokens, 0.0, np.inf), mean)
        for name, share in QUANTILES.items():
            point = float(np.quantile(values, share))
            flat = values.astype(np.float32).ravel()
            found = quantile_interval(flat, share, point, (values <= point).sum(axis=1).astype(float), tokens)
            misses[name].add(found, float(np.exp(spread * NORMAL[name])))
    return misses


NORMAL = {"median": 0.0, "p90": 1.2815515655, "p99": 2.3263478740, "p99_9": 3.0902323062}
"""The same quantiles of a normal distribution."""


@cache
def _truth_of_answers(name: str) -> dict[str, float]:
    drawn = draw_answers(ANSWERS[name], 4 * POPULATION, np.random.default_rng(0))
    # The models are right equally often.
    return {each: value.point for each, value in drawn.items()} | {"accuracy": 0.0}


def of_answers(name: str, items: int, runs: int) -> dict[str, Misses]:
    """Count misses of the truth by the intervals of generated answers."""
    rng, truth = np.random.default_rng(items), _truth_of_answers(name)
    misses = {each: Misses() for each in truth}
    for _ in range(runs):
        for each, value in draw_answers(ANSWERS[name], items, rng).items():
            misses[each].add(value.interval(), truth[each])
    return misses


@dataclass(frozen=True)
class Limit:
    """A rule whose statistic is exactly at its limit, and a function that returns its interval from so many items."""

    rule: Rule
    note: str
    sample: Callable[[int, np.random.Generator], Interval]


def _difference(gained: float, lost: float) -> Callable[[int, np.random.Generator], Interval]:
    def sample(items: int, rng: np.random.Generator) -> Interval:
        place = rng.random(items)
        return Proportion((place < gained) | (place > 0.4)).less(Proportion((place < 0) | (place > 0.4 - lost)))

    return sample


def _share(rate: float) -> Callable[[int, np.random.Generator], Interval]:
    return lambda items, rng: Proportion(rng.random(items) < rate).interval()


def _overconfidence(rise: float, lost: float) -> Callable[[int, np.random.Generator], Interval]:
    """Simulate confidence that rises by a number and a little noise, and some right answers that become wrong."""

    def sample(items: int, rng: np.random.Generator) -> Interval:
        confidence, right = rng.uniform(0.4, 0.9, items), rng.random(items) < 0.7
        later = np.clip(confidence + rise + rng.normal(0, 0.03, items), 0.25, 1.0)
        still = right & (rng.random(items) >= lost / 0.7)
        return Mean(later - still, -0.75, 1.0).less(Mean(confidence - right, -0.75, 1.0))

    return sample


def _lognormal(mean: float, spread: float) -> Callable[[int, np.random.Generator], Interval]:
    def sample(items: int, rng: np.random.Generator) -> Interval:
        values = mean * rng.lognormal(-(spread**2) / 2, spread, items)
        return Mean(values, 0.0, reach=UNBOUNDED_REACH, least=UNBOUNDED_ITEMS).interval()

    return sample


LIMITS = (
    Limit(Rule(statistic="accuracy", at_least=-0.01), "1 % lost", _difference(0.0, 0.01)),
    Limit(Rule(statistic="accuracy", at_least=-0.01), "1.5 % lost, 0.5 % gained", _difference(0.005, 0.015)),
    Limit(Rule(statistic="accuracy", at_least=-0.01), "6 % lost, 5 % gained", _difference(0.05, 0.06)),
    Limit(Rule(statistic="flips", at_most=0.02), "", _share(0.02)),
    Limit(Rule(statistic="flips", at_most=0.001), "", _share(0.001)),
    Limit(Rule(statistic="overconfidence", at_most=0.02), "2 % lost", _overconfidence(0.0, 0.02)),
    Limit(Rule(statistic="overconfidence", at_most=0.02), "1 % lost, 1 point surer", _overconfidence(0.01, 0.01)),
    Limit(Rule(statistic="kl", at_most=0.02), "lognormal, 1", _lognormal(0.02, 1.0)),
    Limit(Rule(statistic="kl", at_most=0.02), "lognormal, 1.5", _lognormal(0.02, 1.5)),
)


def limits_of_answers() -> list[Limit]:
    """Return rules on generated answers that are as much alike as the rule asks for, and not more."""
    return [_of_answers(name, each, truth) for name in ANSWERS for each, truth in _truth_of_answers(name).items()]


def _of_answers(name: str, statistic: str, truth: float) -> Limit:
    least, most = (None, truth) if statistic == "base_kl" else (truth, None)

    def sample(items: int, rng: np.random.Generator) -> Interval:
        return draw_answers(ANSWERS[name], items, rng)[statistic].interval()

    return Limit(Rule(statistic=statistic, at_least=least, at_most=most), f"answers {name}", sample)


DIFFERENCES = ((0.0, 0.01, 300), (0.005, 0.015, 300), (0.1, 0.1, 300), (0.05, 0.1, 50), (0.01, 0.02, 2_000))
"""Shares of items that a model gains and loses, and numbers of items."""


def wrong_passes(limit: Limit, items: int, runs: int, seed: int = 0) -> float:
    """Return the share of runs in which the rule passes although the statistic is at the limit."""
    rng = np.random.default_rng([seed, items])
    # The number of items that would settle a rule takes far longer to find than its verdict.
    samples = (replace(limit.sample(items, rng), grown=None) for _ in range(runs))
    found = [verdict(limit.rule, "", sample).outcome for sample in samples]
    return found.count("pass") / runs


def tango(gained: float, lost: float, items: float) -> tuple[float, float]:
    """Return Tango's score interval (1998, Statistics in Medicine 17) for a difference of paired shares, to compare.

    Its ends are the differences d at which (gained - lost - items d) / sqrt(items (2 q + d (1 - d))) is 1.96 and -1.96,
    with q the likeliest probability of a loss where the difference is d.
    """
    estimate = (gained - lost) / items

    def score(difference: float) -> float:
        linear = (2 * items - gained + lost) * difference - gained - lost
        product = 8 * items * lost * difference * (1 - difference)
        q = (math.sqrt(max(linear**2 + product, 0.0)) - linear) / (4 * items)
        variance = items * (2 * q + difference * (1 - difference))
        above = gained - lost - items * difference
        return 0.0 if above == 0 else above / math.sqrt(variance) if variance > 0 else math.copysign(1e9, above)

    def end(z: float, limit: float) -> float:
        return float(optimize.brentq(lambda difference: score(difference) - z, limit, estimate, xtol=1e-12))

    return end(Z, -1.0), end(-Z, 1.0)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Coverage of intervals, and wrong passes of rules.")
    parser.add_argument("--runs", type=int, default=300, help="runs per case of items")
    parser.add_argument("--case", choices=PAIRS, help="only the intervals of this pair")
    parser.add_argument("--items", type=int, default=300, help="items of --case")
    options = parser.parse_args()
    tables = [
        _item_tables(options.runs),
        _window_table(options.runs),
        _answer_table(options.runs),
        _gate_table(5 * options.runs),
        _tango_table(10 * options.runs),
    ]
    if options.case:
        tables = [_table({(options.case, options.items): coverage(options.case, options.items, options.runs)})]
    for lines in tables:
        print("\n".join(lines), end="\n\n", flush=True)


def _item_tables(runs: int) -> Iterator[str]:
    cases = [(name, items) for name, sizes in SIZES.items() for items in sizes]
    yield from _table({case: coverage(*case, runs if case[1] < 20_000 else runs // 3) for case in cases})
    yield ""
    yield from _table({(name, 300): coverage(name, 300, runs // 3, spread=True) for name in SPREADS})


def _table(found: Mapping[tuple[str, int], Mapping[str, Misses]]) -> Iterator[str]:
    yield f"| statistic | {' | '.join(f'{name}, {items:,}' for name, items in found)} |"
    yield f"| --- |{' ---: |' * len(found)}"
    for statistic in next(iter(found.values())):
        cells = [_cell(each[statistic]) for each in found.values()]
        yield f"| {statistic} | {' | '.join(cells)} |"


def _cell(misses: Misses) -> str:
    """Return the coverage in percent, and in brackets the share of conclusive runs where it is not all."""
    if misses.inconclusive == misses.runs:
        return "-"
    judged = 1 - misses.inconclusive / misses.runs
    return f"{100 * misses.coverage:.1f}" + (f" ({100 * judged:.0f})" if judged < 1 else "")


def _window_table(runs: int) -> Iterator[str]:
    cases = [(windows, heavy) for windows in (10, 30, 200) for heavy in (1.0, 2.0)]
    yield from _table({(f"lognormal {heavy:g}", windows): of_windows(windows, heavy, runs) for windows, heavy in cases})


def _answer_table(runs: int) -> Iterator[str]:
    cases = [(name, items) for name in ANSWERS for items in (20, 50, 300, 2_000)]
    yield from _table({case: of_answers(*case, runs) for case in cases})


def _gate_table(runs: int) -> Iterator[str]:
    sizes = (20, 50, 300, 2_000)
    yield f"| rule | data | {' | '.join(f'{items:,}' for items in sizes)} |"
    yield f"| --- | --- |{' ---: |' * len(sizes)}"
    for limit in (*LIMITS, *limits_of_answers()):
        shares = [100 * wrong_passes(limit, items, runs) for items in sizes]
        yield f"| {_said(limit.rule)} | {limit.note} | {' | '.join(f'{share:.1f}' for share in shares)} |"


def _tango_table(runs: int) -> Iterator[str]:
    yield "| gained, lost, items | Tango: above, below | width | ours: above, below | width |"
    yield "| --- | ---: | ---: | ---: | ---: |"
    for gained, lost, items in (
        (0.0, 0.01, 300),
        (0.005, 0.015, 300),
        (0.1, 0.1, 300),
        (0.05, 0.1, 50),
        (0.01, 0.02, 2_000),
    ):
        rng, truth = np.random.default_rng(items), gained - lost
        counts = rng.multinomial(items, [gained, lost, 1 - gained - lost], size=runs)[:, :2]
        distinct, place = np.unique(counts, axis=0, return_inverse=True)
        ends = np.array([_both_ends(int(up), int(down), items) for up, down in distinct])[place.ravel()]
        above = 100 * (ends[..., 0] > truth + 1e-9).mean(axis=0)
        below = 100 * (ends[..., 1] < truth - 1e-9).mean(axis=0)
        width = (ends[..., 1] - ends[..., 0]).mean(axis=0)
        cells = [f"{above[k]:.1f}, {below[k]:.1f} | {100 * width[k]:.2f}" for k in (0, 1)]
        yield f"| {100 * gained:g} %, {100 * lost:g} %, {items:,} | {' | '.join(cells)} |"


def _both_ends(gained: int, lost: int, items: int) -> list[tuple[float, float]]:
    place = np.arange(items)
    ours = Proportion(place < gained).less(Proportion((place >= gained) & (place < gained + lost)))
    return [tango(gained, lost, items), (ours.low, ours.high)]


def _said(rule: Rule) -> str:
    if rule.at_least is not None:
        return f"{rule.statistic} at least {rule.at_least:.3g}"
    return f"{rule.statistic} at most {rule.at_most:.3g}"


if __name__ == "__main__":
    main()
