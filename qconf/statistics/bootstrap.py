"""Spreads by the paired bootstrap: items are drawn together with both models' answers, so that what the two models
have in common cancels in their difference.

Spreads are for statistics that have no confidence interval (docs/explanation/intervals.md): resamples of a biased
statistic have the bias twice, and the range of 95 % of them need not hold the true value.

A statistic is a function of sums over items, for instance of right answers, or of residuals by bin. A resample is a
vector of how often each item was drawn, and all sums of all resamples are products of a matrix of such vectors and a
sparse matrix of features, taken block by block: the memory for weights does not grow with the number of items.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from scipy import sparse, stats  # type: ignore[import-untyped]

from qconf.statistics.arrays import Floats, Ints
from qconf.statistics.intervals import ITEMS, LEVEL, Interval

RESAMPLES = 2_000
BLOCK = 8_192
"""Items whose weights are held at once, for all resamples: 64 MB of float32 at 2,000."""
FEW = 1_000
"""Up to this many items: multinomial resampling. Above: Poisson resampling, which streams and hardly differs."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Cells:
    """The cell of each item, such as its bin, and the values that are summed by cell; all of shape (items,)."""

    index: npt.NDArray[np.int32]
    count: int
    values: tuple[Floats, ...]

    @property
    def width(self) -> int:
        """Number of sums: all cells of the first of the values, then of the second, and so on."""
        return self.count * len(self.values)


@dataclass(frozen=True)
class Features:
    """What each item adds to a row of sums: one sum for each of the values, part by part."""

    parts: tuple[Cells, ...]

    @property
    def items(self) -> int:
        return len(self.parts[0].index)

    @property
    def width(self) -> int:
        """Number of sums."""
        return sum(part.width for part in self.parts)

    def sums(self) -> Floats:
        """Return the sums over all items, shape (width,)."""
        return np.concatenate(
            [np.bincount(part.index, values, part.count) for part in self.parts for values in part.values]
        )

    def matrix(self, chosen: slice) -> Any:
        """Return the features of a slice of the items as a sparse matrix, shape (items of the slice, width)."""
        columns: list[npt.NDArray[np.int32]] = []
        values: list[Floats] = []
        begin = 0
        for part in self.parts:
            columns += [part.index[chosen] + (begin + part.count * at) for at in range(len(part.values))]
            values += [each[chosen] for each in part.values]
            begin += part.width
        rows = len(columns[0])
        ends = np.arange(0, (rows + 1) * len(columns), len(columns))
        entries = np.stack(values, axis=1).ravel(), np.stack(columns, axis=1).ravel(), ends
        return sparse.csr_array(entries, shape=(rows, begin))


@dataclass(frozen=True)
class Statistic:
    """A statistic that is computed from sums over items.

    ``of`` takes sums, shape (resamples, width), and the number of items, shape (resamples,), and returns the values,
    shape (resamples,). Where the definition has more cells than resamples can afford, ``finest`` has the features of
    the definition, and ``features`` the same with coarser cells; ``of`` takes either.
    """

    features: Features
    of: Callable[[Floats, Floats], Floats]
    finest: Features | None = None

    @property
    def items(self) -> int:
        return self.features.items

    @property
    def point(self) -> float:
        """Return the value on the items as they are: each with weight 1."""
        return self._value(self.finest or self.features)

    def resampled(self, sums: Floats, items: Floats) -> Floats:
        """Return the values of resamples from sums of ``features``, shape (resamples,).

        With ``finest``, they are moved by what coarser cells change on the items as they are.
        """
        moved = self.point - self._value(self.features) if self.finest else 0.0
        return self.of(sums, items) + moved

    def _value(self, features: Features) -> float:
        return float(self.of(features.sums()[None], np.array([float(self.items)]))[0])


def mean_of(values: Floats) -> Statistic:
    """Return the mean over items of ``values``, shape (items,), as a statistic."""
    return Statistic(by_cell(np.zeros(len(values), np.int64), 1, [values]), lambda sums, items: sums[:, 0] / items)


def by_cell(cells: Ints, n_cells: int, values: Sequence[Floats]) -> Features:
    """Return features that sum each of ``values`` by cell, for instance by bin: ``n_cells`` sums for each in turn."""
    return Features((Cells(cells.astype(np.int32), n_cells, tuple(values)),))


def side_by_side(features: Iterable[Features]) -> Features:
    """Return features with the sums of each of ``features``, one after the other."""
    return Features(tuple(part for each in features for part in each.parts))


def resample(
    statistics: Mapping[Key, Statistic],
    rng: np.random.Generator,
    *,
    clusters: Ints | None = None,
    resamples: int = RESAMPLES,
) -> dict[Key, Floats]:
    """Return the statistics' values over resamples of the items, the same resamples for all: shape (resamples,) each.

    ``clusters`` are numbers from 0 on, shape (items,): items with the same number are drawn together.
    """
    first, items = next((key, each.items) for key, each in statistics.items())
    for key, statistic in statistics.items():
        if statistic.items != items:
            raise ValueError(f"{key} has {statistic.items} items, expected {items}")
    if not items:
        raise ValueError(f"{first} has no items, expected one or more")
    if clusters is not None and clusters.shape != (items,):
        raise ValueError(f"clusters has shape {clusters.shape}, expected {(items,)}")
    count = by_cell(np.zeros(items, np.int64), 1, [np.ones(items)])
    table = side_by_side([count, *(each.features for each in statistics.values())])
    matrix = table.matrix if clusters is None else _by_cluster(table, clusters).__getitem__
    units = items if clusters is None else int(clusters.max()) + 1
    sums = _resampled_sums(matrix, units, table.width, rng, resamples)
    counts, *parts = np.split(sums, np.cumsum([1, *(each.features.width for each in statistics.values())])[:-1], axis=1)
    return {
        key: each.resampled(part, counts[:, 0]) for (key, each), part in zip(statistics.items(), parts, strict=True)
    }


def spread(point: float, values: Floats, items: int, level: float = LEVEL) -> Interval:
    """Return the range of the middle 95 % of resampled values around the point; NaN where any of them is NaN."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return Interval(point, float(low), float(high), kind="spread", units=items, least=ITEMS)


def _by_cluster(table: Features, clusters: Ints) -> Any:
    """Return the features summed over the items of each cluster, shape (clusters, width)."""
    items = len(clusters)
    member = sparse.csr_array((np.ones(items), (clusters, np.arange(items))), shape=(int(clusters.max()) + 1, items))
    return member @ table.matrix(slice(0, items))


def _resampled_sums(
    matrix: Callable[[slice], Any], units: int, width: int, rng: np.random.Generator, resamples: int
) -> Floats:
    """Return the sums of each resample, shape (resamples, width), from the features of slices of the units."""
    if units <= FEW:
        draws = rng.integers(units, size=(resamples, units))
        offsets = np.arange(resamples)[:, None] * units
        counts = np.bincount((draws + offsets).ravel(), minlength=resamples * units)
        return _product(matrix(slice(0, units)), counts.reshape(resamples, units).T.astype(np.float64))
    sums = np.zeros((resamples, width))
    draw = _poisson_table()
    for begin in range(0, units, BLOCK):
        block = matrix(slice(begin, begin + BLOCK))
        random = rng.integers(2**16, size=(resamples, block.shape[0]), dtype=np.uint16)
        sums += _product(block.astype(np.float32), draw[np.ascontiguousarray(random.T)])
    return sums


def _product(block: Any, weights: npt.NDArray[Any]) -> Floats:
    """Return the sums of each resample from weights of shape (units, resamples), whose rows have to be contiguous.

    The transposed block is sparse by unit, so that a unit's weights are read once and stay in the processor's cache.
    """
    return np.asarray((block.T @ np.ascontiguousarray(weights)).T)


@cache
def _poisson_table() -> npt.NDArray[np.float32]:
    """Return a Poisson number of mean 1 for each of the 2**16 values of 16 random bits."""
    quantiles = (np.arange(2**16) + 0.5) / 2**16
    return np.asarray(stats.poisson.ppf(quantiles, 1.0), dtype=np.float32)
