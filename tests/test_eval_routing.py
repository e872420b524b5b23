"""Routing against a loop over all thresholds, by hand, and what holds of every curve."""

import dataclasses
import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qconf.statistics.routing import RoutingCurve, at_shares, routing_curve, threshold_for

Floats = npt.NDArray[np.float64]
Booleans = npt.NDArray[np.bool_]
Models = tuple[Floats, Booleans, Booleans]

# Rows of confidence, base right, quantized right. Sent away: nothing, the first, the first three, four, all.
BY_HAND = [(0.3, 1, 0), (0.5, 0, 1), (0.5, 1, 0), (0.8, 1, 0), (0.9, 1, 1)]


def models(rows: list[tuple[float, int, int]]) -> Models:
    confidence, base, quantized = zip(*rows, strict=True)
    return np.array(confidence), np.array(base, dtype=bool), np.array(quantized, dtype=bool)


def brute_force(confidence: Floats, base: Booleans, quantized: Booleans) -> list[tuple[float, float, float]]:
    """Find threshold, share and accuracy by looking at every item for every threshold."""
    points = []
    for threshold in [*sorted(set(confidence.tolist())), math.inf]:
        sent = [each < threshold for each in confidence]
        right = [b if away else q for away, b, q in zip(sent, base, quantized, strict=True)]
        points.append((threshold, float(np.mean(sent)), float(np.mean(right))))
    return points


def check(curve: RoutingCurve, points: list[tuple[float, float, float]]) -> None:
    threshold, share, accuracy = zip(*points, strict=True)
    assert curve.threshold.tolist() == list(threshold)
    assert curve.share == pytest.approx(share, abs=1e-15)
    assert curve.accuracy == pytest.approx(accuracy, abs=1e-15)


def test_a_curve_by_hand() -> None:
    # In another order, which must not matter.
    curve = routing_curve(*models([BY_HAND[at] for at in (3, 1, 4, 0, 2)]))
    check(curve, [(0.3, 0, 0.4), (0.5, 0.2, 0.6), (0.8, 0.6, 0.6), (0.9, 0.8, 0.8), (math.inf, 1, 0.8)])
    assert curve.recovered == pytest.approx([0, 0.5, 0.5, 1, 1])
    assert (curve.base_accuracy, curve.quantized_accuracy) == (0.8, 0.4)


@pytest.mark.parametrize("decimals", [1, 3, 16])
@pytest.mark.parametrize("items", [1, 2, 10, 300])
def test_a_curve_is_that_of_a_loop_over_thresholds(items: int, decimals: int) -> None:
    rng = np.random.default_rng(items)
    confidence = rng.random(items).round(decimals)
    base, quantized = rng.random((2, items)) < [[0.8], [0.6]]
    curve = routing_curve(confidence, base, quantized)
    check(curve, brute_force(confidence, base, quantized))
    lost = curve.base_accuracy - curve.quantized_accuracy
    if lost:
        expected = (curve.accuracy - curve.quantized_accuracy) / lost
        # Divided by what was lost, which is at least one item.
        assert curve.recovered == pytest.approx(expected, abs=1e-15 * items)


def test_equal_confidences_move_together() -> None:
    curve = routing_curve(*models([(1.0, 1, 0), (1.0, 0, 1), (1.0, 1, 0)]))
    check(curve, [(1.0, 0, 1 / 3), (math.inf, 1, 2 / 3)])


def test_one_item() -> None:
    curve = routing_curve(*models([(0.7, 1, 0)]))
    check(curve, [(0.7, 0, 0), (math.inf, 1, 1)])
    assert curve.recovered.tolist() == [0, 1]
    assert threshold_for(curve, 1.0) == (1.0, math.inf)


@pytest.mark.parametrize("rows", [[(0.2, 1, 1), (0.9, 1, 1)], [(0.2, 0, 1), (0.9, 1, 0)]])
def test_where_nothing_was_lost_nothing_is_recovered(rows: list[tuple[float, int, int]]) -> None:
    """Both right everywhere, and each right where the other is not."""
    curve = routing_curve(*models(rows))
    assert curve.base_accuracy == curve.quantized_accuracy
    assert np.isnan(curve.recovered).all()
    assert threshold_for(curve, 0.0) is None


def test_a_quantized_model_that_is_better_gives_its_lead_up() -> None:
    curve = routing_curve(*models([(0.1, 0, 1), (0.2, 1, 1), (0.3, 0, 1)]))
    assert curve.recovered.tolist() == [0, 0.5, 0.5, 1]
    assert curve.accuracy == pytest.approx([1, 2 / 3, 2 / 3, 1 / 3])
    assert threshold_for(curve, 0.5) is None


def test_points_at_shares_are_the_last_ones_that_are_not_above() -> None:
    curve = routing_curve(*models(BY_HAND))
    points = at_shares(curve, [0.6, 0.0, 0.59, 1.0, 0.19, 0.2])
    check(
        points,
        [(0.8, 0.6, 0.6), (0.3, 0, 0.4), (0.5, 0.2, 0.6), (math.inf, 1, 0.8), (0.3, 0, 0.4), (0.5, 0.2, 0.6)],
    )
    assert points.recovered == pytest.approx([0.5, 0, 0.5, 1, 0, 0.5])
    assert (points.base_accuracy, points.quantized_accuracy) == (0.8, 0.4)
    every = at_shares(curve, curve.share)
    for field in dataclasses.fields(RoutingCurve):
        assert np.array_equal(getattr(every, field.name), getattr(curve, field.name))


@pytest.mark.parametrize(
    ("recovered", "expected"),
    [(-1.0, (0, 0.3)), (0.0, (0, 0.3)), (0.1, (0.2, 0.5)), (0.5, (0.2, 0.5)), (0.51, (0.8, 0.9)), (1.0, (0.8, 0.9))],
)
def test_the_threshold_that_recovers_a_part(recovered: float, expected: tuple[float, float]) -> None:
    assert threshold_for(routing_curve(*models(BY_HAND)), recovered) == expected


def test_a_peak_that_does_not_last_is_no_recovery() -> None:
    curve = routing_curve(*models([(0.1, 1, 0), (0.2, 0, 1), (0.3, 0, 1), (0.4, 1, 0), (0.5, 1, 0)]))
    assert curve.recovered.tolist() == [0, 1, 0, -1, 0, 1]
    assert threshold_for(curve, 1.0) == (1.0, math.inf)
    assert threshold_for(curve, 0.0) == (0.8, 0.5)
    better = routing_curve(*models([(0.1, 1, 0), (0.2, 1, 0), (0.3, 0, 1)]))
    assert better.recovered.tolist() == [0, 1, 2, 1]
    assert threshold_for(better, 1.0) == (1 / 3, 0.2)
    assert threshold_for(better, 1.5) is None


def test_arguments_stay_as_they_are() -> None:
    arguments = models(BY_HAND[::-1])
    before = [each.copy() for each in arguments]
    routing_curve(*arguments)
    assert all((now == then).all() for now, then in zip(arguments, before, strict=True))


CONFIDENCE, BASE, QUANTIZED = models(BY_HAND)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"confidence": np.array([0.5, 1.01, 0, 0, 0])}, "confidence[1] is 1.01, expected a number from 0 to 1"),
        ({"confidence": np.array([0, 0, 0, 0, -0.5])}, "confidence[4] is -0.5, expected a number from 0 to 1"),
        ({"confidence": np.array([math.nan, 0, 0, 0, 0])}, "confidence[0] is nan, expected a finite number"),
        ({"confidence": CONFIDENCE[:0]}, "confidence has length 0, expected 1 or more"),
        ({"confidence": CONFIDENCE[None]}, "confidence has shape (1, 5), expected one dimension"),
        ({"base_correct": BASE[:4]}, "base_correct has length 4, expected 5, that of confidence"),
        ({"quantized_correct": BASE[None]}, "quantized_correct has shape (1, 5), expected one dimension"),
        ({"base_correct": BASE + 1}, "base_correct["),
        ({"quantized_correct": CONFIDENCE}, "quantized_correct["),
    ],
)
def test_arrays_that_are_no_items_are_refused(changes: dict[str, Any], message: str) -> None:
    arguments = {"confidence": CONFIDENCE, "base_correct": BASE, "quantized_correct": QUANTIZED} | changes
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        routing_curve(**arguments)


@pytest.mark.parametrize(
    ("value", "message"), [(1.5, "is 1.5, expected a number from"), (-0.1, "is -0.1, exp"), (math.nan, "is nan, exp")]
)
def test_shares_that_are_none_are_refused(value: float, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^shares\[1\] {message}"):
        at_shares(routing_curve(CONFIDENCE, BASE, QUANTIZED), [0.5, value])


@pytest.mark.parametrize("recovered", [math.nan, math.inf, -math.inf])
def test_a_part_that_is_none_is_refused(recovered: float) -> None:
    with pytest.raises(ValueError, match=f"^recovered is {recovered}, expected a finite number"):
        threshold_for(routing_curve(CONFIDENCE, BASE, QUANTIZED), recovered)


items = st.lists(
    st.tuples(st.integers(0, 8).map(lambda eighths: eighths / 8), st.integers(0, 1), st.integers(0, 1)), min_size=1
)


@given(items, st.randoms(use_true_random=False))
@settings(deadline=None, derandomize=True)
def test_the_order_of_items_does_not_matter(rows: list[tuple[float, int, int]], random: Any) -> None:
    curve = routing_curve(*models(rows))
    random.shuffle(rows)
    shuffled = routing_curve(*models(rows))
    for field in dataclasses.fields(RoutingCurve):
        assert np.array_equal(getattr(curve, field.name), getattr(shuffled, field.name), equal_nan=True)


@given(items)
@settings(deadline=None, derandomize=True)
def test_a_curve_goes_from_one_model_to_the_other(rows: list[tuple[float, int, int]]) -> None:
    curve = routing_curve(*models(rows))
    check(curve, brute_force(*models(rows)))
    assert (np.diff(curve.share) > 0).all()
    assert (np.diff(curve.threshold) > 0).all()
    assert (curve.share[0], curve.share[-1]) == (0, 1)
    assert (curve.accuracy[0], curve.accuracy[-1]) == (curve.quantized_accuracy, curve.base_accuracy)


@given(items, st.floats(-1, 2))
@settings(deadline=None, derandomize=True)
def test_a_threshold_is_the_first_after_which_enough_is_recovered(
    rows: list[tuple[float, int, int]], recovered: float
) -> None:
    curve = routing_curve(*models(rows))
    lost = curve.base_accuracy > curve.quantized_accuracy
    lasting = [at for at in range(len(curve.share)) if lost and (curve.recovered[at:] >= recovered).all()]
    expected = (curve.share[lasting[0]], curve.threshold[lasting[0]]) if lasting else None
    assert threshold_for(curve, recovered) == expected
