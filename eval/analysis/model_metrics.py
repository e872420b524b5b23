"""Every statistic of one model on a set of labelled items: its value, and the form in which it has an interval.

Means, shares and ratios have confidence intervals. Errors of calibration that add up absolute gaps are too large by
chance, resamples of them even more so: what is resampled has only a spread (docs/explanation/intervals.md).
"""

from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from scipy import fft, stats  # type: ignore[import-untyped]

from qconf.run.choices import Answers, Choices
from qconf.statistics import calibration
from qconf.statistics.arrays import Booleans, Floats, Ints
from qconf.statistics.bootstrap import Statistic, by_cell
from qconf.statistics.intervals import UNBOUNDED_ITEMS, UNBOUNDED_REACH, Interval, Mean, Proportion
from qconf.statistics.squared_error import SquaredError

CELLS, RANKS = 64, 32
"""Cells of confidence, of equal width and of equal mass, into which items are put for spreads of what has no bins."""
HALVINGS = 30


class Estimate(Protocol):
    """A statistic that has a confidence interval, and so has its difference from another model's on the same items."""

    @property
    def point(self) -> float: ...

    def interval(self, clusters: Ints | None = None) -> Interval: ...

    def less(self, base: Self, clusters: Ints | None = None) -> Interval: ...


@dataclass(frozen=True)
class Metric:
    """A statistic's value, by its definition, and what is resampled for its spread: the same, or close to it."""

    value: float
    statistic: Statistic


def estimates(choices: Choices, answers: Answers) -> dict[str, Estimate]:
    """The statistics of one model that have intervals, by name. All items must have labels, and there must be some."""
    confidence, correct = answers.confidence, answers.correct
    most = int(choices.sizes.max())
    return {
        "accuracy": Proportion(correct),
        "acc_norm": Proportion(choices.normalized_correct(answers)),
        "confidence": Mean(confidence, 1 / most, 1.0),
        "true_confidence": Mean(answers.true_share, 0.0, 1.0),
        "overconfidence": Mean(confidence - correct, 1 / most - 1, 1.0),
        "confidence_right": _mean_where(confidence, correct, 1 / most, "right answers"),
        "confidence_wrong": _mean_where(confidence, ~correct, 1 / most, "wrong answers"),
        "margin": Mean(answers.margin, 0.0, 1.0),
        "entropy": Mean(answers.entropy, 0.0, float(np.log(most))),
        "entropy_bits": Mean(answers.entropy / np.log(2), 0.0, float(np.log2(most))),
        "nll": Mean(answers.nll, 0.0, reach=UNBOUNDED_REACH, least=UNBOUNDED_ITEMS),
        "brier": Mean(answers.brier, 0.0, 2.0),
        "l2_squared": SquaredError(confidence, correct),
        "auroc": _auroc(confidence, correct),
    }


def resampled(choices: Choices, answers: Answers) -> dict[str, Metric]:
    """The statistics of one model that have only a spread.

    Where items have different numbers of choices, or there are fewer than 15, there is no ``paper_ce``.
    """
    confidence, correct, shares = answers.confidence, answers.correct, answers.shares
    labels, sizes = choices.labels, choices.sizes
    ece, mce = _equal_width(confidence, correct)
    ece_equal_mass, l2_debiased = _equal_mass(confidence, correct)
    area = _risk_coverage_area(confidence, correct)
    metrics = {
        "ece": Metric(calibration.ece(confidence, correct), ece),
        "ece_equal_mass": Metric(calibration.ece_equal_mass(confidence, correct), ece_equal_mass),
        "ace": Metric(calibration.ace(shares, labels, sizes), _ace(shares, labels, sizes)),
        "mce": Metric(calibration.mce(confidence, correct), mce),
        "l2_debiased": Metric(calibration.l2_debiased(confidence, correct), l2_debiased),
        "smooth_ece": Metric(calibration.smooth_ece(confidence, correct), _smooth_ece(confidence, correct)),
        "risk_coverage_area": Metric(calibration.risk_coverage_area(confidence, correct), area),
    }
    if (sizes == sizes[0]).all() and len(choices) >= calibration.BINS:
        shares = shares[:, : sizes[0]]
        metrics["paper_ce"] = Metric(calibration.paper_ce(shares, labels), _paper_ce(shares, labels))
    return metrics


def _mean_where(values: Floats, chosen: Booleans, low: float, unit: str) -> Mean:
    """The mean R of the values of some items, which are from ``low`` to 1, as a mean over all items, to first order: of
    R + (value - R) / c for the chosen ones, with c their share, and of R for the others."""
    count = int(chosen.sum())
    if not count:
        return Mean(np.full(len(values), np.nan), support=0, unit=unit)
    mean, share = float(values[chosen].mean()), count / len(values)
    return Mean(
        mean + chosen * (values - mean) / share,
        mean + (low - mean) / share,
        mean + (1.0 - mean) / share,
        support=count,
        unit=unit,
    )


def _auroc(confidence: Floats, correct: Booleans) -> Mean:
    """The area under the ROC curve as a mean over items, to first order.

    For a right answer that is the share of wrong answers with a lower confidence, for a wrong one the share of right
    answers with a higher confidence; each less the area, divided by the share of such answers, plus the area. DeLong,
    DeLong & Clarke-Pearson 1988 (Biometrics 44), whose variance this has.
    """
    items, right = len(correct), int(correct.sum())
    rarer = min(right, items - right)
    unit = "right answers" if right < items - right else "wrong answers"
    if not rarer:
        return Mean(np.full(items, np.nan), support=0, unit=unit)
    ranks = stats.rankdata(confidence)
    placed = np.empty(items)
    placed[correct] = (ranks[correct] - stats.rankdata(confidence[correct])) / (items - right)
    placed[~correct] = 1 - (ranks[~correct] - stats.rankdata(confidence[~correct])) / right
    area = float(placed[correct].mean())
    share = np.where(correct, right, items - right) / items
    return Mean(
        area + (placed - area) / share,
        area - area * items / rarer,
        area + (1 - area) * items / rarer,
        support=rarer,
        unit=unit,
    )


def _equal_width(confidence: Floats, correct: Booleans) -> tuple[Statistic, Statistic]:
    """The mean and the largest gap over bins of equal width."""
    bins = calibration.bin_of(confidence, calibration.equal_width_edges())
    features = by_cell(bins, calibration.BINS, [np.ones(len(bins)), correct - confidence])

    def largest(sums: Floats, _: Floats) -> Floats:
        count, gap = np.split(sums, 2, axis=1)
        return np.asarray(np.abs(_over(gap, count)).max(axis=1))

    return (
        Statistic("ece", len(bins), features, lambda sums, items: _total(np.split(sums, 2, axis=1)[1], items)),
        Statistic("mce", len(bins), features, largest),
    )


def _equal_mass(confidence: Floats, correct: Booleans) -> tuple[Statistic, Statistic]:
    """The mean gap over bins of equal mass, and the debiased error; the bins' edges stay where they are."""
    bins = calibration.bin_of(confidence, calibration.equal_mass_edges(confidence))
    features = by_cell(bins, calibration.BINS, [np.ones(len(bins)), correct.astype(np.float64), confidence])

    def mean(sums: Floats, items: Floats) -> Floats:
        _, right, confident = np.split(sums, 3, axis=1)
        return _total(right - confident, items)

    def debiased(sums: Floats, items: Floats) -> Floats:
        count, right, confident = np.split(sums, 3, axis=1)
        accuracy = _over(right, count)
        chance = np.where(count > 1, _over(accuracy * (1 - accuracy), count - 1), 0.0)
        squares = (accuracy - _over(confident, count)) ** 2 - chance
        return np.asarray(np.sqrt(np.maximum((squares * count).sum(axis=1) / items, 0.0)))

    return (
        Statistic("ece_equal_mass", len(bins), features, mean),
        Statistic("l2_debiased", len(bins), features, debiased),
    )


def _ace(shares: Floats, labels: Ints, sizes: Ints) -> Statistic:
    """Ranges of each choice side by side; items without the choice are in a cell beyond, which is left out."""
    ranges = calibration.BINS
    cells, gaps = [], []
    for k in range(shares.shape[1]):
        has = sizes > k
        edges = calibration.equal_mass_edges(shares[has, k], ranges)
        cells.append(np.where(has, calibration.bin_of(shares[:, k], edges), ranges))
        gaps.append((labels == k) - shares[:, k])
    parts = [by_cell(cell, ranges, [np.ones(len(labels)), gap]) for cell, gap in zip(cells, gaps, strict=True)]

    def of(sums: Floats, _: Floats) -> Floats:
        count, gap = np.split(sums.reshape(len(sums), len(parts), 2 * ranges), 2, axis=2)
        return np.asarray(np.abs(_over(gap, count)).sum(axis=(1, 2)) / (count > 0).sum(axis=(1, 2)))

    return Statistic("ace", len(labels), lambda part: np.concatenate([each(part) for each in parts], axis=1), of)


def _smooth_ece(confidence: Floats, correct: Booleans) -> Statistic:
    """On a coarser grid than the value's, with the width found by halving, for all resamples at once."""
    cells = np.minimum((confidence * CELLS).astype(np.int64), CELLS - 1)

    def of(sums: Floats, items: Floats) -> Floats:
        spectrum = fft.dct(sums / items[:, None], norm="ortho")
        low: Floats = np.zeros(len(sums))
        high: Floats = np.ones(len(sums))
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            damping = np.exp(-((np.pi * np.arange(CELLS) * middle[:, None]) ** 2) / 2)
            above = np.abs(fft.idct(spectrum * damping, norm="ortho")).sum(axis=1) > middle
            low, high = np.where(above, middle, low), np.where(above, high, middle)
        return np.asarray((low + high) / 2)

    return Statistic("smooth_ece", len(cells), by_cell(cells, CELLS, [correct - confidence]), of)


def _risk_coverage_area(confidence: Floats, correct: Booleans) -> Statistic:
    """Of answers in cells of about the same number, by confidence."""
    cells = calibration.bin_of(confidence, calibration.equal_mass_edges(confidence, RANKS))

    def area(sums: Floats, items: Floats) -> Floats:
        # The most confident first.
        right, wrong = (part[:, ::-1] for part in np.split(sums, 2, axis=1))
        count = right + wrong
        risk = _over(np.cumsum(wrong, axis=1), np.cumsum(count, axis=1))
        before = np.concatenate([risk[:, :1], risk[:, :-1]], axis=1)
        return np.asarray((count * (risk + before) / 2).sum(axis=1) / items)

    features = by_cell(cells, RANKS, [correct.astype(np.float64), (~correct).astype(np.float64)])
    return Statistic("risk_coverage_area", len(cells), features, area)


def _paper_ce(shares: Floats, labels: Ints) -> Statistic:
    cells, count = calibration.paper_cells(shares, labels)
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == labels
    if shares.shape[1] == 2:
        return Statistic(
            "paper_ce",
            len(cells),
            by_cell(cells, count, [confidence - labels]),
            _total,
        )

    def of(sums: Floats, _: Floats) -> Floats:
        members, gap = np.split(sums, 2, axis=1)
        return np.asarray(np.abs(_over(gap, members)).sum(axis=1) / count)

    return Statistic("paper_ce", len(cells), by_cell(cells, count, [np.ones(len(cells)), right - confidence]), of)


def _total(gaps: Floats, items: Floats) -> Floats:
    return np.asarray(np.abs(gaps).sum(axis=1) / items)


def _over(above: Floats, below: Floats) -> Floats:
    """The quotient, and 0 where there is nothing to divide by."""
    return np.asarray(np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0))
