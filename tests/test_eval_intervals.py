"""Intervals against scipy's, published figures, loops over the formulas, and weights drawn at random."""

import math

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]
from sklearn.metrics import brier_score_loss, roc_auc_score  # type: ignore[import-untyped]

from benchmarks.coverage import tango
from benchmarks.populations import PAIRS, draw
from eval.analysis.model_metrics import Estimate, estimates
from qconf.statistics import calibration, intervals
from qconf.statistics.arrays import Floats
from qconf.statistics.intervals import EXACT, Mean, Proportion, clopper_pearson, effective_items, grouped, upper_bound
from qconf.statistics.squared_error import SquaredError


def ends(estimate: Estimate, clusters: object = None) -> tuple[float, float]:
    found = estimate.interval(None if clusters is None else np.asarray(clusters))
    return found.low, found.high


@pytest.mark.parametrize(("hits", "items"), [(0, 3), (0, 20), (1, 20), (20, 20), (6, 300), (150, 300), (3, 20_000)])
def test_shares_have_scipys_exact_interval(hits: int, items: int) -> None:
    expected = stats.binomtest(hits, items).proportion_ci(0.95, method="exact")
    assert ends(Proportion(np.arange(items) < hits)) == pytest.approx((expected.low, expected.high), rel=1e-9)


@pytest.mark.parametrize(("hits", "items"), [(0, 3), (1, 20), (19, 20), (6, 300), (150, 300), (3, 20_000)])
def test_a_mean_of_zeros_and_ones_is_a_share(hits: int, items: int) -> None:
    """The bound is the exact one then; how far its saddlepoint approximation is off shows here."""
    low, high = ends(Mean((np.arange(items) < hits).astype(float), 0.0, 1.0))
    expected = clopper_pearson(hits / items, items, items)
    width = expected[1] - expected[0]
    assert (low, high) == pytest.approx(expected, abs=0.006 * width)


@pytest.mark.parametrize("items", [10, 200])
@pytest.mark.parametrize("shape", ["lognormal", "beta", "constant", "differences"])
def test_the_bound_is_the_quantile_over_random_weights(items: int, shape: str) -> None:
    """Gaffke's definition: weights from a Dirichlet distribution, one for each value and one for the largest."""
    rng = np.random.default_rng(items)
    values, end = {
        "lognormal": (rng.lognormal(0, 1, items), 50.0),
        "beta": (rng.beta(2, 5, items), 1.0),
        "constant": (np.full(items, 0.25), 1.0),
        "differences": (rng.choice([-1.0, 0.0, 1.0], items, p=[0.1, 0.85, 0.05]), 1.0),
    }[shape]
    weights = rng.exponential(size=(40_000, items + 1))
    drawn = (weights @ np.append(values, end)) / weights.sum(axis=1)
    found = upper_bound(values, np.ones(items), end)
    # The share of draws below is known to 0.08 %; the approximation may be off by as much again.
    assert np.mean(drawn <= found) == pytest.approx(0.975, abs=0.0035)


def test_weights_may_have_any_shape() -> None:
    """Gamma weights of shape 3 are three values that are the same."""
    values = np.array([0.1, 0.4, 0.5, 0.9])
    assert upper_bound(values, np.full(4, 3.0), 1.0) == pytest.approx(
        upper_bound(np.repeat(values, 3), np.ones(12), 1.0)
    )


def test_groups_of_many_values_give_the_same_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for values in (rng.beta(2, 5, 20_000), rng.normal(0, 0.01, 20_000), (rng.random(20_000) < 0.001).astype(float)):
        quick = ends(Mean(values, -1.0, 1.0))
        places, counts = grouped(values)
        assert len(places) == EXACT
        assert counts @ places / counts.sum() == pytest.approx(values.mean())
        monkeypatch.setattr(intervals, "EXACT", 10**6)
        exact = ends(Mean(values, -1.0, 1.0))
        monkeypatch.undo()
        assert quick == pytest.approx(exact, abs=1e-3 * (exact[1] - exact[0]))


def test_nothing_that_did_not_vary_has_width_zero() -> None:
    for items in (20, 300):
        for value in (0.0, 0.3, 1.0):
            low, high = ends(Mean(np.full(items, value), 0.0, 1.0))
            assert low <= value <= high
            assert high - low > 0.9 / items
    # Unbounded values that do not vary have no interval.
    assert math.isnan(Mean(np.zeros(100), 0.0, reach=1.0).interval().high)


def test_large_samples_have_the_interval_of_the_normal_distribution() -> None:
    values = np.random.default_rng(1).normal(0.1, 0.2, 20_000)
    arm = 1.96 * values.std() / np.sqrt(len(values))
    assert ends(Mean(values, -1.0, 1.0)) == pytest.approx((values.mean() - arm, values.mean() + arm), abs=0.1 * arm)


def test_unbounded_values_reach_beyond_those_seen() -> None:
    values = np.random.default_rng(2).exponential(size=60)
    top, low = values.max(), values.min()
    reached = upper_bound(values, np.ones(60), top + (top - low))
    assert Mean(values, 0.0, reach=1.0).interval().high == pytest.approx(reached)
    assert Mean(values, 0.0, top + 0.1, reach=1.0).interval().high < reached


@pytest.mark.parametrize(
    ("gained", "lost", "items", "expected"),
    [
        # Bentur et al. 2009, as in Fagerland, Lydersen & Laake 2014 (Statistics in Medicine 33), table VI.
        (1, 7, 21, (-0.517, -0.026)),
        # Without a discordant pair: z^2 / (items + z^2).
        (0, 0, 20, (-0.1611, 0.1611)),
    ],
)
def test_tangos_interval_is_the_published_one(
    gained: int, lost: int, items: int, expected: tuple[float, float]
) -> None:
    assert tango(gained, lost, items) == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize(("gained", "lost", "items"), [(1, 7, 21), (3, 20, 300), (30, 40, 2_000)])
def test_a_difference_of_shares_is_close_to_tangos(gained: int, lost: int, items: int) -> None:
    place = np.arange(items)
    after, before = Proportion(place < gained), Proportion((place >= gained) & (place < gained + lost))
    found, expected = after.less(before), tango(gained, lost, items)
    width = expected[1] - expected[0]
    assert (found.low, found.high) == pytest.approx(expected, abs=0.2 * width)
    # Never narrower: Tango's bounds each miss the truth in more than 2.5 % of some cases.
    assert found.high - found.low > width


def test_items_in_clusters_of_copies_count_once() -> None:
    rng = np.random.default_rng(3)
    values = rng.random(500)
    clusters = np.repeat(np.arange(500), 4)
    once, copies = (ends(each) for each in (Mean(values, 0.0, 1.0), Mean(np.repeat(values, 4), 0.0, 1.0)))
    found = ends(Mean(np.repeat(values, 4), 0.0, 1.0), clusters)
    assert found == pytest.approx(once, abs=0.03 * (once[1] - once[0]))
    assert copies[1] - copies[0] == pytest.approx((once[1] - once[0]) / 2, rel=0.05)
    hits = rng.random(500) < 0.3
    exact = ends(Proportion(hits))
    assert ends(Proportion(np.repeat(hits, 4)), clusters) == pytest.approx(exact, abs=0.03 * (exact[1] - exact[0]))


def test_effective_items_by_a_loop() -> None:
    rng = np.random.default_rng(4)
    clusters = np.sort(rng.integers(12, size=60))
    values = rng.random(60) + clusters / 12
    mean, end = values.mean(), 3.0
    together = [sum(values[i] - mean for i in range(60) if clusters[i] == c) for c in range(12)]
    size = 60 / 12
    effect = (12 / 11 * (sum(t**2 for t in together) + (size * (end - mean)) ** 2)) / (
        60 / 59 * (sum((v - mean) ** 2 for v in values) + size * (end - mean) ** 2)
    )
    expected = 60 / effect * (stats.t.ppf(0.975, 59) / stats.t.ppf(0.975, 11)) ** 2
    assert effective_items(values, end, clusters) == pytest.approx(expected)
    # Nothing seen: each cluster may be of one kind.
    assert effective_items(np.zeros(60), 0.0, clusters) < 12


def test_a_single_cluster_says_nothing() -> None:
    for each in (Mean(np.random.default_rng(0).random(50), 0.0, 1.0), Proportion(np.arange(50) < 10)):
        found = each.interval(np.zeros(50, np.int64))
        assert np.isnan([found.low, found.high]).all()
        assert (found.units, found.unit) == (1, "clusters")


def choices_of(confidence: Floats, correct: object) -> SquaredError:
    return SquaredError(confidence, np.asarray(correct, bool))


def test_the_squared_error_is_the_mean_over_pairs() -> None:
    rng = np.random.default_rng(5)
    confidence = rng.uniform(0.3, 1.0, 90)
    correct = rng.random(90) < confidence - 0.1
    clusters = np.arange(90) // 3
    bins = calibration.bin_of(confidence, calibration.equal_mass_edges(confidence))
    gap = correct - confidence
    for groups in (np.arange(90), clusters):
        expected = 0.0
        for b in range(calibration.BINS):
            inside = np.flatnonzero(bins == b)
            pairs = [gap[i] * gap[j] for i in inside for j in inside if groups[i] != groups[j]]
            expected += len(inside) / 90 * float(np.mean(pairs)) if pairs else 0.0
        found = choices_of(confidence, correct).interval(None if groups is not clusters else clusters)
        assert found.point == pytest.approx(expected)
        assert found.low < found.point < found.high


def test_the_squared_error_has_the_standard_error_of_its_draws() -> None:
    """Far from calibration, where the interval is that of the linear part."""
    rng, drawn, arms = np.random.default_rng(6), [], []
    for _ in range(300):
        confidence = rng.uniform(0.5, 1.0, 500)
        found = choices_of(confidence, rng.random(500) < confidence - 0.25).interval()
        drawn.append(found.point)
        arms.append((found.high - found.low) / 2 / 1.96)
    # 300 draws estimate a standard deviation to 4 %; the interval is slightly too wide.
    assert 0.92 < np.mean(arms) / np.std(drawn) < 1.2
    assert np.mean(drawn) == pytest.approx(0.0625, abs=4 * np.std(drawn) / np.sqrt(300))


def test_a_model_less_itself_is_exactly_0() -> None:
    choices = draw(PAIRS["calibrated"], 200, np.random.default_rng(0))
    for name, each in estimates(choices, choices.base).items():
        assert each.less(each).point == 0, name


def test_estimates_are_their_definitions() -> None:
    choices = draw(PAIRS["ties"], 300, np.random.default_rng(1))
    answers = choices.base
    found = estimates(choices, answers)
    confidence, correct = answers.confidence, answers.correct
    expected = {
        "accuracy": correct.mean(),
        "overconfidence": confidence.mean() - correct.mean(),
        "confidence_right": confidence[correct].mean(),
        "confidence_wrong": confidence[~correct].mean(),
        "auroc": roc_auc_score(correct, confidence),
        "brier": brier_score_loss(choices.labels, answers.shares),
    }
    for name, value in expected.items():
        assert found[name].point == pytest.approx(value), name


def test_auroc_has_delongs_variance() -> None:
    """From placements by the definition: how many of the other kind each answer is above, or below."""
    choices = draw(PAIRS["ties"], 120, np.random.default_rng(2))
    confidence, correct = choices.base.confidence, choices.base.correct
    right, wrong = confidence[correct], confidence[~correct]

    def above(a: float, b: float) -> float:
        return (a > b) + (a == b) / 2

    of_right = [np.mean([above(a, b) for b in wrong]) for a in right]
    of_wrong = [np.mean([above(a, b) for a in right]) for b in wrong]
    variance = np.var(of_right) / len(right) + np.var(of_wrong) / len(wrong)
    estimate = estimates(choices, choices.base)["auroc"]
    assert isinstance(estimate, Mean)
    assert estimate.values.var() / 120 == pytest.approx(variance)
    assert estimate.support == min(len(right), len(wrong))


def test_without_wrong_answers_there_is_nothing_to_say_of_them() -> None:
    choices = draw(PAIRS["calibrated"], 50, np.random.default_rng(3))
    answers = type(choices.base)(choices.base_logprobs, choices.base.choice)
    for name in ("confidence_wrong", "auroc"):
        found = estimates(choices, answers)[name].interval()
        assert math.isnan(found.point)
        assert (found.units, found.unit, found.least) == (0, "wrong answers", 20)


def test_a_mapped_interval_has_mapped_ends() -> None:
    found = Mean(np.random.default_rng(7).random(100), 0.0, 1.0).interval()
    rooted = found.mapped(math.sqrt)
    assert (rooted.point, rooted.low, rooted.high) == (
        math.sqrt(found.point),
        math.sqrt(found.low),
        math.sqrt(found.high),
    )
    assert found.grown is not None
    assert rooted.grown is not None
    assert rooted.grown(4.0) == tuple(map(math.sqrt, found.grown(4.0)))


def test_grown_ends_are_those_of_as_many_more_items() -> None:
    values = np.random.default_rng(8).random(100)
    found, more = (Mean(each, 0.0, 1.0).interval() for each in (values, np.repeat(values, 5)))
    assert found.grown is not None
    assert found.grown(5.0) == pytest.approx((more.low, more.high), rel=1e-6)
    clean, cleaner = (Proportion(np.zeros(each, bool)).interval() for each in (100, 300))
    assert clean.grown is not None
    assert clean.grown(3.0) == (cleaner.low, cleaner.high)
