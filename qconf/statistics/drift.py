"""Drift: are confidences in one sample, live traffic or a later run, distributed as in another, the reference?

A sample is reduced to sums that add up, so that the same code serves a run on disk and a window that slides over live
traffic. The reference fixes the bins: percentiles of its values, the outer bins open. Its deciles group them. Bins are
(low, high], as in qconf.statistics.calibration.

Values come in clusters: an item is one of its own, but the tokens of one text resemble each other, and a threshold that
took them for independent would call drift where there is none. So the sums hold how the bins' counts vary together
between clusters, and thresholds follow from that.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

from qconf.statistics.arrays import Floats, Ints, mass_edges, same_length, vector

Unit = Literal["item", "token"]
Quantity = Literal["kl", "base_confidence", "quantized_confidence", "confidence_delta"]
UNITS: tuple[Unit, ...] = ("item", "token")
QUANTITIES: tuple[Quantity, ...] = ("kl", "base_confidence", "quantized_confidence", "confidence_delta")
"""Of an item: mean KL of its tokens, each model's confidence in its choice, and their difference. Of a token: KL, each
model's largest probability, and their difference (quantized minus base)."""

Key = tuple[Unit, Quantity]

COARSE = 10
FINE = 100
CHANCE = 1e-3
"""Share of windows without drift that exceed a threshold."""
MODERATE = 0.1
"""PSI below this is negligible even if statistically significant: the usual rule of thumb."""
FEWEST = 30
"""Fewest clusters for a distance: fewer do not show how they vary."""
ABSENT = 0.5
"""Added to each bin's count before logarithms, so that an empty bin counts as rare and not as impossible."""


@dataclass(frozen=True)
class Sample:
    """Values of one quantity, and the cluster of each: ids that are contiguous from 0."""

    values: Floats
    clusters: Ints

    @staticmethod
    def independent(values: npt.ArrayLike) -> "Sample":
        """Return a sample in which every value is a cluster of its own."""
        array = vector(values, "values", at_least=0)
        return Sample(array, np.arange(len(array)))


@dataclass(frozen=True)
class Distance:
    """The distance of a sample from the reference, with what chance alone would exceed once in a thousand samples.

    ``psi``: population stability index, sum over deciles of (share - reference) log(share / reference). ``js``:
    Jensen-Shannon divergence over deciles, in nats. ``ks``: Kolmogorov-Smirnov distance, over percentiles.
    """

    reference: int
    samples: int
    psi: float
    psi_threshold: float
    js: float
    js_threshold: float
    ks: float
    ks_threshold: float

    @property
    def drifted(self) -> bool:
        """Whether PSI is statistically significant and not negligible. The alert has the same rule."""
        return self.psi > max(self.psi_threshold, MODERATE)


@dataclass(frozen=True)
class Scale:
    """The bins that a reference fixes, and sums over them, which are vectors of length ``width`` that add up.

    Such a vector has the number of clusters, then the sum over clusters of n nᵀ, where n are the cluster's counts by
    group, then the counts by bin. ``edges`` are the inner edges of the bins, ``group`` is the group that each is in.
    """

    edges: Floats
    group: Ints

    @staticmethod
    def of(reference: Sample) -> "Scale":
        """Return percentiles of the reference, in groups between its deciles; equal values stay in one bin.

        A value that fills a bin by itself, such as a confidence of 1, has that bin to itself.
        """
        if not len(reference.values):
            raise ValueError("the reference has no values")
        edges, coarse = (_edges(reference.values, bins) for bins in (FINE, COARSE))
        edges = np.union1d(edges, coarse)
        return Scale(edges, np.searchsorted(coarse, np.append(edges, np.inf), side="left"))

    @property
    def groups(self) -> int:
        """Number of groups."""
        return int(self.group[-1]) + 1

    @property
    def width(self) -> int:
        """Length of a vector of sums."""
        return 1 + self.groups**2 + len(self.group)

    def sums(self, sample: Sample) -> Floats:
        """Return the sums over a sample."""
        same_length(sample.clusters, "clusters", sample.values, "values")
        n, k = int(sample.clusters.max(initial=-1)) + 1, self.groups
        bins = np.searchsorted(self.edges, sample.values, side="left")
        counts = np.bincount(bins, minlength=len(self.group))
        by_cluster = np.bincount(sample.clusters * k + self.group[bins], minlength=n * k).reshape(n, k)
        return np.concatenate([[n], (by_cluster.T @ by_cluster).ravel(), counts]).astype(np.float64)

    def distance(self, reference: Floats, sums: Floats) -> Distance | None:
        """Return the distance of a sample from the reference, both as sums; None where either has too few clusters.

        Thresholds. Without drift, PSI is about sum (share - reference)² / pooled share, a sum of squares of normal
        variables with the covariance of the differences of shares: V = V_sample + V_reference, scaled by the pooled
        shares. Its distribution is taken as a chi-square with the same mean and variance (Satterthwaite 1946; Rao &
        Scott 1981, doi 10.1080/01621459.1981.10477633). Where all values are independent that is
        (1/n + 1/m) chi-square with groups - 1 degrees of freedom; where they cluster, up to 5 windows in a thousand
        exceed it (tests/test_eval_drift.py). JS is an eighth of PSI to the same order. For KS, the
        asymptotic quantile for independent values, with the variance at the edge where clustering inflates it most.
        """
        ours, theirs = _Shares.of(self, sums), _Shares.of(self, reference)
        if min(ours.clusters, theirs.clusters) < FEWEST:
            return None
        pooled = (ours.counts + theirs.counts) / (ours.total + theirs.total)
        # Skip groups that are empty in both samples.
        there = pooled > 0
        pooled, covariance = pooled[there], (ours.covariance + theirs.covariance)[np.ix_(there, there)]
        psi_threshold = _quantile(covariance / np.sqrt(np.outer(pooled, pooled)))
        below = np.cumsum(pooled)[:-1]
        spread = np.diag(np.cumsum(np.cumsum(covariance, axis=0), axis=1))[:-1] / (below * (1 - below))
        p, q = _smoothed(ours.counts[there]), _smoothed(theirs.counts[there])
        middle = (p + q) / 2
        return Distance(
            reference=theirs.total,
            samples=ours.total,
            psi=float(((p - q) * np.log(p / q)).sum()),
            psi_threshold=psi_threshold,
            js=float((p * np.log(p / middle) + q * np.log(q / middle)).sum() / 2),
            js_threshold=psi_threshold / 8,
            ks=float(np.abs(np.cumsum(ours.fine) / ours.total - np.cumsum(theirs.fine) / theirs.total).max()),
            ks_threshold=float(stats.kstwobign.isf(CHANCE) * np.sqrt(spread.max(initial=0.0))),
        )


@dataclass(frozen=True)
class Reference:
    """Scales and sums of all quantities that a reference has. Sums of a sample are one vector, of all of them."""

    scales: dict[Key, Scale]
    own: Floats

    @staticmethod
    def of(samples: Mapping[Key, Sample]) -> "Reference":
        """Return a reference with its bins; quantities without values are left out."""
        scales = {key: Scale.of(sample) for key, sample in samples.items() if len(sample.values)}
        return Reference(scales, _sums(scales, samples))

    def sums(self, samples: Mapping[Key, Sample]) -> Floats:
        """Return the sums over samples of some of the quantities; others count as without values."""
        return _sums(self.scales, samples)

    def distances(self, sums: Floats) -> dict[Key, Distance]:
        """Return the distance of each quantity from the reference, where there are enough clusters."""
        ends = np.cumsum([scale.width for scale in self.scales.values()], dtype=np.int64)
        parts = zip(np.split(self.own, ends)[:-1], np.split(sums, ends)[:-1], strict=True)
        found = {
            key: scale.distance(own, theirs)
            for (key, scale), (own, theirs) in zip(self.scales.items(), parts, strict=True)
        }
        return {key: distance for key, distance in found.items() if distance is not None}


def _sums(scales: Mapping[Key, Scale], samples: Mapping[Key, Sample]) -> Floats:
    parts = [scale.sums(samples[key]) if key in samples else np.zeros(scale.width) for key, scale in scales.items()]
    return np.concatenate(parts) if parts else np.zeros(0)


@dataclass(frozen=True)
class _Shares:
    """Counts by bin and by group, and the covariance of the groups' shares, by how clusters differ."""

    clusters: int
    total: int
    fine: Floats
    counts: Floats
    covariance: Floats

    @staticmethod
    def of(scale: Scale, sums: Floats) -> "_Shares":
        k = scale.groups
        clusters, products, fine = sums[0], sums[1 : 1 + k * k].reshape(k, k), sums[1 + k * k :]
        counts = np.bincount(scale.group, fine, k).astype(np.float64)
        total = counts.sum()
        if clusters < 2:
            return _Shares(int(clusters), int(total), fine, counts, np.zeros((k, k)))
        # The sum over clusters of (n - p s)(n - p s)ᵀ, where s is the cluster's size.
        p, sizes = counts / total, products.sum(axis=1)
        deviations = products - np.outer(p, sizes) - np.outer(sizes, p) + np.outer(p, p) * sizes.sum()
        covariance = deviations * clusters / (clusters - 1) / total**2
        return _Shares(int(clusters), int(total), fine, counts, covariance)


def _edges(values: Floats, n_bins: int) -> Floats:
    edges, count = np.unique(mass_edges(values, n_bins), return_counts=True)
    return np.union1d(edges, np.nextafter(edges[count > 1], -np.inf))


def _quantile(covariance: Floats) -> float:
    """Return about what the squared length of a normal vector with that covariance exceeds with probability CHANCE."""
    mean, square = np.trace(covariance), (covariance**2).sum()
    if square <= 0:
        return 0.0
    return float(square / mean * stats.chi2.isf(CHANCE, mean**2 / square))


def _smoothed(counts: Floats) -> Floats:
    return np.asarray((counts + ABSENT) / (counts + ABSENT).sum())
