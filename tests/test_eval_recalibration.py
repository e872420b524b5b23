"""Temperatures against scipy's minimiser and scikit-learn's log loss, and where the truth is known."""

import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import optimize  # type: ignore[import-untyped]
from scipy.special import log_softmax, softmax  # type: ignore[import-untyped]
from sklearn.metrics import log_loss  # type: ignore[import-untyped]

from qconf.statistics.recalibration import (
    HIGHEST,
    LOWEST,
    PRECISION,
    fit_temperature,
    match_confidence,
    mean_confidence,
    nll,
    recalibrate,
)

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

INF = math.inf


def sampled(items: int, temperature: float, choices: int = 4, seed: int = 0) -> tuple[Floats, Labels]:
    """Return log-likelihoods, and labels that are drawn at that temperature."""
    rng = np.random.default_rng(seed)
    logprobs = rng.normal(-20, 3, size=(items, choices))
    cumulative = softmax(logprobs / temperature, axis=1).cumsum(axis=1)
    drawn = (rng.random((items, 1)) > cumulative).sum(axis=1)
    return logprobs, np.minimum(drawn, choices - 1)


def ragged(items: int, temperature: float, seed: int = 0) -> tuple[Floats, Labels]:
    """Return items of one to five choices."""
    logprobs, labels = sampled(items, temperature, 5, seed)
    sizes = np.maximum(np.random.default_rng(seed + 1).integers(1, 6, size=items), labels + 1)
    logprobs[np.arange(5) >= sizes[:, None]] = -INF
    return logprobs, labels


def dense_nll(logprobs: Floats, labels: Labels, temperature: float) -> float:
    """Compute the definition item by item, without padding."""
    rows = zip(logprobs, labels, strict=True)
    return float(np.mean([-log_softmax(row[row > -INF] / temperature)[label] for row, label in rows]))


def curvature(logprobs: Floats, temperature: float) -> float:
    """Return the NLL's second derivative in 1 / T: the mean variance of the log-likelihood drawn at T."""
    shares = softmax(logprobs / temperature, axis=1)
    mean = (shares * logprobs).sum(axis=1)
    return float((shares * (logprobs - mean[:, None]) ** 2).sum(axis=1).mean())


@pytest.mark.parametrize("temperature", [0.01, 0.5, 1.0, 3.0, 100.0])
def test_nll_is_the_log_loss_of_scikit_learn(temperature: float) -> None:
    # At temperatures where scikit-learn does not clip shares: it sets a least one, of 2.2e-16.
    logprobs, labels = sampled(500, 1.0)
    logprobs *= min(1.0, temperature)
    shares = softmax(logprobs / temperature, axis=1)
    expected = log_loss(labels, shares, labels=range(4))
    assert nll(logprobs, labels, temperature) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 7.0])
def test_ragged_rows_equal_their_items_one_by_one(temperature: float) -> None:
    logprobs, labels = ragged(200, 2.0)
    assert nll(logprobs, labels, temperature) == pytest.approx(dense_nll(logprobs, labels, temperature), rel=1e-12)
    alone = [mean_confidence(row[None, row > -INF], temperature) for row in logprobs]
    assert mean_confidence(logprobs, temperature) == pytest.approx(np.mean(alone), rel=1e-12)
    top = [softmax(row[row > -INF] / temperature).max() for row in logprobs]
    assert alone == pytest.approx(top, rel=1e-12)


@pytest.mark.parametrize("make", [sampled, ragged])
@pytest.mark.parametrize("true", [0.05, 0.7, 2.0, 20.0])
def test_the_fit_is_the_minimum_that_scipy_finds(make: Any, true: float) -> None:
    logprobs, labels = make(300, true)
    found = optimize.minimize_scalar(
        lambda exponent: dense_nll(logprobs, labels, math.exp(exponent)),
        bounds=(math.log(LOWEST), math.log(HIGHEST)),
        method="bounded",
        options={"xatol": 1e-8},
    )
    # A minimiser sees values alone, of which rounding hides differences: it is right to the root of 2.2e-16 times the
    # value over the curvature, which is some 1e-7 here.
    assert fit_temperature(logprobs, labels) == pytest.approx(math.exp(found.x), rel=PRECISION + 1e-6)


@pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
def test_the_temperature_of_the_sampled_labels_is_found_again(true: float) -> None:
    items = 200_000
    logprobs, labels = sampled(items, true)
    # Standard error of a maximum likelihood estimate of 1 / T, times |dT / d(1 / T)| = T²; five of them.
    tolerance = 5 * true**2 / math.sqrt(items * curvature(logprobs, true))
    assert tolerance < 0.03 * true
    assert fit_temperature(logprobs, labels) == pytest.approx(true, abs=tolerance)


def test_a_fit_by_hand() -> None:
    """Right by ln 2 in four items of five: at the temperature T where 2^(1/T) = 4."""
    logprobs = np.tile([math.log(2), 0.0], (5, 1))
    labels = np.array([0, 0, 0, 0, 1])
    assert fit_temperature(logprobs, labels) == pytest.approx(0.5, rel=PRECISION)
    assert nll(logprobs, labels, 0.5) == pytest.approx(-(4 * math.log(0.8) + math.log(0.2)) / 5)
    assert mean_confidence(logprobs, 0.5) == pytest.approx(0.8)


@pytest.mark.parametrize("gap", [1e-3, 1.0, 1000.0, 1e6])
def test_an_optimum_outside_the_bounds_is_the_bound(gap: float) -> None:
    logprobs = np.array([[0.0, -gap, -INF], [-gap, 0.0, -2 * gap]])
    assert fit_temperature(logprobs, np.array([0, 1])) == LOWEST
    assert fit_temperature(logprobs, np.array([1, 2])) == HIGHEST


def test_one_item() -> None:
    logprobs, label = np.array([[-1.0, -3.0, -2.0]]), np.array([0])
    assert fit_temperature(logprobs, label) == LOWEST
    assert nll(logprobs, label) == pytest.approx(math.log(1 + math.exp(-2) + math.exp(-1)))
    assert mean_confidence(logprobs) == pytest.approx(1 / (1 + math.exp(-2) + math.exp(-1)))


def test_an_item_with_a_single_choice_is_certain_and_tells_no_temperature() -> None:
    logprobs, labels = sampled(100, 2.0, 3)
    single = np.vstack([logprobs, [-9.0, -INF, -INF]])
    assert nll(single[-1:], np.array([0]), 5.0) == 0
    assert mean_confidence(single[-1:], 5.0) == 1
    fitted = fit_temperature(single, np.append(labels, 0))
    assert fitted == pytest.approx(fit_temperature(logprobs, labels), rel=2 * PRECISION)


@pytest.mark.parametrize("shift", [-1e5, 0.0, 1e5])
def test_saturated_items_neither_overflow_nor_warn(shift: float) -> None:
    logprobs = np.array([[-1000.0, 0.0, -INF], [0.0, -1000.0, -500.0]]) + shift
    labels = np.array([0, 0])
    for temperature in (LOWEST, 1.0, HIGHEST):
        assert nll(logprobs, labels, temperature) == pytest.approx(dense_nll(logprobs, labels, temperature))
    assert mean_confidence(logprobs) == 1
    assert nll(logprobs, labels, LOWEST) == 50_000
    assert fit_temperature(logprobs, labels) == HIGHEST
    # Right in nine of ten, by 100: at the temperature T where exp(100 / T) = 9.
    tens = np.tile([0.0, -100.0], (10, 1)) + shift
    assert fit_temperature(tens, np.arange(10) // 9) == pytest.approx(100 / math.log(9), rel=PRECISION)


def test_two_models_come_to_the_same_mean_confidence() -> None:
    base, _ = ragged(2_000, 1.0, seed=1)
    quantized, _ = ragged(2_000, 1.0, seed=2)
    target = mean_confidence(base / 3)
    assert abs(mean_confidence(quantized) - target) > 0.05
    matched = match_confidence(quantized, target)
    # An error of 1e-6 in log T, times the slope of the mean confidence in it, which is below 1 for five choices.
    assert mean_confidence(quantized, matched) == pytest.approx(target, abs=PRECISION)
    assert match_confidence(base / 3, mean_confidence(base)) == pytest.approx(1 / 3, rel=PRECISION)


def test_a_model_that_is_as_confident_already_needs_no_temperature() -> None:
    logprobs, _ = ragged(100, 1.0)
    assert match_confidence(logprobs, mean_confidence(logprobs)) == 1
    assert match_confidence(logprobs * 1000, 1.0) == 1


def test_the_ends_of_the_range_of_confidence_are_reached() -> None:
    logprobs = np.array([[0.0, -0.5], [-1.0, -0.2]])
    low, high = mean_confidence(logprobs, HIGHEST), mean_confidence(logprobs, LOWEST)
    assert 0.5 < low < 0.51
    assert high == 1
    assert (match_confidence(logprobs, low), match_confidence(logprobs, high)) == (HIGHEST, LOWEST)
    for target in (low - 1e-9, 1 + 1e-9, math.nan):
        message = f"target is {target}, expected a mean confidence of {low} to 1.0, which temperatures of 100.0 to 0.01"
        with pytest.raises(ValueError, match=re.escape(message)):
            match_confidence(logprobs, target)


@pytest.mark.parametrize("items", [2, 3, 1001])
def test_recalibration_fits_one_half_and_evaluates_the_other(items: int) -> None:
    logprobs, labels = sampled(items, 2.0, seed=4)
    result, evaluated = recalibrate(logprobs, labels, np.random.default_rng(5))
    fitted = np.setdiff1d(np.arange(items), evaluated)
    assert (result.fitted, result.evaluated) == (items // 2, items - items // 2)
    assert (len(fitted), len(evaluated)) == (result.fitted, result.evaluated)
    assert (np.diff(evaluated) > 0).all()
    # The order of the items changes sums in their last digits, and the temperature within the precision of the search.
    alone = fit_temperature(logprobs[fitted], labels[fitted])
    assert result.temperature == pytest.approx(alone, rel=2 * PRECISION)
    assert result.nll_before == nll(logprobs[evaluated], labels[evaluated])
    assert result.nll_after == nll(logprobs[evaluated], labels[evaluated], result.temperature)


def test_recalibration_helps_on_items_it_was_not_fitted_on() -> None:
    logprobs, labels = sampled(10_000, 3.0)
    result, _ = recalibrate(logprobs, labels, np.random.default_rng(0))
    assert result.nll_after < result.nll_before - 0.1


def test_halves_are_random_and_repeat_with_their_seed() -> None:
    logprobs, labels = sampled(100, 2.0)
    halves = [recalibrate(logprobs, labels, np.random.default_rng(seed))[1].tolist() for seed in (0, 0, 1)]
    assert halves[0] == halves[1] != halves[2]


def test_arguments_stay_as_they_are() -> None:
    logprobs, labels = ragged(50, 2.0)
    before = logprobs.copy(), labels.copy()
    recalibrate(logprobs, labels, np.random.default_rng(0))
    match_confidence(logprobs, 0.9)
    assert (logprobs == before[0]).all()
    assert (labels == before[1]).all()


GOOD = np.array([[-1.0, -2.0, -3.0], [-1.0, -2.0, -INF]])


def changed(value: float, *place: int) -> Floats:
    array = GOOD.copy()
    array[place] = value
    return array


@pytest.mark.parametrize(
    ("logprobs", "message"),
    [
        (changed(math.nan, 1, 1), "[1, 1] is nan, expected a finite number, or -inf as padding after the item's last"),
        (changed(INF, 0, 2), "[0, 2] is inf, expected a finite number"),
        (changed(-INF, 0, 1), "[0, 1] is -inf, expected a finite number"),
        (changed(-INF, 1), "[1, 0] is -inf, expected a finite number"),
        (changed(math.nan, 1, 2), "[1, 2] is nan, expected a finite number"),
        (GOOD[0], " has shape (3,), expected (items, choices), at least one of each"),
        (GOOD[:0], " has shape (0, 3), expected (items, choices)"),
        (GOOD[:, :0], " has shape (2, 0), expected (items, choices)"),
        (GOOD.astype(np.float32), " has dtype float32, expected float64"),
    ],
)
def test_log_likelihoods_that_are_none_are_refused(logprobs: Floats, message: str) -> None:
    labels = np.array([0, 0])
    expected = "^" + re.escape(f"logprobs{message}")
    with pytest.raises(ValueError, match=expected):
        nll(logprobs, labels)
    with pytest.raises(ValueError, match=expected):
        fit_temperature(logprobs, labels)
    with pytest.raises(ValueError, match=expected):
        mean_confidence(logprobs)
    with pytest.raises(ValueError, match=expected):
        recalibrate(logprobs, labels, np.random.default_rng(0))
    with pytest.raises(ValueError, match="^" + re.escape(f"quantized{message}")):
        match_confidence(logprobs, 0.9)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([0, 2]), "labels[1] is 2, expected the index of one of 2 choices"),
        (np.array([3, 0]), "labels[0] is 3, expected the index of one of 3 choices"),
        (np.array([-1, 0]), "labels[0] is -1, expected the index of one of 3 choices"),
        (np.array([0]), "labels has shape (1,), expected (2,): one for each item of logprobs"),
        (np.array([[0], [1]]), "labels has shape (2, 1), expected (2,)"),
        (np.array([0.0, 1.0]), "labels has dtype float64, expected integers"),
        (np.array([True, False]), "labels has dtype bool, expected integers"),
    ],
)
def test_labels_that_are_none_are_refused(labels: Any, message: str) -> None:
    expected = "^" + re.escape(message)
    with pytest.raises(ValueError, match=expected):
        nll(GOOD, labels)
    with pytest.raises(ValueError, match=expected):
        fit_temperature(GOOD, labels)
    with pytest.raises(ValueError, match=expected):
        recalibrate(GOOD, labels, np.random.default_rng(0))


@pytest.mark.parametrize("temperature", [0.0, -1.0, INF, math.nan])
def test_temperatures_that_are_none_are_refused(temperature: float) -> None:
    message = f"^temperature is {temperature}, expected a finite number above 0"
    with pytest.raises(ValueError, match=message):
        nll(GOOD, np.array([0, 0]), temperature)
    with pytest.raises(ValueError, match=message):
        mean_confidence(GOOD, temperature)


@pytest.mark.parametrize("logprobs", [[[-1.0, -INF], [-7.0, -INF]], [[-2.0, -2.0], [-3.0, -INF]]])
def test_items_without_a_difference_tell_no_temperature(logprobs: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"^logprobs has equally likely choices in every item, expected an item where"):
        fit_temperature(np.array(logprobs), np.array([0, 0]))


def test_one_item_cannot_be_split() -> None:
    with pytest.raises(ValueError, match=r"^logprobs has 1 item, expected at least 2"):
        recalibrate(GOOD[:1], np.array([0]), np.random.default_rng(0))


# Whole numbers, so that a slope in the temperature is either zero or far above rounding.
@st.composite
def problems(draw: st.DrawFn) -> tuple[Floats, Labels, np.random.Generator]:
    items, choices = draw(st.integers(1, 12)), draw(st.integers(2, 5))
    whole = draw(arrays(np.int64, (items, choices), elements=st.integers(-8, 0)))
    sizes = draw(arrays(np.int64, items, elements=st.integers(1, choices)))
    logprobs = np.where(np.arange(choices) < sizes[:, None], whole, -INF)
    labels = draw(arrays(np.int64, items, elements=st.integers(0, choices - 1))) % sizes
    assume(((logprobs > -INF) & (logprobs < logprobs.max(axis=1, keepdims=True))).any())
    return logprobs, labels, np.random.default_rng(draw(st.integers(0, 99)))


@given(problems(), st.floats(0.05, 20))
@settings(deadline=None, derandomize=True)
def test_the_order_of_items_and_of_choices_does_not_matter(
    problem: tuple[Floats, Labels, np.random.Generator], temperature: float
) -> None:
    logprobs, labels, rng = problem
    shuffled, moved = np.full_like(logprobs, -INF), np.empty_like(labels)
    for to, item in enumerate(rng.permutation(len(labels))):
        order = rng.permutation(np.count_nonzero(logprobs[item] > -INF))
        shuffled[to, : len(order)] = logprobs[item, order]
        moved[to] = np.flatnonzero(order == labels[item])[0]
    assert nll(shuffled, moved, temperature) == pytest.approx(nll(logprobs, labels, temperature), rel=1e-12, abs=1e-15)
    confidence = mean_confidence(logprobs, temperature)
    assert mean_confidence(shuffled, temperature) == pytest.approx(confidence, rel=1e-12)
    expected = pytest.approx(fit_temperature(logprobs, labels), rel=2 * PRECISION)
    assert fit_temperature(shuffled, moved) == expected


@given(st.integers(0, 9999), st.floats(0.2, 5), st.floats(0.25, 4))
@settings(deadline=None, derandomize=True)
def test_log_likelihoods_times_c_have_c_times_the_temperature(seed: int, true: float, c: float) -> None:
    logprobs, labels = ragged(300, true, seed)
    fitted = fit_temperature(logprobs, labels)
    assert 4 * LOWEST < fitted < HIGHEST / 4
    assert fit_temperature(logprobs * c, labels) == pytest.approx(c * fitted, rel=2 * PRECISION)
    target = mean_confidence(logprobs, fitted)
    assert mean_confidence(logprobs * c, c * fitted) == pytest.approx(target, rel=1e-12)


@given(problems())
@settings(deadline=None, derandomize=True, max_examples=50)
def test_no_temperature_is_better_than_the_fitted_one(problem: tuple[Floats, Labels, np.random.Generator]) -> None:
    logprobs, labels, _ = problem
    best = nll(logprobs, labels, fit_temperature(logprobs, labels))
    for temperature in np.geomspace(LOWEST, HIGHEST, 13):
        assert best <= nll(logprobs, labels, temperature) + 1e-9


@given(problems(), st.floats(0, 1))
@settings(deadline=None, derandomize=True, max_examples=50)
def test_every_confidence_in_range_is_matched(
    problem: tuple[Floats, Labels, np.random.Generator], place: float
) -> None:
    logprobs, _, _ = problem
    low, high = mean_confidence(logprobs, HIGHEST), mean_confidence(logprobs, LOWEST)
    target = min(low + place * (high - low), high)
    # As above: an error in log T is a smaller one in the mean confidence.
    assert mean_confidence(logprobs, match_confidence(logprobs, target)) == pytest.approx(target, abs=PRECISION)
