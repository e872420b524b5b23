"""The bootstrap: spreads against scipy's, and what is drawn."""

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from qconf.statistics import bootstrap
from qconf.statistics.bootstrap import FEW, Statistic, by_cell, mean_of, resample, spread


@pytest.mark.parametrize("items", [50, FEW, 4 * FEW])
def test_spreads_are_scipys_percentile_intervals(items: int) -> None:
    rng = np.random.default_rng(items)
    values = rng.exponential(size=items)
    expected = stats.bootstrap((values,), np.mean, n_resamples=9_999, method="percentile", rng=rng).confidence_interval
    statistic = mean_of("mean", values)
    found = spread(statistic.point, resample([statistic], rng, resamples=9_999)["mean"], items)
    assert found.point == pytest.approx(values.mean())
    # From 9,999 resamples, an end is known to 2.7 % of the standard error: four times what two of them are off.
    tolerance = 0.15 * values.std() / np.sqrt(items)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=tolerance)


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


def test_a_spread_is_percentiles() -> None:
    found = spread(0.5, np.linspace(0, 1, 1_001, dtype=np.float64), 30)
    assert (found.kind, found.units) == ("spread", 30)
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
