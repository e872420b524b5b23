"""The significance tests against scipy, brute force and textbook examples, and their sizes where nothing differs."""

import math
from collections.abc import Callable
from fractions import Fraction
from itertools import combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats  # type: ignore[import-untyped]

from qconf.statistics.significance import cochran_armitage, holm, mcnemar, paired_t, spearman_trend, wilcoxon

# Two summation orders in float64: some 1e-15 per term, of which there are hundreds at most.
EXACT = 1e-10

# The share of rejections among 2,000 data sets has standard error sqrt(0.05 * 0.95 / 2000) = 0.005 if the size is 0.05:
# a right test is beyond either bound, three standard errors away, about once in 370 seeds, and the seeds are fixed.
REPEATS, LOWEST, HIGHEST = 2_000, 0.035, 0.065

NAN, INF = math.nan, math.inf


def discordant(b: int, c: int, both: int = 0) -> tuple[list[bool], list[bool]]:
    return [True] * b + [False] * c + [True] * both, [False] * b + [True] * c + [True] * both


def confidences(seed: int, items: int, digits: int = 17) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return confidences of two similar models; few digits make ties and zeros."""
    rng = np.random.default_rng(seed)
    base = rng.random(items)
    return base.round(digits), np.clip(base + rng.normal(-0.02, 0.1, items), 0, 1).round(digits)


def rejections(p_value: Callable[[np.random.Generator], float]) -> float:
    rng = np.random.default_rng(1)
    return float(np.mean([p_value(rng) < 0.05 for _ in range(REPEATS)]))


@pytest.mark.parametrize(("b", "c"), [(0, 1), (1, 0), (3, 3), (2, 10), (12, 5), (0, 30), (40, 41)])
def test_mcnemar_against_exact_fractions_and_scipy(b: int, c: int) -> None:
    n = b + c
    tail = sum(Fraction(math.comb(n, k), 2**n) for k in range(min(b, c) + 1))
    result = mcnemar(*discordant(b, c, both=5))
    assert (result.b, result.c) == (b, c)
    assert result.p_value == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=EXACT)
    assert result.p_value == pytest.approx(stats.binomtest(b, n).pvalue, rel=EXACT)


def test_mcnemar_of_equal_models_is_one() -> None:
    result = mcnemar([True, False, True], [True, False, True])
    assert (result.b, result.c, result.p_value) == (0, 0, 1.0)


def test_mcnemar_takes_zeros_and_ones() -> None:
    assert mcnemar(np.array([1, 1, 0]), np.array([0.0, 1.0, 1.0])) == mcnemar([True, True, False], [False, True, True])


def test_mcnemar_is_conservative() -> None:
    """Its exact size, by summing over all outcomes, is never above the level."""
    for n in range(1, 31):
        p_values = np.array([mcnemar(*discordant(b, n - b)).p_value for b in range(n + 1)])
        chances = np.array([math.comb(n, b) / 2**n for b in range(n + 1)])
        for level in (0.01, 0.05, 0.2):
            assert chances[p_values <= level].sum() <= level


@pytest.mark.parametrize("items", [2, 3, 10, 500])
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_paired_t_against_scipy(items: int, scale: float) -> None:
    base, quantized = (each * scale for each in confidences(items, items))
    result = paired_t(base, quantized)
    expected = stats.ttest_rel(quantized, base)
    assert result.statistic == pytest.approx(expected.statistic, rel=EXACT)
    assert result.p_value == pytest.approx(expected.pvalue, rel=EXACT)
    assert result.effect == pytest.approx(np.mean(quantized - base) / np.std(quantized - base, ddof=1), rel=EXACT)


def test_paired_t_by_hand() -> None:
    """Differences -1, -2, -3: mean -2, standard deviation 1, and p = 1 - t / sqrt(t^2 + 2) with 2 degrees."""
    result = paired_t([5, 5, 5], [4, 3, 2])
    assert (result.effect, result.statistic) == pytest.approx((-2, -2 * math.sqrt(3)))
    assert result.p_value == pytest.approx(1 - math.sqrt(12 / 14))


def test_paired_t_of_equal_differences() -> None:
    assert paired_t([0.1, 0.7], [0.1, 0.7]) == paired_t([0.5] * 9, [0.5] * 9)
    zero = paired_t([0.1, 0.7], [0.1, 0.7])
    assert (zero.statistic, zero.p_value, zero.effect) == (0.0, 1.0, 0.0)
    lower = paired_t([0.0] * 3, [-0.1] * 3)
    assert (lower.statistic, lower.p_value, lower.effect) == (-INF, 0.0, -INF)
    higher = paired_t([0.0] * 3, [0.1] * 3)
    assert (higher.statistic, higher.p_value, higher.effect) == (INF, 0.0, INF)


def test_paired_t_survives_numbers_whose_squares_do_not() -> None:
    base, quantized = confidences(0, 20)
    assert paired_t(base * 1e-200, quantized * 1e-200).p_value == pytest.approx(paired_t(base, quantized).p_value)


def test_paired_t_has_its_size() -> None:
    share = rejections(lambda rng: paired_t(rng.random(50), rng.random(50)).p_value)
    assert LOWEST < share < HIGHEST


def rank_sums(differences: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return W+ and W-; ranks come from counting, so that ties get their mean rank."""
    sizes = np.abs(differences[differences != 0])
    ranks = (sizes[:, None] > sizes).sum(1) + ((sizes[:, None] == sizes).sum(1) + 1) / 2
    positive = differences[differences != 0] > 0
    return float(ranks[positive].sum()), float(ranks[~positive].sum())


@pytest.mark.parametrize("items", [1, 2, 5, 9])
def test_wilcoxon_of_few_against_all_patterns_of_signs(items: int) -> None:
    base, quantized = confidences(items, items)
    sums = rank_sums(quantized - base)
    smaller = [min(rank_sums(np.array(signs) * (quantized - base))) for signs in product((-1, 1), repeat=items)]
    result = wilcoxon([*base, 0.5], [*quantized, 0.5])
    assert result.statistic == min(sums)
    assert result.p_value == pytest.approx(np.mean(np.array(smaller) <= min(sums)), rel=EXACT)
    assert result.effect == pytest.approx((sums[0] - sums[1]) / sum(sums), rel=EXACT)


@pytest.mark.parametrize(("items", "digits"), [(52, 17), (400, 17), (15, 1), (400, 2)])
def test_wilcoxon_of_many_or_tied_against_the_normal_approximation(items: int, digits: int) -> None:
    differences = np.subtract(*confidences(items, items, digits)).round(digits)
    differences = np.where(np.arange(items) == 0, 0, differences)
    rest = differences[differences != 0]
    n = len(rest)
    ties = np.unique(np.abs(rest), return_counts=True)[1]
    higher, lower = rank_sums(differences)
    variance = n * (n + 1) * (2 * n + 1) / 24 - (ties**3 - ties).sum() / 48
    z = (min(higher, lower) - n * (n + 1) / 4) / math.sqrt(variance)
    result = wilcoxon(np.zeros(items), differences)
    assert (ties.max() > 1) == (digits < 17)
    assert result.statistic == min(higher, lower)
    assert result.p_value == pytest.approx(2 * stats.norm.cdf(z), rel=EXACT)
    assert result.effect == pytest.approx((higher - lower) / (higher + lower), rel=EXACT)


@pytest.mark.parametrize(("items", "method"), [(50, "exact"), (51, "asymptotic")])
def test_wilcoxon_is_exact_for_up_to_fifty_differences(items: int, method: str) -> None:
    base, quantized = confidences(4, items)
    assert (base != quantized).all()
    assert wilcoxon(base, quantized).p_value == stats.wilcoxon(quantized, base, method=method).pvalue


def test_wilcoxon_of_equal_models() -> None:
    result = wilcoxon([0.1, 0.7], [0.1, 0.7])
    assert (result.statistic, result.p_value, result.effect) == (0.0, 1.0, 0.0)


def test_wilcoxon_effect_is_one_where_all_differences_have_one_sign() -> None:
    assert wilcoxon([0.1, 0.2, 0.3], [0.2, 0.4, 0.6]).effect == 1
    assert wilcoxon([0.2, 0.4, 0.6], [0.1, 0.2, 0.3]).effect == -1


@pytest.mark.parametrize("digits", [17, 1])
def test_wilcoxon_has_its_size(digits: int) -> None:
    share = rejections(lambda rng: wilcoxon(np.zeros(40), rng.uniform(-1, 1, 40).round(digits)).p_value)
    assert LOWEST < share < HIGHEST


def closed_bonferroni(p_values: list[float]) -> list[float]:
    """Compute Holm's method as a closed test, its definition: the largest Bonferroni p of all sets with the test."""
    tests = range(len(p_values))
    sets = [chosen for size in range(1, len(p_values) + 1) for chosen in combinations(tests, size)]
    return [
        max(min(1.0, len(chosen) * min(p_values[i] for i in chosen)) for chosen in sets if test in chosen)
        for test in tests
    ]


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.2, 0.6, 0.5]) == pytest.approx([0.6, 1.0, 1.0])
    assert holm([0.3]).tolist() == [0.3]
    assert holm([0, 1, 0.5]).tolist() == [0, 1, 1]
    assert holm([]).shape == (0,)


@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.5, 1.0]), min_size=1, max_size=7))
@settings(deadline=None, derandomize=True)
def test_holm_against_closed_testing(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert adjusted == pytest.approx(closed_bonferroni(p_values), rel=EXACT)
    assert (adjusted >= p_values).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()
    assert holm(p_values[::-1]).tolist() == adjusted[::-1].tolist()


def test_holm_keeps_the_familywise_error() -> None:
    """Of five tests of nothing, the chance of any rejection is 1 - (1 - 0.05 / 5)^5 = 0.049."""
    share = rejections(lambda rng: holm(rng.random(5)).min())
    assert LOWEST < share < HIGHEST


def test_cochran_armitage_on_agrestis_example() -> None:
    """Malformations by the mother's drinks per day, Agresti (2013), section 5.3.5: z^2 = 6.57, p = 0.010."""
    result = cochran_armitage([48, 38, 5, 1, 1], [17114, 14502, 793, 127, 38], [0, 0.5, 1.5, 4, 7])
    assert result.statistic**2 == pytest.approx(6.57, abs=0.005)
    assert result.p_value == pytest.approx(0.0104, abs=0.00005)
    assert result.statistic > 0


@pytest.mark.parametrize("scores", [None, [0.05, 0.2, 0.5, 0.6, 0.99], [3, 2, 1, 0, -1]])
@pytest.mark.parametrize("most", [2, 10, 300])
def test_cochran_armitage_against_the_correlation_over_items(scores: list[float] | None, most: int) -> None:
    """z^2 is the linear-by-linear chi-square with N in place of N - 1: N r^2."""
    rng = np.random.default_rng(most)
    totals = np.array([most, 0, *rng.integers(1, most, 3, endpoint=True)])
    successes = rng.integers(0, totals, endpoint=True)
    places = np.repeat(range(5) if scores is None else scores, totals)
    outcomes = np.concatenate([np.arange(n) < x for x, n in zip(successes, totals, strict=True)])
    r = np.corrcoef(places, outcomes)[0, 1]
    result = cochran_armitage(successes, totals, scores)
    assert result.statistic == pytest.approx(math.sqrt(len(outcomes)) * r, rel=EXACT)
    assert result.p_value == pytest.approx(stats.chi2.sf(len(outcomes) * r**2, 1), rel=EXACT)


def test_cochran_armitage_of_two_buckets_is_the_test_of_two_proportions() -> None:
    result = cochran_armitage([30, 18], [50, 60])
    table = np.array([[30, 20], [18, 42]])
    assert result.statistic**2 == pytest.approx(stats.chi2_contingency(table, correction=False).statistic, rel=EXACT)
    assert result.statistic < 0


@pytest.mark.parametrize(
    ("successes", "totals", "scores"),
    [
        ([0, 0, 0], [5, 6, 7], None),
        ([5, 6, 7], [5, 6, 7], None),
        ([0, 3, 0], [0, 6, 0], None),
        ([3], [6], None),
        ([1, 3], [6, 6], [0.1, 0.1]),
    ],
)
def test_cochran_armitage_where_nothing_varies(successes: list[int], totals: list[int], scores: list[float]) -> None:
    result = cochran_armitage(successes, totals, scores)
    assert (result.statistic, result.p_value) == (0.0, 1.0)


def test_cochran_armitage_has_its_size() -> None:
    totals = np.array([80, 100, 120, 100, 90])
    share = rejections(lambda rng: cochran_armitage(rng.binomial(totals, 0.3), totals).p_value)
    assert LOWEST < share < HIGHEST


@pytest.mark.parametrize(("items", "digits"), [(4, 17), (10, 17), (200, 17), (30, 1), (200, 1)])
def test_spearman_trend_against_scipy_and_the_formula(items: int, digits: int) -> None:
    x, y = confidences(items, items, digits)
    y = y + np.random.default_rng(1).random(items).round(digits)
    result = spearman_trend(x, y)
    expected = stats.spearmanr(x, y)
    assert result.statistic == pytest.approx(expected.statistic, rel=EXACT)
    assert result.p_value == pytest.approx(expected.pvalue, rel=EXACT)
    r = np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1]
    assert result.statistic == pytest.approx(r, rel=EXACT)
    assert result.p_value == pytest.approx(2 * stats.t.sf(abs(r) * math.sqrt((items - 2) / (1 - r**2)), items - 2))


def test_spearman_trend_of_a_monotone_relation() -> None:
    x = np.linspace(0.1, 1, 30)
    assert spearman_trend(x, np.exp(x)).statistic == pytest.approx(1)
    assert spearman_trend(x, -np.log(x)).statistic == pytest.approx(-1)
    # As the docstring warns: exactly, two in six orders of three items are as extreme.
    assert spearman_trend([1, 2, 3], [2, 4, 9]).p_value == 0


def test_spearman_trend_of_constants() -> None:
    for x, y in (([1, 1, 1], [1, 2, 3]), ([1, 2, 3], [7, 7, 7]), ([0.1] * 5, [0.1] * 5)):
        result = spearman_trend(x, y)
        assert (result.statistic, result.p_value) == (0.0, 1.0)


def test_spearman_trend_has_its_size() -> None:
    share = rejections(lambda rng: spearman_trend(rng.random(30), rng.random(30)).p_value)
    assert LOWEST < share < HIGHEST


# Multiples of 1/1024 are exact in float64, so that equal differences are equal and sums do not depend on the order.
numbers = st.integers(0, 1024).map(lambda value: value / 1024)
paired = st.lists(st.tuples(numbers, numbers), min_size=3, max_size=60)


@given(paired, st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True)
def test_swapping_the_models_negates_and_the_order_of_items_does_not_matter(
    pairs: list[tuple[float, float]], random: Any
) -> None:
    base, quantized = np.array(pairs).T
    shuffled_base, shuffled_quantized = np.array(random.sample(pairs, len(pairs))).T

    t, swapped = paired_t(base, quantized), paired_t(quantized, base)
    assert (swapped.statistic, swapped.p_value, swapped.effect) == (-t.statistic, t.p_value, -t.effect)
    shuffled = paired_t(shuffled_base, shuffled_quantized)
    assert (shuffled.statistic, shuffled.p_value) == pytest.approx((t.statistic, t.p_value), rel=EXACT, abs=EXACT)

    w, swapped = wilcoxon(base, quantized), wilcoxon(quantized, base)
    assert (swapped.statistic, swapped.effect) == (w.statistic, -w.effect)
    assert swapped.p_value == pytest.approx(w.p_value, rel=EXACT)
    assert wilcoxon(shuffled_base, shuffled_quantized) == w

    m, exchanged = mcnemar(base > 0.5, quantized > 0.5), mcnemar(quantized > 0.5, base > 0.5)
    assert (exchanged.b, exchanged.c, exchanged.p_value) == (m.c, m.b, m.p_value)
    assert mcnemar(shuffled_base > 0.5, shuffled_quantized > 0.5) == m

    trend, mirrored = spearman_trend(base, quantized), spearman_trend(base, -quantized)
    assert mirrored.statistic == pytest.approx(-trend.statistic, abs=EXACT)
    # Of three items in order, p is 0 for a correlation of 1, and 1e-8 for one that rounding made less by one bit.
    assert mirrored.p_value == pytest.approx(trend.p_value, abs=1e-7)
    assert spearman_trend(shuffled_base, shuffled_quantized).statistic == pytest.approx(trend.statistic, abs=EXACT)


buckets = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8).filter(
    lambda pairs: any(sum(pair) for pair in pairs)
)


@given(buckets)
@settings(deadline=None, derandomize=True)
def test_the_trend_of_failures_or_of_reversed_buckets_is_the_opposite(pairs: list[tuple[int, int]]) -> None:
    successes, failures = np.array(pairs).T
    totals = successes + failures
    result = cochran_armitage(successes, totals)
    for opposite in (cochran_armitage(failures, totals), cochran_armitage(successes[::-1], totals[::-1])):
        assert opposite.statistic == pytest.approx(-result.statistic, abs=EXACT)
        assert opposite.p_value == pytest.approx(result.p_value, abs=EXACT)
    rescaled = cochran_armitage(successes, totals, 3 + 0.5 * np.arange(len(totals)))
    assert rescaled.statistic == pytest.approx(result.statistic, abs=EXACT)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mcnemar([1, 2], [0, 1]), "base_correct[1] is 2.0, expected true or false"),
        (lambda: mcnemar([1, 0], [0.5, 1]), "quantized_correct[0] is 0.5, expected true or false"),
        (lambda: mcnemar([], []), "base_correct has length 0, expected 1 or more"),
        (lambda: mcnemar([True], [True, False]), "quantized_correct has length 2, expected 1, that of base_correct"),
        (lambda: mcnemar([[True]], [True]), "base_correct has shape (1, 1), expected one dimension"),
        (lambda: mcnemar(["yes"], [True]), "base_correct has dtype <U3, expected numbers"),
        (lambda: mcnemar([True, NAN], [True, True]), "base_correct[1] is nan, expected a finite number"),
        (lambda: paired_t([0.1], [0.2]), "base has length 1, expected 2 or more"),
        (lambda: paired_t([0.1, 0.2], [0.2]), "quantized has length 1, expected 2, that of base"),
        (lambda: paired_t([0.1, 0.2], [0.2, NAN]), "quantized[1] is nan, expected a finite number"),
        (lambda: paired_t(0.1, 0.2), "base has shape (), expected one dimension"),
        (lambda: wilcoxon([], []), "base has length 0, expected 1 or more"),
        (lambda: wilcoxon([INF], [0.5]), "base[0] is inf, expected a finite number"),
        (lambda: wilcoxon([0.5, 0.5], [0.5]), "quantized has length 1, expected 2, that of base"),
        (lambda: wilcoxon([0.5], np.array([None])), "quantized has dtype object, expected numbers"),
        (lambda: holm([0.1, 0.2, 0.3, NAN]), "p_values[3] is nan, expected a finite number"),
        (lambda: holm([0.1, -0.2]), "p_values[1] is -0.2, expected a number from 0 to 1"),
        (lambda: holm([1.0000001]), "p_values[0] is 1.0000001, expected a number from 0 to 1"),
        (lambda: holm([[0.1]]), "p_values has shape (1, 1), expected one dimension"),
        (lambda: cochran_armitage([-1, 1], [2, 2]), "successes[0] is -1.0, expected a count"),
        (lambda: cochran_armitage([1, 1.5], [2, 2]), "successes[1] is 1.5, expected a count"),
        (lambda: cochran_armitage([1, 1], [2, -2]), "totals[1] is -2.0, expected a count"),
        (lambda: cochran_armitage([1, 3], [2, 2]), "successes[1] is 3.0, expected no more than in totals"),
        (lambda: cochran_armitage([0, 0], [0, 0]), "totals has the sum 0, expected one item or more"),
        (lambda: cochran_armitage([], []), "successes has length 0, expected 1 or more"),
        (lambda: cochran_armitage([1], [2, 2]), "totals has length 2, expected 1, that of successes"),
        (lambda: cochran_armitage([[1]], [[2]]), "successes has shape (1, 1), expected one dimension"),
        (lambda: cochran_armitage([1, 1], [2, 2], [0]), "scores has length 1, expected 2, that of totals"),
        (lambda: cochran_armitage([1, 1], [2, 2], [0, INF]), "scores[1] is inf, expected a finite number"),
        (lambda: spearman_trend([1, 2], [1, 2]), "x has length 2, expected 3 or more"),
        (lambda: spearman_trend([1, 2, 3], [1, 2, -INF]), "y[2] is -inf, expected a finite number"),
        (lambda: spearman_trend([1, 2, 3], [1, 2]), "y has length 2, expected 3, that of x"),
        (lambda: spearman_trend([1, 2, 3], [[1, 2, 3]]), "y has shape (1, 3), expected one dimension"),
    ],
)
def test_wrong_input_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert str(caught.value) == message
