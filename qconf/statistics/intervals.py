"""Confidence intervals for means and proportions, valid from few items and rare events on.

Every interval is a pair of one-sided bounds, each of which misses the true value in at most 2.5 % of runs, so that a
rule which compares one end with a limit is a test at that level. ``docs/explanation/intervals.md`` has the methods,
their sources, and the coverage of each statistic in simulations.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy import optimize, special, stats  # type: ignore[import-untyped]

from qconf.statistics.arrays import Booleans, Floats, Ints

LEVEL = 0.95
Z = float(special.ndtri((1 + LEVEL) / 2))
ITEMS, UNBOUNDED_ITEMS, CARRIERS, GROUPS = 20, 50, 15, 10
"""Fewest items for a verdict on a bounded quantity, and on an unbounded one; fewest items that carry the sum of such a
one; fewest clusters or windows for any."""
UNBOUNDED_REACH, WINDOW_REACH = 1.0, 0.5
"""How far beyond the values seen an unseen one is taken to be, in ranges of those: of items, and of windows. Chosen by
the simulations in docs/explanation/intervals.md."""
EXACT = 2_048
"""Values up to which a bound uses each one; of more, it uses this many groups of values of about the same size."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and what surrounds it: a 95 % confidence interval, or for ``kind`` "spread" only the range in which
    95 % of resamples lie, which for a biased statistic need not hold the true value in 95 % of runs.

    It rests on so many ``units`` of a kind, such as items, of which a verdict needs ``least``. ``grown`` gives the ends
    that the interval would have with so many times as many items of the same kind.
    """

    point: float
    low: float
    high: float
    kind: Literal["interval", "spread"] = "interval"
    units: int = 0
    unit: str = "items"
    least: int = 0
    grown: Callable[[float], tuple[float, float]] | None = field(default=None, repr=False, compare=False)

    def mapped(self, of: Callable[[float], float]) -> "Interval":
        """Return the interval of a rising function of the quantity."""
        grown = self.grown
        return replace(
            self,
            point=of(self.point),
            low=of(self.low),
            high=of(self.high),
            grown=grown and (lambda times: (of(grown(times)[0]), of(grown(times)[1]))),
        )


@dataclass(frozen=True)
class Proportion:
    """The share of items that are marked: Clopper & Pearson's (1934) exact interval.

    With clusters, the exact interval of the effective sample size. Korn & Graubard 1998 (Survey Methodology 24).
    """

    hits: Booleans

    @property
    def point(self) -> float:
        return float(self.hits.mean())

    def interval(self, clusters: Ints | None = None) -> Interval:
        share, values = self.point, self.hits.astype(np.float64)
        below, above = effective_items(values, 0.0, clusters), effective_items(values, 1.0, clusters)

        def ends(times: float) -> tuple[float, float]:
            return clopper_pearson(share, times * below, times * above)

        return described(Interval(share, *ends(1.0), grown=ends), len(values), ITEMS, clusters)

    def less(self, base: "Proportion", clusters: Ints | None = None) -> Interval:
        """Return the interval of this share less another share of the same items."""
        return Mean(self.hits.astype(np.float64) - base.hits, -1.0, 1.0).interval(clusters)


@dataclass(frozen=True)
class Mean:
    """The mean of values that cannot lie outside of ``low`` to ``high``.

    The upper bound is the quantile of the mean of the values and one more at ``high``, under weights that are
    exponential and sum to 1 (Gaffke 2005, Math. Methods of Statistics 14; Learned-Miller & Thomas 2019, arXiv
    1905.06208); for zeros and ones it is Clopper & Pearson's. The lower bound is its mirror image. That it holds for
    whatever distribution is proved for two values only, and has withstood all attempts to find a counterexample.

    With ``reach``, the value that is added is not at the end of what is possible, but beyond the values by so many
    times their range, if that is nearer. For quantities without an end, for which no interval holds whatever the
    distribution (Bahadur & Savage 1956), and for windows, which are means themselves.

    ``support`` is the number of the ``unit`` that the mean rests on where it is not the number of the values.
    """

    values: Floats
    low: float = -math.inf
    high: float = math.inf
    reach: float | None = None
    support: int | None = None
    unit: str = "items"
    least: int = ITEMS

    @property
    def point(self) -> float:
        return float(self.values.mean())

    def interval(self, clusters: Ints | None = None) -> Interval:
        values, mean = self.values, self.point
        if math.isnan(mean) or len(values) < 2 or (clusters is not None and clusters.max() == 0):
            return self._described(Interval(mean, math.nan, math.nan), clusters)
        below, above = self._unseen()
        places, counts = grouped(values)
        shares = [effective_items(values, end, clusters) / len(values) for end in (below, above)]

        def ends(times: float) -> tuple[float, float]:
            return (
                -upper_bound(-places, times * shares[0] * counts, -below),
                upper_bound(places, times * shares[1] * counts, above),
            )

        return self._described(Interval(mean, *ends(1.0), grown=ends), clusters)

    def less(self, base: "Mean", clusters: Ints | None = None) -> Interval:
        """Return the interval of this mean less another mean over the same items."""
        rarer = min((self, base), key=lambda each: math.inf if each.support is None else each.support)
        return replace(
            rarer, values=self.values - base.values, low=self.low - base.high, high=self.high - base.low
        ).interval(clusters)

    def _unseen(self) -> tuple[float, float]:
        """Return the values that are added: for the lower bound, and for the upper one."""
        least, most = float(self.values.min()), float(self.values.max())
        if self.reach is None or least == most:
            return self.low, self.high
        beyond = self.reach * (most - least)
        return max(self.low, least - beyond), min(self.high, most + beyond)

    def _described(self, found: Interval, clusters: Ints | None) -> Interval:
        counted = described(found, len(self.values), self.least, clusters, self.unit)
        if self.support is not None and self.support / ITEMS < counted.units / counted.least:
            return replace(counted, units=self.support, unit=self.unit, least=ITEMS)
        if self.reach is not None and self.unit == "items" and (carriers := _carriers(self.values)) < CARRIERS:
            return replace(counted, units=carriers, unit="items with a share in its sum", least=CARRIERS)
        return counted


def _carriers(values: Floats) -> int:
    """Return how many values of one size have this sum and sum of squares: few where a few are far larger."""
    squares = float(values @ values)
    return int(np.abs(values).sum() ** 2 / squares) if squares > 0 else 0


def clopper_pearson(share: float, items_below: float, items_above: float) -> tuple[float, float]:
    """Return the exact interval of a proportion: quantiles of beta distributions, for any sample sizes above 0.

    The lower and the upper bound each have their own sample size.
    """
    tail = (1 - LEVEL) / 2
    low = 0.0 if share == 0 else float(stats.beta.ppf(tail, items_below * share, items_below * (1 - share) + 1))
    high = 1.0 if share == 1 else float(stats.beta.ppf(1 - tail, items_above * share + 1, items_above * (1 - share)))
    return low, high


def effective_items(values: Floats, end: float, clusters: Ints | None) -> float:
    """Return the number of independent items that determine the mean as well as these, which come in clusters.

    The items, by the design effect (Kish 1965): the variance of the mean if clusters are drawn, over that if items are,
    not below 1. By Korn & Graubard, times the square of the ratio of Student's quantiles for items and for clusters.
    One more cluster, of values at ``end``, takes part in both variances, because events that have hardly been seen say
    little of how they cluster.
    """
    items = len(values)
    if clusters is None:
        return float(items)
    groups = int(clusters.max()) + 1
    if groups < 2:
        return math.nan
    residuals = values - values.mean()
    size = items / groups
    unseen = end - values.mean() if math.isfinite(end) else 0.0
    together = groups / (groups - 1) * ((np.bincount(clusters, residuals) ** 2).sum() + (size * unseen) ** 2)
    apart = items / (items - 1) * ((residuals**2).sum() + size * unseen**2)
    effect = max(1.0, together / apart) if apart > 0 else size
    quantiles = stats.t.ppf((1 + LEVEL) / 2, [items - 1, groups - 1])
    return float(items / effect * (quantiles[0] / quantiles[1]) ** 2)


def upper_bound(values: Floats, counts: Floats, end: float) -> float:
    """Return the 97.5 % quantile of the weighted mean of values and ``end``, which is not below any of them.

    Weights are gamma-distributed with the shapes ``counts``, 1 for ``end``, and divided by their sum. The mean is below
    u with the probability that the sum of weight * (value - u) is below 0; that is taken from its saddlepoint
    approximation, by Barndorff-Nielsen's r* (1986, Biometrika 73), which is exact to a percent of the interval's width.
    Everything is measured from ``end`` downwards, so that values close to it lose nothing to rounding; with the
    saddlepoint t, 1/t - u is the free variable, from which u follows.
    """
    if not math.isfinite(end):
        return math.nan
    total, depth = float(counts.sum()) + 1, np.maximum(end - values, 0.0)
    mean = float(counts @ depth) / total
    scale = math.sqrt(float(counts @ (depth - mean) ** 2) + mean**2)
    if scale == 0:
        return end

    def of(logarithm: float) -> tuple[float, float]:
        gap = math.exp(logarithm) * scale
        t = (float(counts @ (1 / (gap + depth))) + 1 / gap) / total
        u = 1 / t - gap
        cumulant = -float(counts @ np.log1p(-t * (u - depth))) - math.log1p(-t * u)
        w = math.sqrt(-2 * cumulant)
        v = math.sqrt(float(counts @ ((u - depth) / (gap + depth)) ** 2) + (u / gap) ** 2)
        return w + math.log(v / w) / w, u

    found = optimize.brentq(lambda logarithm: of(logarithm)[0] - Z, -14.0, 3.0, xtol=1e-5)
    return end - of(found)[1]


def grouped(values: Floats) -> tuple[Floats, Floats]:
    """Return values and how often each counts: all, or where there are many their extremes and means of the others."""
    if len(values) <= EXACT:
        return values, np.ones(len(values))
    ranked, tail = np.sort(values), EXACT // 4
    middle = np.array_split(ranked[tail:-tail], EXACT // 2)
    means = np.array([part.mean() for part in middle])
    counts = np.array([float(len(part)) for part in middle])
    ends = np.ones(tail)
    return np.concatenate([ranked[:tail], means, ranked[-tail:]]), np.concatenate([ends, counts, ends])


def described(found: Interval, items: int, least: int, clusters: Ints | None, unit: str = "items") -> Interval:
    """Return the interval with what it rests on: clusters where there are any."""
    if clusters is None:
        return replace(found, units=items, unit="windows" if unit == "windows" else "items", least=least)
    return replace(found, units=int(clusters.max()) + 1, unit="clusters", least=GROUPS)
