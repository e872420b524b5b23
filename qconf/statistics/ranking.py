"""How well confidence separates right answers from wrong ones, whether or not it is calibrated.

Functions take ``confidence``, the model's confidence in its choice, and ``correct``, whether the choice was right, both
of shape (items,). They raise ValueError as those of ``qconf.statistics.calibration``.
"""

import numpy as np
import numpy.typing as npt
from scipy import special, stats  # type: ignore[import-untyped]

from qconf.statistics.arrays import Floats, Ints, quotient
from qconf.statistics.bootstrap import Features, Statistic, by_cell
from qconf.statistics.calibration import bin_of, checked_pair, equal_mass_edges
from qconf.statistics.intervals import Mean

RANKS = 32
"""Cells of confidence, of equal mass, into which answers are put in resamples of the risk-coverage area."""


def auroc(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> Mean:
    """Chance that a right answer has a larger confidence than a wrong one, ties counting half.

    The area under the ROC curve, by the ranks of Mann & Whitney 1947; NaN where all answers are right, or all wrong. To
    first order it is a mean over items: for a right answer of the share of wrong answers with a lower confidence, for a
    wrong one of the share of right answers with a higher confidence; each less the area, divided by the share of such
    answers, plus the area. DeLong, DeLong & Clarke-Pearson 1988 (Biometrics 44), whose variance this has.
    """
    confident, is_right = checked_pair(confidence, correct)
    items, right = len(is_right), int(is_right.sum())
    rarer = min(right, items - right)
    unit = "right answers" if right < items - right else "wrong answers"
    if not rarer:
        return Mean(np.full(items, np.nan), support=0, unit=unit)
    ranks = stats.rankdata(confident)
    placed = np.empty(items)
    placed[is_right] = (ranks[is_right] - stats.rankdata(confident[is_right])) / (items - right)
    placed[~is_right] = 1 - (ranks[~is_right] - stats.rankdata(confident[~is_right])) / right
    area = float(placed[is_right].mean())
    share = np.where(is_right, right, items - right) / items
    return Mean(
        area + (placed - area) / share,
        area - area * items / rarer,
        area + (1 - area) * items / rarer,
        support=rarer,
        unit=unit,
    )


def risk_coverage_area(confidence: npt.ArrayLike, correct: npt.ArrayLike) -> Statistic:
    """Mean over k of the share of errors among the k most confident answers: less is better.

    The area under the risk-coverage curve. Geifman et al. 2019 (arXiv 1805.08206). Among answers with the same
    confidence, errors are spread evenly, as they are on average over all orders. In resamples, so are those of answers
    in one of 32 cells of equal mass.
    """
    confident, right = checked_pair(confidence, correct)
    values = [np.ones(len(right)), (~right).astype(np.float64)]

    def of_cells(cells: Ints) -> Features:
        return by_cell(cells, int(cells.max()) + 1, values)

    coarse = RANKS - 1 - bin_of(confident, equal_mass_edges(confident, RANKS))
    # np.unique sorts upwards; negated, the most confident come first.
    finest = np.unique(-confident, return_inverse=True)[1]
    return Statistic(of_cells(coarse), _mean_risk, of_cells(finest))


def _mean_risk(sums: Floats, items: Floats) -> Floats:
    """Return the area from answers and errors of cells, the most confident first.

    After N answers with E errors, a cell of m answers with the share r of errors adds the sum over j = 1 ... m of
    (E + j r) / (N + j), which is r m + (E - r N) (H(N + m) - H(N)) with harmonic numbers H(n) = digamma(n + 1) - H0.
    """
    count, errors = np.split(sums, 2, axis=1)
    answers_before, errors_before = np.cumsum(count, axis=1) - count, np.cumsum(errors, axis=1) - errors
    harmonic = special.digamma(answers_before + count + 1) - special.digamma(answers_before + 1)
    risks = errors + (errors_before - quotient(errors, count) * answers_before) * harmonic
    return np.asarray(risks.sum(axis=1) / items)
