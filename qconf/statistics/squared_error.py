"""The squared calibration error without bias, and its interval."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse  # type: ignore[import-untyped]

from qconf.statistics import calibration
from qconf.statistics.arrays import Booleans, Floats, Ints
from qconf.statistics.intervals import Interval, Z, described

ITEMS = 100
"""Fewest items for a verdict: below, bins of a few items make the estimate far from normal."""


@dataclass(frozen=True)
class SquaredError:
    """The squared calibration error over 15 bins of equal mass: sum over bins of items in it / items * (mean gap)^2.

    A gap is correct - confidence. The square of a bin's mean gap is too large by chance; in its place stands the mean
    of gap_i * gap_j over the bin's pairs of different items (with clusters, of items of different clusters). That has
    no bias, and is below 0 in about half of the samples of a calibrated model.

    The estimate is from Sun, Chaudhari, Barnett & Dobriban 2024 (arXiv 2408.08998), who show that in large samples it
    is normal, with one variance where the model is calibrated and another where it is not. The interval here adds
    the two (Hoeffding's decomposition of a U-statistic) and is not theirs: so it also holds between these cases, for
    the difference of two models, and for clusters.
    """

    confidence: Floats
    correct: Booleans

    @property
    def point(self) -> float:
        return _parts(self.confidence, self.correct, None).value

    def interval(self, clusters: Ints | None = None) -> Interval:
        parts = _parts(self.confidence, self.correct, clusters)
        return _around(parts.value, parts.influence, _pairs(parts, parts), len(self.correct), clusters)

    def less(self, base: "SquaredError", clusters: Ints | None = None) -> Interval:
        """Return the interval of this error less another model's error on the same items."""
        ours, theirs = (_parts(each.confidence, each.correct, clusters) for each in (self, base))
        pairs = _pairs(ours, ours) + _pairs(theirs, theirs) - 2 * _pairs(ours, theirs)
        influence = ours.influence - theirs.influence
        return _around(ours.value - theirs.value, influence, pairs, len(self.correct), clusters)


@dataclass(frozen=True)
class _Parts:
    """``influence`` of each cluster (or item) on the value; ``residual`` of its gaps, shape (clusters, bins), of which
    products make the value with the ``weight`` of the bin."""

    value: float
    influence: Floats
    residual: Any
    weight: Floats


def _parts(confidence: Floats, correct: Booleans, clusters: Ints | None) -> _Parts:
    items = len(correct)
    bins = calibration.bin_of(confidence, calibration.equal_mass_edges(confidence))
    units = np.arange(items) if clusters is None else clusters
    places = (units, bins)
    # Entries of one place are summed.
    gap = sparse.csr_array((correct - confidence, places), shape=(int(units.max()) + 1, calibration.BINS))
    count = sparse.csr_array((np.ones(items), places), shape=gap.shape)
    in_bin, total = count.sum(axis=0), gap.sum(axis=0)
    pairs = in_bin**2 - (count * count).sum(axis=0)
    weight = np.divide(in_bin, pairs * items, out=np.zeros(calibration.BINS), where=pairs > 0)
    mean = np.divide(total, in_bin, out=np.zeros(calibration.BINS), where=in_bin > 0)
    value = float(weight @ (total**2 - (gap * gap).sum(axis=0)))
    residual = gap - count * mean
    influence = residual @ (2 * mean) + count @ (mean**2 - value)
    return _Parts(value, influence, residual, weight)


def _pairs(first: _Parts, second: _Parts) -> float:
    """Covariance of what two estimates have from pairs alone, by chance: 2 * sum over pairs of different clusters c, d
    of (sum_b w_b r_cb r_db) (the same of the second); the sums over pairs are those of a small matrix."""
    together = (first.residual.T @ second.residual).toarray()
    alone = [(each.residual * each.residual) @ each.weight for each in (first, second)]
    return float(2 * (first.weight @ together**2 @ second.weight - alone[0] @ alone[1]))


def _around(value: float, influence: Floats, pairs: float, items: int, clusters: Ints | None) -> Interval:
    units = len(influence)
    linear = units / max(units - 1, 1) * float(((influence - influence.mean()) ** 2).sum()) / items**2
    # Its mean gaps being estimates, the linear part is too large by twice the variance of the pairs. That is left in:
    # the sum over pairs is skewed, and its upper tail would be missed too often.
    linear = max(linear - 2 * pairs, 0.0)

    def ends(times: float) -> tuple[float, float]:
        arm = Z * math.sqrt(max(linear / times + 3 * pairs / times**2, 0.0)) or math.nan
        return value - arm, value + arm

    return described(Interval(value, *ends(1.0), grown=ends), items, ITEMS, clusters)
