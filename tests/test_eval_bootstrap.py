"""The bootstrap: spreads against scipy's, and what is drawn."""

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from qconf.statistics import bootstrap
from qconf.statistics.arrays import Floats
from qconf.statistics.bootstrap import FEW, Statistic, by_cell, mean_of, resample, side_by_side, spread


@pytest.mark.parametrize("items", [50, FEW, 4 * FEW])
def test_spreads_are_scipys_percentile_intervals(items: int) -> None:
    rng = np.random.default_rng(items)
    values = rng.exponential(size=items)
    expected = stats.bootstrap((values,), np.mean, n_resamples=9_999, method="percentile", rng=rng).confidence_interval
    statistic = mean_of(values)
    found = spread(statistic.point, resample({"mean": statistic}, rng, resamples=9_999)["mean"], items)
    assert found.point == pytest.approx(values.mean())
    # From 9,999 resamples, an end is known to 2.7 % of the standard error: four times what two of them are off.
    tolerance = 0.15 * values.std() / np.sqrt(items)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=tolerance)


def test_all_statistics_see_the_same_resamples() -> None:
    rng = np.random.default_rng(0)
    for items in (100, 2 * FEW):
        values = rng.normal(size=items)
        means = {"b": mean_of(values), "q": mean_of(values + 2.0), "d": mean_of(np.full(items, 2.0))}
        found = resample(means, rng, resamples=50)
        assert found["q"] - found["b"] == pytest.approx(np.full(50, 2.0), abs=1e-5)
        assert found["d"] == pytest.approx(np.full(50, 2.0), abs=1e-6)


def test_clusters_are_drawn_whole() -> None:
    """Every item occurs ten times: intervals are those of the distinct items."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=300)
    once = resample({"m": mean_of(values)}, rng)["m"].std()
    clusters = np.repeat(np.arange(300), 10)
    ten = resample({"m": mean_of(np.repeat(values, 10))}, rng, clusters=clusters)["m"].std()
    blind = resample({"m": mean_of(np.repeat(values, 10))}, rng)["m"].std()
    assert ten == pytest.approx(once, rel=0.1)
    assert blind == pytest.approx(once / np.sqrt(10), rel=0.1)


def test_a_seed_gives_the_same_numbers() -> None:
    statistic = mean_of(np.arange(3_000, dtype=np.float64))
    first, second = (resample({"m": statistic}, np.random.default_rng(5))["m"] for _ in range(2))
    assert (first == second).all()


def test_what_is_wrong_is_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="quantized has 2 items, expected 3"):
        resample({"base": mean_of(np.zeros(3)), "quantized": mean_of(np.zeros(2))}, rng)
    with pytest.raises(ValueError, match="m has no items, expected one or more"):
        resample({"m": mean_of(np.zeros(0))}, rng)
    with pytest.raises(ValueError, match=r"clusters has shape \(2,\), expected \(3,\)"):
        resample({"m": mean_of(np.zeros(3))}, rng, clusters=np.zeros(2, np.int64))


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
    features = by_cell(np.zeros(3, np.int64), 1, [values, values**2])
    variance = Statistic(features, lambda sums, n: sums[:, 1] / n - (sums[:, 0] / n) ** 2)
    assert variance.point == pytest.approx(values.var())


def test_sums_by_cell() -> None:
    features = by_cell(np.array([0, 2, 2]), 3, [np.ones(3), np.array([5.0, 6.0, 7.0])])
    assert features.sums().tolist() == [1, 0, 2, 5, 0, 13]
    assert features.matrix(slice(0, 3)).sum(axis=0).tolist() == [1, 0, 2, 5, 0, 13]
    assert features.matrix(slice(1, 2)).toarray().tolist() == [[0, 0, 1, 0, 0, 6]]
    both = side_by_side([features, features])
    assert both.matrix(slice(0, 1)).toarray().tolist() == [[1, 0, 0, 5, 0, 0] * 2]


@pytest.mark.parametrize("items", [60, 2 * FEW])
@pytest.mark.parametrize("clustered", [False, True])
def test_resamples_are_what_weights_give_item_by_item(
    items: int, clustered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sparse products, against items repeated as often as they were drawn; in blocks that do not divide them."""
    monkeypatch.setattr(bootstrap, "BLOCK", 700)
    rng = np.random.default_rng(items)
    cells, values = rng.integers(4, size=items), rng.normal(size=items)
    clusters = np.arange(items) // 3 if clustered else None
    keep: list[Floats] = []

    def weights(sums: Floats, items: Floats) -> Floats:
        keep.append(sums)
        return items

    # An item's weight is the sum of a value that only this item has.
    alone = Statistic(by_cell(np.arange(items), items, [np.ones(items)]), weights)
    largest = Statistic(by_cell(cells, 4, [values]), lambda sums, n: np.abs(sums).max(axis=1) / n)
    found = resample({"weights": alone, "largest": largest}, rng, clusters=clusters, resamples=5)["largest"]
    for drawn, value in zip(keep[0].round().astype(int), found, strict=True):
        again = np.repeat(np.arange(items), drawn)
        sums = [values[again][cells[again] == cell].sum() for cell in range(4)]
        assert value == pytest.approx(np.abs(sums).max() / len(again), rel=1e-5)


def test_coarser_cells_are_corrected_by_what_they_change_of_the_point() -> None:
    """Squares of sums by cell, which are not those of coarser cells: as far from the point as they are from theirs."""
    rng = np.random.default_rng(0)
    values, cells = rng.normal(size=200), np.arange(200) % 8

    def of(sums: Floats, items: Floats) -> Floats:
        return np.asarray((sums**2).sum(axis=1) / items)

    coarse, fine = (by_cell(each, 8, [values]) for each in (cells // 4, cells))
    found = resample({"both": Statistic(coarse, of, fine), "coarse": Statistic(coarse, of)}, rng, resamples=20)
    both = Statistic(coarse, of, fine)
    assert both.point == Statistic(fine, of).point != Statistic(coarse, of).point
    assert found["both"] - both.point == pytest.approx(found["coarse"] - Statistic(coarse, of).point)
