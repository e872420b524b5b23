"""Bootstrap intervals: against scipy's, their coverage in a simulation, and what they need of memory."""

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from eval import bootstrap
from eval.bootstrap import FEW, Statistic, by_cell, interval, mean_of, ratio_of, resample


@pytest.mark.parametrize("items", [50, FEW, 4 * FEW])
def test_intervals_are_scipys(items: int) -> None:
    rng = np.random.default_rng(items)
    values = rng.exponential(size=items)
    expected = stats.bootstrap((values,), np.mean, n_resamples=9_999, method="percentile", rng=rng).confidence_interval
    statistic = mean_of("mean", values)
    found = interval(statistic.point, resample([statistic], rng, resamples=9_999)["mean"])
    assert found.point == pytest.approx(values.mean())
    # From 9,999 resamples, an end is known to 2.7 % of the standard error: four times what two of them are off.
    tolerance = 0.15 * values.std() / np.sqrt(items)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=tolerance)


@pytest.mark.parametrize("few", [FEW, 0], ids=["with replacement", "Poisson"])
def test_intervals_of_a_paired_difference_cover_what_they_should(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracy of two models that agree mostly: 95 % of the intervals hold the true difference, within 93 to 97 %."""
    monkeypatch.setattr(bootstrap, "FEW", few)
    rng = np.random.default_rng(few)
    items, repeats, covered = 200, 1_000, 0
    for _ in range(repeats):
        base = rng.random(items) < 0.7
        changed = rng.random(items) < 0.1
        quantized = np.where(changed, rng.random(items) < 0.4, base)
        # P(right) falls from 0.7 to 0.9 * 0.7 + 0.1 * 0.4.
        delta = mean_of("delta", quantized.astype(float) - base)
        found = interval(delta.point, resample([delta], rng, resamples=400)["delta"])
        covered += found.low <= -0.03 <= found.high
    # Of 1,000 repeats the standard error is 0.7 %.
    assert 0.93 <= covered / repeats <= 0.97


def test_all_statistics_see_the_same_resamples() -> None:
    rng = np.random.default_rng(0)
    for items in (100, 2 * FEW):
        values = rng.normal(size=items)
        base, quantized, delta = (
            mean_of(name, each) for name, each in (("b", values), ("q", values + 2.0), ("d", np.full(items, 2.0)))
        )
        found = resample([base, quantized, delta], rng, resamples=50)
        assert found["q"] - found["b"] == pytest.approx(np.full(50, 2.0), abs=1e-5)
        assert found["d"] == pytest.approx(np.full(50, 2.0), abs=1e-6)


def test_clusters_are_drawn_whole() -> None:
    """Items that repeat each other ten times: intervals are those of the items told once."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=300)
    once = resample([mean_of("m", values)], rng)["m"].std()
    clusters = np.repeat(np.arange(300), 10)
    ten = resample([mean_of("m", np.repeat(values, 10))], rng, clusters=clusters)["m"].std()
    blind = resample([mean_of("m", np.repeat(values, 10))], rng)["m"].std()
    assert ten == pytest.approx(once, rel=0.1)
    assert blind == pytest.approx(once / np.sqrt(10), rel=0.1)


def test_a_ratio_over_nothing_is_nan() -> None:
    statistic = ratio_of("confidence when wrong", np.zeros(10), np.zeros(10))
    assert np.isnan(statistic.point)
    found = interval(statistic.point, resample([statistic], np.random.default_rng(0))[statistic.name])
    assert np.isnan([found.point, found.low, found.high]).all()
    assert ratio_of("r", np.array([1.0, 2.0]), np.array([1.0, 3.0])).point == 0.75


def test_a_seed_gives_the_same_numbers() -> None:
    statistic = mean_of("m", np.arange(3_000, dtype=np.float64))
    first, second = (resample([statistic], np.random.default_rng(5))["m"] for _ in range(2))
    assert (first == second).all()


def test_what_is_wrong_is_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="quantized has 2 items, expected 3"):
        resample([mean_of("base", np.zeros(3)), mean_of("quantized", np.zeros(2))], rng)
    with pytest.raises(ValueError, match="m has no items, expected one or more"):
        resample([mean_of("m", np.zeros(0))], rng)
    with pytest.raises(ValueError, match=r"clusters has shape \(2,\), expected \(3,\)"):
        resample([mean_of("m", np.zeros(3))], rng, clusters=np.zeros(2, np.int64))


def test_draws_are_poisson_numbers_of_mean_one() -> None:
    table = bootstrap._poisson_table()
    assert table.mean() == pytest.approx(1, abs=1e-3)
    assert table.var() == pytest.approx(1, abs=1e-3)


def test_an_interval_is_percentiles() -> None:
    found = interval(0.5, np.linspace(0, 1, 1_001, dtype=np.float64))
    assert found.point == 0.5
    assert found.low == pytest.approx(0.025)
    assert found.high == pytest.approx(0.975)


def test_statistics_of_several_sums() -> None:
    values = np.array([1.0, 2.0, 4.0])
    variance = Statistic(
        "variance",
        3,
        lambda part: np.stack([values[part], values[part] ** 2], axis=1),
        lambda sums, n: sums[:, 1] / n - (sums[:, 0] / n) ** 2,
    )
    assert variance.point == pytest.approx(values.var())


def test_sums_by_cell() -> None:
    features = by_cell(np.array([0, 2, 2]), 3, [np.ones(3), np.array([5.0, 6.0, 7.0])])
    assert features(slice(0, 3)).sum(axis=0).tolist() == [1, 0, 2, 5, 0, 13]
    assert features(slice(1, 2)).tolist() == [[0, 0, 1, 0, 0, 6]]
