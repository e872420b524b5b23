"""How well distributions over choices forecast which one is true.

Functions take ``shares``, shape (items, choices), whose rows sum to 1, and ``labels``, the index of the true choice,
shape (items,). Where items have fewer choices than there are columns, rows are padded with 0 at the end and ``sizes``,
shape (items,), has each item's number of choices. All raise ValueError, naming argument and entry, for values that are
missing, of another shape, not finite or outside of 0 to 1. Errors of calibration are returned as ``Statistic``, as in
``qconf.statistics.calibration``, whose bins these have.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize  # type: ignore[import-untyped]

from qconf.statistics.arrays import Booleans, Floats, Ints, quotient
from qconf.statistics.bootstrap import Statistic, by_cell, side_by_side
from qconf.statistics.calibration import BINS, bin_of, equal_mass_edges, mean_gap

PAPER_BINS = 100


def ace(
    shares: npt.ArrayLike, labels: npt.ArrayLike, sizes: npt.ArrayLike | None = None, n_ranges: int = BINS
) -> Statistic:
    """Adaptive calibration error: mean over choices and ranges of |how often it is true - its mean share|.

    For each place k among the choices, items are put into ranges of equal mass by the share of choice k. Nixon et al.
    2019 (arXiv 1904.01685), equation 3. An item takes part for the choices that it has; empty ranges take no part.
    """
    distribution, truth, counts = _distribution(shares, labels, sizes)
    parts = []
    for k in range(counts.max()):
        share, has = distribution[:, k], counts > k
        ranges = bin_of(share, equal_mass_edges(share[has], n_ranges))
        parts.append(by_cell(ranges, n_ranges, [has.astype(np.float64), has * ((truth == k) - share)]))

    def mean(sums: Floats, _: Floats) -> Floats:
        count, gap = np.split(sums.reshape(len(sums), len(parts), 2 * n_ranges), 2, axis=2)
        return np.asarray(np.abs(quotient(gap, count)).sum(axis=(1, 2)) / (count > 0).sum(axis=(1, 2)))

    return Statistic(side_by_side(parts), mean)


def brier(shares: npt.ArrayLike, labels: npt.ArrayLike) -> Floats:
    """Brier score of each item: sum over choices of (share - [it is the true one])^2, from 0 to 2. Brier 1950."""
    distribution, truth, _ = _distribution(shares, labels)
    return np.asarray(((distribution - _one_hot(truth, distribution.shape[1])) ** 2).sum(axis=1))


@dataclass(frozen=True, slots=True)
class BrierParts:
    """Brier = reliability - resolution + uncertainty."""

    reliability: float
    resolution: float
    uncertainty: float


def brier_parts(shares: npt.ArrayLike, labels: npt.ArrayLike, sizes: npt.ArrayLike | None = None) -> BrierParts:
    """The Brier score's parts, each choice of each item being a forecast of whether it is the true one.

    Recalibrated forecasts come from isotonic regression (pool adjacent violators), which needs no bins: reliability is
    what they gain over the forecasts, resolution what they gain over the base rate, and the three add up exactly.
    Murphy 1973; Dimitriadis et al. 2021 (doi 10.1073/pnas.2016191118), who name them MCB, DSC and UNC.
    """
    distribution, truth, counts = _distribution(shares, labels, sizes)
    has = np.arange(distribution.shape[1]) < counts[:, None]
    forecasts = distribution[has]
    outcomes = _one_hot(truth, distribution.shape[1])[has].astype(np.float64)
    order = np.argsort(forecasts, kind="stable")
    forecasts, outcomes = forecasts[order], outcomes[order]
    # Forecasts that are equal get the same recalibrated value.
    _, start, count = np.unique(forecasts, return_index=True, return_counts=True)
    means = np.add.reduceat(outcomes, start) / count
    recalibrated = np.repeat(optimize.isotonic_regression(means, weights=count).x, count)
    items = len(truth)
    score = float(((forecasts - outcomes) ** 2).sum() / items)
    best = float(((recalibrated - outcomes) ** 2).sum() / items)
    uncertainty = float(((outcomes.mean() - outcomes) ** 2).sum() / items)
    return BrierParts(score - best, uncertainty - best, uncertainty)


def paper_ce(shares: npt.ArrayLike, labels: npt.ArrayLike, sizes: npt.ArrayLike | None = None) -> Statistic:
    """The estimator behind the calibration errors of Proskurina et al. 2024 (arXiv 2405.00632), as in their notebook.

    It is here to compare with their figures and for nothing else. All items must have the same number of choices.

    For two choices: 100 bins of the largest share, closed below; sum over bins of
    count / items * |mean largest share - mean label|, where the label is the index 0 or 1 of the true choice, and not
    whether the answer was right. For more: 15 ranges by the largest share, an answer being in the first whose lower end
    (the share at every n/15-th rank) is not below its own, or in the first of all if there is none; sum over ranges and
    true choices of |accuracy - mean largest share| / (ranges * choices), where no items count as 0. A perfectly
    calibrated model is far from 0 with either.
    """
    distribution, truth, counts = _distribution(shares, labels, sizes)
    items, choices = distribution.shape
    if (counts != choices).any():
        row = int((counts != choices).argmax())
        raise ValueError(f"sizes[{row}] is {counts[row]}, expected {choices}: items with the same number of choices")
    if choices > 2 and items < BINS:
        raise ValueError(f"shares has {items} items, expected at least {BINS}")
    cells, n_cells = _paper_cells(distribution, truth)
    confident, right = distribution.max(axis=1), distribution.argmax(axis=1) == truth
    if choices == 2:
        return Statistic(by_cell(cells, n_cells, [confident - truth]), mean_gap)

    def mean(sums: Floats, _: Floats) -> Floats:
        count, gap = np.split(sums, 2, axis=1)
        return np.asarray(np.abs(quotient(gap, count)).sum(axis=1) / n_cells)

    return Statistic(by_cell(cells, n_cells, [np.ones(items), right - confident]), mean)


def _paper_cells(shares: Floats, labels: Ints) -> tuple[Ints, int]:
    """Return each item's cell in ``paper_ce``, and how many cells there are: for more than two choices, one for each
    range and true choice."""
    confident, choices = shares.max(axis=1), shares.shape[1]
    if choices == 2:
        return np.digitize(confident, np.arange(0.0, 1.0, 1.0 / PAPER_BINS)), PAPER_BINS + 1
    lower = np.sort(confident)[np.arange(BINS) * (len(confident) // BINS)]
    return np.searchsorted(lower, confident, side="left") % BINS * choices + labels, BINS * choices


def _distribution(
    shares: npt.ArrayLike, labels: npt.ArrayLike, sizes: npt.ArrayLike | None = None
) -> tuple[Floats, Ints, Ints]:
    distribution, truth = np.asarray(shares, dtype=np.float64), np.asarray(labels)
    if distribution.ndim != 2 or not len(distribution):
        raise ValueError(f"shares has shape {distribution.shape}, expected (items, choices) with one item or more")
    if truth.shape != distribution.shape[:1]:
        raise ValueError(f"labels has shape {truth.shape}, expected {distribution.shape[:1]}")
    sums = distribution.sum(axis=1)
    bad = ~((distribution >= 0).all(axis=1) & (np.abs(sums - 1) < 1e-6))
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"shares[{row}] is {distribution[row]}, expected numbers from 0 to 1 that sum to 1")
    counts = np.full(len(truth), distribution.shape[1]) if sizes is None else np.asarray(sizes)
    if counts.shape != truth.shape:
        raise ValueError(f"sizes has shape {counts.shape}, expected {truth.shape}")
    padding = np.arange(distribution.shape[1]) >= counts[:, None]
    if (distribution[padding] > 0).any():
        row = int(((distribution > 0) & padding).any(axis=1).argmax())
        raise ValueError(f"shares[{row}] is {distribution[row]}, expected 0 after the {counts[row]} of its choices")
    outside = ~((truth >= 0) & (truth < counts))
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(f"labels[{row}] is {truth[row]}, expected an index below {counts[row]}")
    return distribution, truth.astype(np.int64), counts.astype(np.int64)


def _one_hot(labels: Ints, choices: int) -> Booleans:
    return np.asarray(labels[:, None] == np.arange(choices))
