"""Tests of whether the two models differ: paired, on the same items.

Differences are quantized less base, so that what quantization lowered has a negative sign. All p-values are two-sided
and of one test each; ``holm`` adjusts those of several.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

from qconf.statistics.arrays import Floats, Ints, booleans, probabilities, require, same_length, vector

# Up to here the exact distribution of Wilcoxon's statistic is quick to compute, and scipy's own choice is the same.
_EXACT_ITEMS = 50
_FLIPS, _FLIPPED = 9_999, 2_000


@dataclass(frozen=True, slots=True)
class TrendTest:
    """Result of a test for a trend."""

    statistic: float
    p_value: float


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Result of a test on paired numbers; the effect size is negative where the quantized model's are lower."""

    statistic: float
    p_value: float
    effect: float


@dataclass(frozen=True, slots=True)
class McNemarTest:
    """Discordant items: ``b`` are right under the base model only, ``c`` under the quantized one only."""

    b: int
    c: int
    p_value: float


def mcnemar(base_correct: npt.ArrayLike, quantized_correct: npt.ArrayLike) -> McNemarTest:
    """Exact McNemar test of equal accuracy.

    Under the null hypothesis b is binomial with n = b + c and probability 1/2, and p = min(1, 2 P(B <= min(b, c))); 1
    where n = 0. The test is conservative, since the distribution is discrete. Source: McNemar (1947), "Note on the
    sampling error of the difference between correlated proportions or percentages"; the exact form is in Agresti
    (2013), "Categorical Data Analysis", chapter 11.

    Args:
        base_correct: shape (items,), true or 1 where the base model is right, false or 0 where it is wrong.
        quantized_correct: the same for the quantized model, of the same items in the same order.

    Raises:
        ValueError: a value is neither true nor false, there are no items, or shapes are not the same one dimension.
    """
    base, quantized = booleans(base_correct, "base_correct"), booleans(quantized_correct, "quantized_correct")
    same_length(quantized, "quantized_correct", base, "base_correct")
    b, c = int(np.sum(base > quantized)), int(np.sum(quantized > base))
    if b + c == 0:
        return McNemarTest(b, c, 1.0)
    return McNemarTest(b, c, float(stats.binomtest(min(b, c), b + c, 0.5, alternative="two-sided").pvalue))


def paired_t(base: npt.ArrayLike, quantized: npt.ArrayLike) -> PairedTest:
    """Paired t-test of equal means, used on confidences in the true choice.

    With mean m and standard deviation s (n - 1 in the denominator) of the n differences, the statistic is m sqrt(n) / s
    with n - 1 degrees of freedom, and the effect Cohen's d_z = m / s. Where all differences are zero, the statistic is
    0, p 1 and the effect 0; where they are all the same other number, statistic and effect are infinite with its sign
    and p is 0. Source: Proskurina et al. (2024), arXiv 2405.00632; for d_z Lakens (2013), "Calculating and reporting
    effect sizes to facilitate cumulative science".

    Args:
        base: shape (items,), a number per item under the base model.
        quantized: the same for the quantized model, of the same items in the same order.

    Raises:
        ValueError: a value is not finite, there are fewer than two items, or shapes are not the same one dimension.
    """
    before, after = _pair("base", base, "quantized", quantized, at_least=2)
    differences = after - before
    if _constant(differences):
        sign = float(np.sign(differences[0]))
        return PairedTest(sign * math.inf, 0.0, sign * math.inf) if sign else PairedTest(0.0, 1.0, 0.0)
    # The result does not depend on the unit, but squares of the tiny probabilities of long texts would be zero.
    scaled = differences / np.abs(differences).max()
    effect = float(scaled.mean() / scaled.std(ddof=1))
    statistic = effect * math.sqrt(len(scaled))
    return PairedTest(statistic, float(2 * stats.t.sf(abs(statistic), len(scaled) - 1)), effect)


def wilcoxon(base: npt.ArrayLike, quantized: npt.ArrayLike) -> PairedTest:
    """Wilcoxon signed-rank test of differences that are symmetric about zero.

    Differences of zero are dropped, as Wilcoxon did; absolute values of the others are ranked, and ties get their mean
    rank. With W+ and W- the sums of the ranks of positive and negative differences, the statistic is the smaller of
    both and the effect the matched-pairs rank-biserial correlation (W+ - W-) / (W+ + W-). For up to 50 differences
    without ties p is exact; otherwise it comes from the normal approximation with the variance corrected for ties and
    without a correction for continuity, which is poor for fewer than ten or so. Differences tie where they are equal to
    the last bit. Where all are zero, the statistic is 0, p 1 and the effect 0. Source: Wilcoxon (1945), "Individual
    comparisons by ranking methods"; Kerby (2014), "The simple difference formula".

    Args:
        base: shape (items,), a number per item under the base model.
        quantized: the same for the quantized model, of the same items in the same order.

    Raises:
        ValueError: a value is not finite, there are no items, or shapes are not the same one dimension.
    """
    before, after = _pair("base", base, "quantized", quantized, at_least=1)
    differences = (after - before)[after != before]
    if not len(differences):
        return PairedTest(0.0, 1.0, 0.0)
    sizes = np.abs(differences)
    exact = len(sizes) <= _EXACT_ITEMS and len(np.unique(sizes)) == len(sizes)
    result = stats.wilcoxon(
        differences,
        zero_method="wilcox",
        correction=False,
        alternative="two-sided",
        method="exact" if exact else "asymptotic",
    )
    effect = np.sign(differences) @ stats.rankdata(sizes) / (len(sizes) * (len(sizes) + 1) / 2)
    return PairedTest(float(result.statistic), float(result.pvalue), float(effect))


def signed_ranks(differences: Floats) -> Floats:
    """Return the signed ranks of the absolute differences that are not 0; 0 for differences of 0."""
    ranks = np.zeros(len(differences))
    differ = differences != 0
    ranks[differ] = np.sign(differences[differ]) * stats.rankdata(np.abs(differences[differ]))
    return ranks


def sign_flip(values: Floats, clusters: Ints, rng: np.random.Generator) -> float:
    """Return the p-value of the sum of values, such as differences, that are not independent within a cluster.

    If the models do not differ, the sum of each cluster is as likely to have one sign as the other. The p-value is
    (1 + flips whose sum is as far from 0 as the one found) / (1 + flips), over 9,999 random flips of the signs of whole
    clusters; beyond 2,000 clusters, the normal distribution's with the sum of their squares as variance, to which flips
    come close. With ``signed_ranks`` as values it is the clustered signed-rank test. Fisher 1935, "The Design of
    Experiments", section 21; Datta & Satten 2008 (Biometrics 64).

    Args:
        values: shape (items,).
        clusters: shape (items,), numbers from 0 on without gaps.
    """
    sums = np.bincount(clusters, values)
    sums = sums[sums != 0]
    if not len(sums):
        return 1.0
    if len(sums) > _FLIPPED:
        return float(2 * stats.norm.sf(abs(sums.sum()) / math.sqrt(sums @ sums)))
    signs = rng.integers(2, size=(_FLIPS, len(sums)), dtype=np.int8)
    # Rounding must not separate equal sums.
    reached = np.abs(2 * (signs @ sums) - sums.sum()) >= abs(sums.sum()) * (1 - 1e-9)
    return float((1 + reached.sum()) / (1 + _FLIPS))


def holm(p_values: npt.ArrayLike) -> Floats:
    """P-values adjusted by Holm's step-down method, in the order given; none for none.

    With p(1) <= ... <= p(m), the adjusted p(i) is the largest of min(1, (m - j + 1) p(j)) over j <= i. Rejecting those
    of at most alpha keeps the probability of any false rejection at alpha or below, however the tests depend on each
    other. Source: Holm (1979), "A simple sequentially rejective multiple test procedure".

    Args:
        p_values: shape (tests,), each from 0 to 1.

    Raises:
        ValueError: a value is not a number from 0 to 1, or the shape is not one dimension.
    """
    raw = probabilities(p_values, "p_values", at_least=0)
    order = np.argsort(raw)
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(np.maximum.accumulate(np.arange(len(raw), 0, -1) * raw[order]), 1)
    return adjusted


def cochran_armitage(successes: npt.ArrayLike, totals: npt.ArrayLike, scores: npt.ArrayLike | None = None) -> TrendTest:
    """Cochran-Armitage test for a linear trend of a proportion over ordered buckets.

    With x_i successes among the n_i items of bucket i with score s_i, N items in all, the overall proportion p and the
    mean score m over items, z = sum s_i (x_i - n_i p) / sqrt(p (1 - p) sum n_i (s_i - m)^2), compared to the standard
    normal. The variance is that with N and not N - 1, so that z^2 = N r^2 with r the correlation of score and success
    over items. z is positive where the proportion rises with the score. Where nothing varies (no successes, all
    successes, or one score for all items) the statistic is 0 and p 1. Source: Cochran (1954), "Some methods for
    strengthening the common chi-squared tests"; Armitage (1955), "Tests for linear trends in proportions and
    frequencies"; Agresti (2013), "Categorical Data Analysis", section 5.3.5.

    Args:
        successes: shape (buckets,), counts.
        totals: shape (buckets,), counts of items; a bucket may be empty.
        scores: shape (buckets,), the buckets' places on the scale of the trend; 0, 1, 2, ... by default.

    Raises:
        ValueError: a count is negative or not whole, there are more successes than items, there are no items, a score
            is not finite, or shapes are not the same one dimension.
    """
    hits, items = _pair("successes", successes, "totals", totals, at_least=1)
    for name, counts in (("successes", hits), ("totals", items)):
        require(counts, name, (counts >= 0) & (counts == np.floor(counts)), "a count")
    require(hits, "successes", hits <= items, "no more than in totals")
    places = vector(np.arange(len(items)) if scores is None else scores, "scores")
    same_length(places, "scores", items, "totals")
    count = items.sum()
    if count == 0:
        raise ValueError("totals has the sum 0, expected one item or more")
    share = hits.sum() / count
    if share in (0, 1) or _constant(places[items > 0]):
        return TrendTest(0.0, 1.0)
    centred = places - places @ items / count
    z = centred @ (hits - items * share) / np.sqrt(share * (1 - share) * (centred**2 @ items))
    return TrendTest(float(z), float(2 * stats.norm.sf(abs(z))))


def spearman_trend(x: npt.ArrayLike, y: npt.ArrayLike) -> TrendTest:
    """Spearman's rank correlation: does y rise or fall as x rises.

    The statistic is the correlation r of the ranks, ties with their mean rank, and p that of r sqrt((n - 2) / (1 -
    r^2)) in Student's distribution with n - 2 degrees of freedom. That is an approximation, poor for fewer than ten or
    so items: p is 0 for any three in order. Where x or y is constant, the correlation is 0 and p 1. Source: Spearman
    (1904), "The proof and measurement of association between two things"; Kendall and Gibbons (1990), "Rank
    Correlation Methods".

    Args:
        x: shape (items,), such as the base model's confidence.
        y: shape (items,), such as the KL divergence of the same items in the same order.

    Raises:
        ValueError: a value is not finite, there are fewer than three items, or shapes are not the same one dimension.
    """
    first, second = _pair("x", x, "y", y, at_least=3)
    if _constant(first) or _constant(second):
        return TrendTest(0.0, 1.0)
    result = stats.spearmanr(first, second, alternative="two-sided")
    return TrendTest(float(result.statistic), float(result.pvalue))


def _pair(
    name: str, values: npt.ArrayLike, other_name: str, other_values: npt.ArrayLike, *, at_least: int
) -> tuple[Floats, Floats]:
    first, second = vector(values, name, at_least=0), vector(other_values, other_name, at_least=0)
    same_length(second, other_name, first, name)
    return vector(first, name, at_least=at_least), second


def _constant(values: Floats) -> bool:
    return bool(np.all(values == values[0]))
