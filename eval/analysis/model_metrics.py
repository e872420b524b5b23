"""Every statistic of one model on a set of labelled items, in the form that has an interval or a spread.

Means, shares and ratios have confidence intervals. Errors of calibration that add up absolute gaps are too large by
chance, and resamples of them even more so: they have only a spread (docs/explanation/intervals.md).
"""

from typing import Protocol, Self

import numpy as np

from qconf.run.choices import Answers, Choices
from qconf.run.quantities import OF_A_MODEL
from qconf.statistics import calibration, forecasts, ranking
from qconf.statistics.arrays import Booleans, Floats, Ints
from qconf.statistics.bootstrap import Statistic
from qconf.statistics.intervals import Interval, Mean
from qconf.statistics.squared_error import SquaredError


class Estimate(Protocol):
    """A statistic that has a confidence interval, and whose difference between two models on the same items has one."""

    @property
    def point(self) -> float: ...

    def interval(self, clusters: Ints | None = None) -> Interval: ...

    def less(self, base: Self, clusters: Ints | None = None) -> Interval: ...


def estimates(choices: Choices, answers: Answers) -> dict[str, Estimate]:
    """Return the statistics of one model that have intervals, by name. There must be items, all with labels."""
    confidence, correct = answers.confidence, answers.correct
    most = int(choices.sizes.max())
    means: dict[str, Estimate] = {
        name: quantity.estimate(most, choices, answers) for name, quantity in OF_A_MODEL.items()
    }
    return means | {
        "confidence_right": _mean_where(confidence, correct, 1 / most, "right answers"),
        "confidence_wrong": _mean_where(confidence, ~correct, 1 / most, "wrong answers"),
        "l2_squared": SquaredError(confidence, correct),
        "auroc": ranking.auroc(confidence, correct),
    }


def resampled(choices: Choices, answers: Answers) -> dict[str, Statistic]:
    """Return the statistics of one model that have only a spread, by name.

    Where items have different numbers of choices, or there are fewer than 15, there is no ``paper_ce``.
    """
    confidence, correct, shares = answers.confidence, answers.correct, answers.shares
    labels, sizes = choices.labels, choices.sizes
    found = {
        "ece": calibration.ece(confidence, correct),
        "ece_equal_mass": calibration.ece_equal_mass(confidence, correct),
        "ace": forecasts.ace(shares, labels, sizes),
        "mce": calibration.mce(confidence, correct),
        "l2_debiased": calibration.l2_debiased(confidence, correct),
        "smooth_ece": calibration.smooth_ece(confidence, correct),
        "risk_coverage_area": ranking.risk_coverage_area(confidence, correct),
    }
    if (sizes == sizes[0]).all() and len(choices) >= calibration.BINS:
        found["paper_ce"] = forecasts.paper_ce(shares[:, : sizes[0]], labels)
    return found


def _mean_where(values: Floats, chosen: Booleans, low: float, unit: str) -> Mean:
    """Return the mean R of the values of the chosen items, which are from ``low`` to 1, as a mean over all items.

    To first order, that is the mean of R + (value - R) / c for the chosen items, with c their share, and of R for the
    others.
    """
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
