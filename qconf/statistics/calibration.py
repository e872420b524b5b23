"""How well confidences agree with how often a model is right.

Most functions take ``confidence``, the model's confidence in its choice, and ``correct``, whether the choice was right,
both of shape (items,). Those of whole distributions take ``shares``, shape (items, choices), whose rows sum to 1, and
``labels``, the index of the true choice, shape (items,). Where items have fewer choices than there are columns, rows
are padded with 0 at the end and ``sizes``, shape (items,), says how many choices each has. All raise ValueError, naming
argument and entry, for what is empty, of another shape, not finite or outside of 0 to 1.

Bins are intervals (low, high], the first one closed: a confidence of exactly 0 is in the first bin, one of exactly 1 in
the last, one on an edge in the lower of the two. Items with the same confidence are always in the same bin, so that the
order of the items never matters; a bin may be empty and then takes no part.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft, optimize, stats  # type: ignore[import-untyped]

from qconf.statistics.arrays import Booleans, Floats, Ints, booleans, mass_edges, probabilities, same_length

BINS = 15
PAPER_BINS = 100
GRID = 4096
"""Cells of the grid on which smooth_ece places the items."""


@dataclass(frozen=True, slots=True)
class Bins:
    """A reliability diagram: per bin its edges, its items, their mean confidence and accuracy (NaN if empty)."""

    low: Floats
    high: Floats
    count: Ints
    confidence: Floats
    accuracy: Floats


def equal_width_edges(n_bins: int = BINS) -> Floats:
    """Edges of bins of the same width, shape (n_bins + 1,)."""
    return np.asarray(np.linspace(0.0, 1.0, n_bins + 1), dtype=np.float64)


def equal_mass_edges(confidence: npt.ArrayLike, n_bins: int = BINS) -> Floats:
    """Edges of bins of about the same number of items, shape (n_bins + 1,): the confidences at the ranks k n / n_bins.

    Items that share a confidence are not parted, so that bins may be larger, or empty.
    """
    return np.concatenate([[0.0], mass_edges(probabilities(confidence, "confidence"), n_bins), [1.0]])


def bin_of(confidence: npt.ArrayLike, edges: Floats) -> Ints:
    """Index of each item's bin."""
    return np.searchsorted(edges[1:-1], probabilities(confidence, "confidence", at_least=0), side="left")


def reliability(confidence: npt.ArrayLike, correct: npt.ArrayLike, edges: Floats) -> Bins:
    """Mean confidence and accuracy of each bin."""
    confident, right = _pair(confidence, correct)
    index, n_bins = bin_of(confident, edges), len(edges) - 1
    count = np.bincount(index, minlength=n_bins)
    with np.errstate(invalid="ignore"):
        return Bins(
            low=edges[:-1],
            high=edges[1:],
            count=count,
            confidence=np.bincount(index, confident, n_bins) / count,
            accuracy=np.bincount(index, right, n_bins) / count,
        )


def ece(confidence: npt.ArrayLike, correct: npt.ArrayLike, edges: Floats | None = None) -> float:
    """Expected calibration error: sum over bins of count / items * |accuracy - mean confidence|, from 0 to 1.

    Bins of equal width, 15 of them, unless ``edges`` says otherwise. Naeini et al. 2015; Guo et al. 2017
    (arXiv 1706.04599), equation 3.
    """
    found = reliability(confidence, correct, equal_width_edges() if edges is None else edges)
    filled = found.count > 0
    gaps = np.abs(found.accuracy - found.confidence)[filled]
    return float(np.average(gaps, weights=found.count[filled]))


def ece_equal_mass(confidence: npt.ArrayLike, correct: npt.ArrayLike, n_bins: int = BINS) -> float:
    """Expected calibration error over bins of about the same number of items."""
    return ece(confidence, correct, equal_mass_edges(confidence, n_bins))


def mce(confidence: npt.ArrayLike, correct: npt.ArrayLike, n_bins: int = BINS) -> float:
    """Maximum calibration error: the largest |accuracy - mean confidence| of a bin. Guo et al. 2017, equation 5."""
    found = reliability(confidence, correct, equal_width_edges(n_bins))
    return float(np.nanmax(np.abs(found.accuracy - found.confidence)))


def l2_debiased(confidence: npt.ArrayLike, correct: npt.ArrayLike, n_bins: int = BINS) -> float:
    """Root of the debiased squared calibration error over bins of equal mass.

    sum over bins of count / items * ((accuracy - confidence)^2 - accuracy (1 - accuracy) / (count - 1)), not below 0,
    under the root: the second term is what chance alone adds to the first. Kumar et al. 2019 (arXiv 1909.10155),
    definition 5.1. A bin with a single item has no such estimate, and nothing is taken off.
    """
    found = reliability(confidence, correct, equal_mass_edges(confidence, n_bins))
    filled = found.count > 0
    accuracy, count = found.accuracy[filled], found.count[filled]
    chance = accuracy * (1 - accuracy) / np.maximum(count - 1, 1)
    squares = (accuracy - found.confidence[filled]) ** 2 - np.where(count > 1, chance, 0.0)
    return float(np.sqrt(max(0.0, np.average(squares, weights=count))))


def smooth_ece(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Smooth calibration error of Błasiok & Nakkiran 2023 (arXiv 2309.12236), which needs no bins.

    With r(t) the residuals (correct - confidence) / items at their confidences, smoothed by a Gaussian of width s that
    is reflected at 0 and 1, smECE(s) is the integral of |r(t)|; the error is the s with smECE(s) = s. Confidences are
    placed on a grid of 4,096 cells, on which the reflected smoothing is a product in the cosine basis.
    """
    confident, right = _pair(confidence, correct)
    cell = np.minimum((confident * GRID).astype(int), GRID - 1)
    residuals = np.bincount(cell, (right - confident) / len(confident), GRID)
    spectrum = fft.dct(residuals, norm="ortho")
    frequency = np.pi * np.arange(GRID)

    def smoothed(width: float) -> float:
        return float(np.abs(fft.idct(spectrum * np.exp(-((frequency * width) ** 2) / 2), norm="ortho")).sum())

    if smoothed(1.0) >= 1.0:
        return 1.0
    width = optimize.brentq(lambda width: smoothed(width) - width, 0.0, 1.0, xtol=1e-9)
    return float(width)


def ace(
    shares: npt.ArrayLike, labels: npt.ArrayLike, sizes: npt.ArrayLike | None = None, n_ranges: int = BINS
) -> float:
    """Adaptive calibration error: mean over choices and ranges of |how often it is true - its mean share|.

    For each place k among the choices, items are put into ranges of equal mass by the share of choice k. Nixon et al.
    2019 (arXiv 1904.01685), equation 3. An item takes part for the choices that it has; empty ranges take no part.
    """
    distribution, truth, counts = _distribution(shares, labels, sizes)
    gaps = []
    for k in range(distribution.shape[1]):
        has = counts > k
        if has.any():
            found = reliability(distribution[has, k], truth[has] == k, equal_mass_edges(distribution[has, k], n_ranges))
            gaps.append(np.abs(found.accuracy - found.confidence)[found.count > 0])
    return float(np.concatenate(gaps).mean())


def brier(shares: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Brier score: mean over items of sum over choices of (share - [it is the true one])^2, from 0 to 2. Brier 1950."""
    distribution, truth, _ = _distribution(shares, labels)
    return float(((distribution - _one_hot(truth, distribution.shape[1])) ** 2).sum(axis=1).mean())


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


def auroc(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Chance that a right answer has a larger confidence than a wrong one, ties counting half.

    The area under the ROC curve, by the ranks of Mann & Whitney 1947. NaN where all answers are right, or all wrong.
    """
    confident, right = _pair(confidence, correct)
    positive, negative = int(right.sum()), int((~right).sum())
    if not positive or not negative:
        return float("nan")
    ranks = stats.rankdata(confident)[right].sum()
    return float((ranks - positive * (positive + 1) / 2) / (positive * negative))


def risk_coverage_area(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> float:
    """Mean over k of the share of errors among the k most confident answers: less is better.

    The area under the risk-coverage curve. Geifman et al. 2019 (arXiv 1805.08206). Among answers with the same
    confidence, errors are spread evenly, as they are on average over all orders.
    """
    confident, right = _pair(confidence, correct)
    # np.unique sorts upwards; negated, the most confident come first.
    _, group, count = np.unique(-confident, return_inverse=True, return_counts=True)
    errors = np.bincount(group, ~right, len(count)) / count
    risks = np.cumsum(np.repeat(errors, count)) / np.arange(1, len(confident) + 1)
    return float(risks.mean())


def paper_ce(shares: npt.ArrayLike, labels: npt.ArrayLike, sizes: npt.ArrayLike | None = None) -> float:
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
    confident, right = distribution.max(axis=1), distribution.argmax(axis=1) == truth
    cell, n_cells = paper_cells(distribution, truth)
    if choices == 2:
        return float(np.abs(np.bincount(cell, confident - truth)).sum() / items)
    count = np.bincount(cell, minlength=n_cells)
    gaps = np.bincount(cell, right - confident, n_cells)[count > 0] / count[count > 0]
    return float(np.abs(gaps).sum() / n_cells)


def paper_cells(shares: Floats, labels: Ints) -> tuple[Ints, int]:
    """The bin of each item in ``paper_ce``, for more than two choices one for each range and true choice; and how many.

    Takes what ``paper_ce`` has checked.
    """
    confident, choices = shares.max(axis=1), shares.shape[1]
    if choices == 2:
        return np.digitize(confident, np.arange(0.0, 1.0, 1.0 / PAPER_BINS)), PAPER_BINS + 1
    lower = np.sort(confident)[np.arange(BINS) * (len(confident) // BINS)]
    return np.searchsorted(lower, confident, side="left") % BINS * choices + labels, BINS * choices


def _pair(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[Floats, Booleans]:
    confident, right = probabilities(confidence, "confidence"), booleans(correct, "correct")
    same_length(right, "correct", confident, "confidence")
    return confident, right


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
