"""Every statistic of one model on a set of labelled items: its value, and the form in which it is resampled."""

from dataclasses import dataclass

import numpy as np
from scipy import fft  # type: ignore[import-untyped]

from eval import calibration
from eval.arrays import Booleans, Floats, Ints
from eval.bootstrap import Statistic, by_cell, mean_of, ratio_of
from eval.choices import Answers, Choices

CELLS, RANKS = 64, 32
"""Cells of confidence, of equal width and of equal mass, into which items are put for intervals of what has no bins."""
HALVINGS = 30


@dataclass(frozen=True)
class Metric:
    """A statistic's value, by its definition, and what is resampled for its interval: the same, or close to it."""

    value: float
    statistic: Statistic


def model_metrics(choices: Choices, answers: Answers) -> dict[str, Metric]:
    """The metrics of one model by name. All items must have labels, and there must be one or more.

    Where items have different numbers of choices, or there are fewer than 15, there is no ``paper_ce``.
    """
    confidence, correct, shares = answers.confidence, answers.correct, answers.shares
    labels, sizes = choices.labels, choices.sizes
    normalized = (answers.logprobs / choices.chars).argmax(axis=1) == labels
    true = np.take_along_axis(answers.logprobs, labels[:, None], axis=1)[:, 0]
    squares = ((shares - (labels[:, None] == np.arange(shares.shape[1]))) ** 2).sum(axis=1)
    means = {
        "accuracy": correct.astype(np.float64),
        "acc_norm": normalized.astype(np.float64),
        "confidence": confidence,
        "true_confidence": answers.true_share,
        "entropy": answers.entropy,
        "entropy_bits": answers.entropy / np.log(2),
        "margin": answers.margin,
        "nll": np.logaddexp.reduce(answers.logprobs, axis=1) - true,
        "brier": squares,
    }
    statistics = [mean_of(name, values) for name, values in means.items()]
    statistics += [
        ratio_of("confidence_right", confidence * correct, correct.astype(np.float64)),
        ratio_of("confidence_wrong", confidence * ~correct, (~correct).astype(np.float64)),
    ]
    metrics = {each.name: Metric(each.point, each) for each in statistics}
    ece, mce = _equal_width(confidence, correct)
    ece_equal_mass, l2_debiased = _equal_mass(confidence, correct)
    auroc, area = _ranked(confidence, correct)
    metrics |= {
        "ece": Metric(calibration.ece(confidence, correct), ece),
        "ece_equal_mass": Metric(calibration.ece_equal_mass(confidence, correct), ece_equal_mass),
        "ace": Metric(calibration.ace(shares, labels, sizes), _ace(shares, labels, sizes)),
        "mce": Metric(calibration.mce(confidence, correct), mce),
        "l2_debiased": Metric(calibration.l2_debiased(confidence, correct), l2_debiased),
        "smooth_ece": Metric(calibration.smooth_ece(confidence, correct), _smooth_ece(confidence, correct)),
        "auroc": Metric(calibration.auroc(confidence, correct), auroc),
        "risk_coverage_area": Metric(calibration.risk_coverage_area(confidence, correct), area),
    }
    if (sizes == sizes[0]).all() and len(choices) >= calibration.BINS:
        shares = shares[:, : sizes[0]]
        metrics["paper_ce"] = Metric(calibration.paper_ce(shares, labels), _paper_ce(shares, labels))
    return metrics


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


def _ranked(confidence: Floats, correct: Booleans) -> tuple[Statistic, Statistic]:
    """AUROC and risk-coverage area of answers in cells of about the same number, by confidence."""
    cells = calibration.bin_of(confidence, calibration.equal_mass_edges(confidence, RANKS))
    features = by_cell(cells, RANKS, [correct.astype(np.float64), (~correct).astype(np.float64)])

    def auroc(sums: Floats, _: Floats) -> Floats:
        right, wrong = np.split(sums, 2, axis=1)
        below = np.cumsum(wrong, axis=1) - wrong / 2
        pairs = right.sum(axis=1) * wrong.sum(axis=1)
        return _over((right * below).sum(axis=1), pairs, nothing=np.nan)

    def area(sums: Floats, items: Floats) -> Floats:
        # The most confident first.
        right, wrong = (part[:, ::-1] for part in np.split(sums, 2, axis=1))
        count = right + wrong
        risk = _over(np.cumsum(wrong, axis=1), np.cumsum(count, axis=1))
        before = np.concatenate([risk[:, :1], risk[:, :-1]], axis=1)
        return np.asarray((count * (risk + before) / 2).sum(axis=1) / items)

    return (
        Statistic("auroc", len(cells), features, auroc),
        Statistic("risk_coverage_area", len(cells), features, area),
    )


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


def _over(above: Floats, below: Floats, nothing: float = 0.0) -> Floats:
    """The quotient, and ``nothing`` where there is nothing to divide by."""
    return np.asarray(np.divide(above, below, out=np.full(np.shape(above), nothing), where=below > 0))
