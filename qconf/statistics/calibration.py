"""How well confidences agree with how often a model is right: reliability diagrams and errors of calibration.

Functions take ``confidence``, the model's confidence in its choice, and ``correct``, whether the choice was right, both
of shape (items,). Errors are returned as ``Statistic``: their ``point`` is the value, and they can be resampled. All
raise ValueError, naming argument and entry, for values that are missing, of another shape, not finite or outside of 0
to 1. Errors of whole distributions over choices are in ``qconf.statistics.forecasts``.

Bins are intervals (low, high], the first one closed: a confidence of exactly 0 is in the first bin, one of exactly 1 in
the last, one on an edge in the lower of the two. Items with the same confidence are always in the same bin, so that the
order of the items never matters; a bin may be empty and then takes no part. In resamples, edges stay where they are.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import fft  # type: ignore[import-untyped]

from qconf.statistics.arrays import Booleans, Floats, Ints, booleans, mass_edges, probabilities, quotient, same_length
from qconf.statistics.bootstrap import Features, Statistic, by_cell

BINS = 15
GRID, COARSE_GRID = 4096, 64
"""Cells of confidence on which smooth_ece places the items, and on which it places them in resamples."""
HALVINGS = 40


@dataclass(frozen=True, slots=True)
class Bins:
    """A reliability diagram: for each bin its edges, its items, their mean confidence and accuracy (NaN if empty)."""

    low: Floats
    high: Floats
    count: Ints
    confidence: Floats
    accuracy: Floats


def equal_width_edges(n_bins: int = BINS) -> Floats:
    """Return edges of bins of the same width, shape (n_bins + 1,)."""
    return np.asarray(np.linspace(0.0, 1.0, n_bins + 1), dtype=np.float64)


def equal_mass_edges(confidence: npt.ArrayLike, n_bins: int = BINS) -> Floats:
    """Return edges of bins of about the same number of items, shape (n_bins + 1,).

    They are the confidences at the ranks k n / n_bins. Items with the same confidence stay in one bin, so that bins may
    be larger, or empty.
    """
    return np.concatenate([[0.0], mass_edges(probabilities(confidence, "confidence"), n_bins), [1.0]])


def bin_of(confidence: npt.ArrayLike, edges: Floats) -> Ints:
    """Return the index of each item's bin, shape (items,)."""
    return np.searchsorted(edges[1:-1], probabilities(confidence, "confidence", at_least=0), side="left")


def reliability(confidence: npt.ArrayLike, correct: npt.ArrayLike, edges: Floats) -> Bins:
    """Return the mean confidence and the accuracy of each bin."""
    confident, right = checked_pair(confidence, correct)
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


def ece(confidence: npt.ArrayLike, correct: npt.ArrayLike, edges: Floats | None = None) -> Statistic:
    """Expected calibration error: sum over bins of count / items * |accuracy - mean confidence|, from 0 to 1.

    Without ``edges``, over 15 bins of equal width. Naeini et al. 2015; Guo et al. 2017 (arXiv 1706.04599), equation 3.
    """
    confident, right = checked_pair(confidence, correct)
    edges = equal_width_edges() if edges is None else edges
    return Statistic(by_cell(bin_of(confident, edges), len(edges) - 1, [right - confident]), mean_gap)


def ece_equal_mass(confidence: npt.ArrayLike, correct: npt.ArrayLike, n_bins: int = BINS) -> Statistic:
    """Expected calibration error over bins of about the same number of items."""
    return ece(confidence, correct, equal_mass_edges(confidence, n_bins))


def mce(confidence: npt.ArrayLike, correct: npt.ArrayLike, n_bins: int = BINS) -> Statistic:
    """Maximum calibration error: the largest |accuracy - mean confidence| of a bin. Guo et al. 2017, equation 5."""
    confident, right = checked_pair(confidence, correct)
    bins = bin_of(confident, equal_width_edges(n_bins))

    def largest(sums: Floats, _: Floats) -> Floats:
        count, gap = np.split(sums, 2, axis=1)
        return np.asarray(np.abs(quotient(gap, count)).max(axis=1))

    return Statistic(by_cell(bins, n_bins, [np.ones(len(bins)), right - confident]), largest)


def l2_debiased(confidence: npt.ArrayLike, correct: npt.ArrayLike, n_bins: int = BINS) -> Statistic:
    """Root of the debiased squared calibration error over bins of equal mass.

    sum over bins of count / items * ((accuracy - confidence)^2 - accuracy (1 - accuracy) / (count - 1)), not below 0,
    under the root: the second term is what chance alone adds to the first. Kumar et al. 2019 (arXiv 1909.10155),
    definition 5.1. A bin with a single item has no such estimate, and nothing is subtracted.
    """
    confident, right = checked_pair(confidence, correct)
    bins = bin_of(confident, equal_mass_edges(confident, n_bins))

    def debiased(sums: Floats, items: Floats) -> Floats:
        count, hits, confidences = np.split(sums, 3, axis=1)
        accuracy = quotient(hits, count)
        chance = quotient(accuracy * (1 - accuracy), count - 1)
        squares = (accuracy - quotient(confidences, count)) ** 2 - chance
        return np.asarray(np.sqrt(np.maximum((squares * count).sum(axis=1) / items, 0.0)))

    return Statistic(by_cell(bins, n_bins, [np.ones(len(bins)), right.astype(np.float64), confident]), debiased)


def smooth_ece(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> Statistic:
    """Smooth calibration error of Błasiok & Nakkiran 2023 (arXiv 2309.12236), which needs no bins.

    With r(t) the residuals (correct - confidence) / items at their confidences, smoothed by a Gaussian of width s that
    is reflected at 0 and 1, smECE(s) is the integral of |r(t)|; the error is the s with smECE(s) = s, at most 1.
    Confidences are placed on a grid of 4,096 cells, on which the reflected smoothing is a product in the cosine basis.
    """
    confident, right = checked_pair(confidence, correct)
    residuals = right - confident

    def on_grid(cells: int) -> Features:
        return by_cell(np.minimum((confident * cells).astype(int), cells - 1), cells, [residuals])

    return Statistic(on_grid(COARSE_GRID), _fixed_width, on_grid(GRID))


def mean_gap(gaps: Floats, items: Floats) -> Floats:
    """Return the sum over cells of |sum of gaps| / items, shape (resamples,), from gaps of shape (resamples, cells)."""
    return np.asarray(np.abs(gaps).sum(axis=1) / items)


def _fixed_width(residuals: Floats, items: Floats) -> Floats:
    """Return the width s with smECE(s) = s by halving: smECE falls as s rises. For all resamples at once."""
    spectrum = fft.dct(residuals / items[:, None], norm="ortho")
    frequency = np.pi * np.arange(residuals.shape[1])
    low: Floats = np.zeros(len(residuals))
    high: Floats = np.ones(len(residuals))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        damped = spectrum * np.exp(-((frequency * middle[:, None]) ** 2) / 2)
        above = np.abs(fft.idct(damped, norm="ortho")).sum(axis=1) > middle
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    return np.asarray((low + high) / 2)


def checked_pair(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> tuple[Floats, Booleans]:
    """Return both as arrays of one length; ValueError names what is wrong with them."""
    confident, right = probabilities(confidence, "confidence"), booleans(correct, "correct")
    same_length(right, "correct", confident, "confidence")
    return confident, right
