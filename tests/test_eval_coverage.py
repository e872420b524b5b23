"""Simulated runs: intervals contain the true value, and rules pass wrongly no more often than their level."""

import pytest
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.coverage import LIMITS, Limit, coverage, limits_of_answers, of_answers, of_windows, wrong_passes

# A bound may miss in 2.5 % of runs, and by its approximations in 3 %. Of some 1,000 numbers that are looked at here,
# none should exceed what chance makes of that once in 100,000.
MOST = 0.03
CHANCE = 1 - 1e-5


def allowed(runs: int) -> float:
    return float(stats.binom.ppf(CHANCE, runs, MOST))


@pytest.mark.parametrize(
    ("pair", "items", "runs"),
    [
        ("calibrated", 20, 120),
        ("calibrated", 300, 120),
        ("base miscalibrated", 300, 80),
        ("quantized miscalibrated", 2_000, 60),
        ("both miscalibrated", 300, 80),
        ("rare events", 50, 120),
        ("rare events", 300, 80),
        ("ties", 300, 80),
        ("saturated", 50, 120),
        ("clusters of 5", 500, 80),
    ],
)
def test_each_bound_holds_the_truth(pair: str, items: int, runs: int) -> None:
    for name, misses in coverage(pair, items, runs).items():
        assert misses.above <= allowed(runs), name
        assert misses.below <= allowed(runs), name


@pytest.mark.parametrize(("windows", "heavy"), [(10, 1.0), (30, 2.0)])
def test_means_and_quantiles_over_windows_hold_the_truth(windows: int, heavy: float) -> None:
    for name, misses in of_windows(windows, heavy, 200).items():
        assert misses.above <= allowed(200), name
        assert misses.below <= allowed(200), name


@pytest.mark.parametrize("items", [50, 300])
@pytest.mark.parametrize("name", ["alike", "apart"])
def test_bounds_of_generated_answers_hold_the_truth(name: str, items: int) -> None:
    for statistic, misses in of_answers(name, items, 150).items():
        assert misses.above <= allowed(150), statistic
        assert misses.below <= allowed(150), statistic


def test_rules_on_generated_answers_at_their_limit_hardly_ever_pass() -> None:
    for limit in limits_of_answers():
        for items, runs in ((50, 200), (300, 200)):
            assert wrong_passes(limit, items, runs) * runs <= allowed(runs), (limit.rule, limit.note, items)


def test_spreads_of_calibration_errors_do_not_hold_it() -> None:
    """Why a rule cannot be judged by them: that would be a bound that misses in most runs."""
    found = coverage("calibrated", 300, 40, spread=True)
    assert found["quantized ece"].above > 20
    assert found["quantized smooth_ece"].above + found["quantized ace"].above > 20


@pytest.mark.parametrize("limit", LIMITS, ids=[f"{each.rule.statistic}, {each.note}" for each in LIMITS])
def test_a_rule_at_its_limit_hardly_ever_passes(limit: Limit) -> None:
    for items in (20, 300):
        runs = 600
        assert wrong_passes(limit, items, runs) * runs <= allowed(runs), items


def test_a_rule_well_within_its_limit_passes() -> None:
    """A rule that is always inconclusive would be safe and useless."""
    flips = next(each for each in LIMITS if each.rule.statistic == "flips")
    loose = Limit(flips.rule.model_copy(update={"at_most": 0.06}), "", flips.sample)
    assert wrong_passes(loose, 300, 100) > 0.9
