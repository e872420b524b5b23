"""Intervals by the paired bootstrap: items are drawn with all that both models said of them, so that what the two have
in common cancels in their difference.

A statistic is a function of sums over items, for instance of right answers, or of residuals by bin. A resample is then
a vector of how often each item was drawn, and all resamples of all statistics are products of matrices, taken block by
block: what is held at once does not grow with the number of items.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

from eval.arrays import Floats, Ints

RESAMPLES = 2_000
LEVEL = 0.95
BLOCK = 8_192
"""Items whose weights are held at once, for all resamples: 64 MB of float32 at 2,000."""
FEW = 1_000
"""Up to so many items, draws are made with replacement; beyond, each item is drawn a Poisson number of times, which
needs no knowledge of the other items and hardly differs when there are many."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate, and the percentile interval around it."""

    point: float
    low: float
    high: float


@dataclass(frozen=True)
class Statistic:
    """Something that is computed from sums over items.

    ``features`` is of shape (items, sums); ``of`` takes summed features, shape (resamples, sums), and the number of
    items, shape (resamples,), and returns the statistic, shape (resamples,).
    """

    name: str
    features: Floats
    of: Callable[[Floats, Floats], Floats]

    @property
    def point(self) -> float:
        """The statistic of the items as they are."""
        sums = self.features.sum(axis=0, dtype=np.float64)[None]
        return float(self.of(sums, np.array([float(len(self.features))]))[0])


def mean_of(name: str, values: Floats) -> Statistic:
    """The mean over items of ``values``, shape (items,)."""
    return Statistic(name, values[:, None], lambda sums, items: sums[:, 0] / items)


def ratio_of(name: str, above: Floats, below: Floats) -> Statistic:
    """The sum of one quantity over the sum of another: NaN where the latter is 0."""

    def of(sums: Floats, _: Floats) -> Floats:
        nothing = np.full(len(sums), np.nan)
        return np.asarray(np.divide(sums[:, 0], sums[:, 1], out=nothing, where=sums[:, 1] != 0))

    return Statistic(name, np.stack([above, below], axis=1), of)


def resample(
    statistics: Sequence[Statistic],
    rng: np.random.Generator,
    *,
    clusters: Ints | None = None,
    resamples: int = RESAMPLES,
) -> dict[str, Floats]:
    """Values of the statistics over resamples of the items, the same resamples for all: by name, shape (resamples,).

    ``clusters`` are numbers from 0 on that say which items belong together, shape (items,): these are drawn whole.
    """
    items = len(statistics[0].features)
    for statistic in statistics:
        if len(statistic.features) != items:
            raise ValueError(f"{statistic.name} has {len(statistic.features)} items, expected {items}")
    if not items:
        raise ValueError(f"{statistics[0].name} has no items, expected one or more")
    ones = np.ones((items, 1))
    table = np.concatenate([ones, *(statistic.features for statistic in statistics)], axis=1)
    if clusters is not None:
        table = _by_cluster(table, clusters)
    sums = _resampled_sums(table, rng, resamples)
    values, column = {}, 1
    for statistic in statistics:
        width = statistic.features.shape[1]
        values[statistic.name] = statistic.of(sums[:, column : column + width], sums[:, 0])
        column += width
    return values


def interval(point: float, values: Floats, level: float = LEVEL) -> Interval:
    """The percentile interval of resampled values around a point estimate; NaN where any of them is."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(point, float(low), float(high))


def _by_cluster(table: Floats, clusters: Ints) -> Floats:
    if clusters.shape != table.shape[:1]:
        raise ValueError(f"clusters has shape {clusters.shape}, expected {table.shape[:1]}")
    summed = np.zeros((int(clusters.max()) + 1, table.shape[1]))
    np.add.at(summed, clusters, table)
    return summed


def _resampled_sums(table: Floats, rng: np.random.Generator, resamples: int) -> Floats:
    units = len(table)
    if units <= FEW:
        draws = rng.integers(units, size=(resamples, units))
        offsets = np.arange(resamples)[:, None] * units
        counts = np.bincount((draws + offsets).ravel(), minlength=resamples * units)
        return np.asarray(counts.reshape(resamples, units) @ table)
    sums = np.zeros((resamples, table.shape[1]))
    draw = _poisson_table()
    for begin in range(0, units, BLOCK):
        block = table[begin : begin + BLOCK].astype(np.float32)
        weights = draw[rng.integers(2**16, size=(resamples, len(block)), dtype=np.uint16)]
        sums += weights @ block
    return sums


@cache
def _poisson_table() -> npt.NDArray[np.float32]:
    """A Poisson number of mean 1 for each of the 2**16 values of 16 random bits."""
    quantiles = (np.arange(2**16) + 0.5) / 2**16
    return np.asarray(stats.poisson.ppf(quantiles, 1.0), dtype=np.float32)
