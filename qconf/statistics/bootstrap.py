"""Spreads by the paired bootstrap: items are drawn with all that both models said of them, so that what the two have in
common cancels in their difference.

They are for statistics that have no confidence interval (docs/explanation/intervals.md): of a biased one, resamples
have the bias twice, and where 95 % of them lie need not be where the true value is.

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

from qconf.statistics.arrays import Floats, Ints
from qconf.statistics.intervals import ITEMS, LEVEL, Interval

RESAMPLES = 2_000
BLOCK = 8_192
"""Items whose weights are held at once, for all resamples: 64 MB of float32 at 2,000."""
FEW = 1_000
"""Up to this size: multinomial resampling. Above it: Poisson resampling, which streams and hardly differs."""


@dataclass(frozen=True)
class Statistic:
    """Something that is computed from sums over items.

    ``features`` gives those of a slice of the items, shape (items of the slice, sums); ``of`` takes summed features,
    shape (resamples, sums), and the number of items, shape (resamples,), and returns the statistic, shape (resamples,).
    """

    name: str
    items: int
    features: Callable[[slice], Floats]
    of: Callable[[Floats, Floats], Floats]

    @property
    def point(self) -> float:
        """The statistic of the items as they are."""
        sums = sum(self.features(part).sum(axis=0, dtype=np.float64) for part in _blocks(self.items))
        return float(self.of(np.asarray(sums)[None], np.array([float(self.items)]))[0])


def mean_of(name: str, values: Floats) -> Statistic:
    """The mean over items of ``values``, shape (items,)."""
    return Statistic(name, len(values), lambda part: values[part, None], lambda sums, items: sums[:, 0] / items)


def by_cell(cells: Ints, n_cells: int, values: Sequence[Floats]) -> Callable[[slice], Floats]:
    """Features that sum each of ``values`` apart for each cell, for instance a bin: shape (items, values * n_cells)."""

    def features(part: slice) -> Floats:
        inside = cells[part, None] == np.arange(n_cells)
        return np.concatenate([inside * each[part, None] for each in values], axis=1)

    return features


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
    items = statistics[0].items
    for statistic in statistics:
        if statistic.items != items:
            raise ValueError(f"{statistic.name} has {statistic.items} items, expected {items}")
    if not items:
        raise ValueError(f"{statistics[0].name} has no items, expected one or more")
    # Statistics of the same features, such as two of the same bins, share their sums.
    shared = {id(statistic.features): statistic.features for statistic in statistics}
    widths = [features(slice(0, 1)).shape[1] for features in shared.values()]

    def table(part: slice) -> Floats:
        ones = np.ones((len(range(*part.indices(items))), 1))
        return np.concatenate([ones, *(features(part) for features in shared.values())], axis=1)

    if clusters is None:
        sums = _resampled_sums(table, items, rng, resamples)
    else:
        whole = _by_cluster(table, items, clusters)
        sums = _resampled_sums(whole.__getitem__, len(whole), rng, resamples)
    counts, *parts = np.split(sums, np.cumsum([1, *widths])[:-1], axis=1)
    part_of = dict(zip(shared, parts, strict=True))
    return {each.name: each.of(part_of[id(each.features)], counts[:, 0]) for each in statistics}


def spread(point: float, values: Floats, items: int, level: float = LEVEL) -> Interval:
    """Where so many of the resampled values lie, around the estimate from the items; NaN where any of them is."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(point, float(low), float(high), kind="spread", units=items, least=ITEMS)


def _blocks(items: int) -> list[slice]:
    return [slice(begin, begin + BLOCK) for begin in range(0, items, BLOCK)]


def _by_cluster(table: Callable[[slice], Floats], items: int, clusters: Ints) -> Floats:
    if clusters.shape != (items,):
        raise ValueError(f"clusters has shape {clusters.shape}, expected {(items,)}")
    summed = np.zeros((int(clusters.max()) + 1, table(slice(0, 1)).shape[1]))
    for part in _blocks(items):
        np.add.at(summed, clusters[part], table(part))
    return summed


def _resampled_sums(table: Callable[[slice], Floats], units: int, rng: np.random.Generator, resamples: int) -> Floats:
    if units <= FEW:
        draws = rng.integers(units, size=(resamples, units))
        offsets = np.arange(resamples)[:, None] * units
        counts = np.bincount((draws + offsets).ravel(), minlength=resamples * units)
        return np.asarray(counts.reshape(resamples, units) @ table(slice(0, units)))
    sums = np.zeros((resamples, table(slice(0, 1)).shape[1]))
    draw = _poisson_table()
    for part in _blocks(units):
        block = table(part).astype(np.float32)
        weights = draw[rng.integers(2**16, size=(resamples, len(block)), dtype=np.uint16)]
        sums += weights @ block
    return sums


@cache
def _poisson_table() -> npt.NDArray[np.float32]:
    """A Poisson number of mean 1 for each of the 2**16 values of 16 random bits."""
    quantiles = (np.arange(2**16) + 0.5) / 2**16
    return np.asarray(stats.poisson.ppf(quantiles, 1.0), dtype=np.float32)
