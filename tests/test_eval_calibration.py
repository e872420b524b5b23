"""Calibration errors against torchmetrics, scikit-learn, relplot, closed forms, and loops over formulas."""

import math
from typing import Any

import numpy as np
import pytest
import relplot  # type: ignore[import-untyped]
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, roc_auc_score  # type: ignore[import-untyped]
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from qconf.statistics import calibration, forecasts, ranking
from qconf.statistics.arrays import Booleans, Floats, Ints

CASES = ("random", "calibrated", "saturated", "tiny", "skewed", "tied")


def data(case: str, choices: int = 4) -> tuple[Floats, Ints]:
    """Return shares of the choices of items, and which choice is true."""
    rng = np.random.default_rng(len(case))
    items = 5 if case == "tiny" else 2_000
    scale = {"saturated": 200.0, "skewed": 6.0}.get(case, 1.5)
    logits = rng.normal(size=(items, choices)) * scale
    if case == "tied":
        logits = np.round(logits)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    if case == "calibrated":
        labels = (rng.random(items)[:, None] > shares.cumsum(axis=1)).sum(axis=1)
    else:
        labels = rng.integers(choices, size=items)
    return shares, labels


def pair(case: str) -> tuple[Floats, Booleans]:
    shares, labels = data(case)
    return shares.max(axis=1), shares.argmax(axis=1) == labels


@pytest.mark.parametrize("norm", ["l1", "max"])
@pytest.mark.parametrize("case", CASES)
def test_binned_errors_are_torchmetrics(case: str, norm: Any) -> None:
    shares, labels = data(case)
    # torchmetrics has a separate bin for confidences of exactly 1; slightly less, also in float32, and they are in the
    # last one.
    probabilities = torch.from_numpy(np.minimum(shares, 1 - 1e-6))
    expected = multiclass_calibration_error(
        probabilities, torch.from_numpy(labels), num_classes=4, n_bins=15, norm=norm
    )
    function = calibration.ece if norm == "l1" else calibration.mce
    # torchmetrics computes in float32.
    assert function(*pair(case)).point == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_smooth_ece_is_relplots(case: str) -> None:
    confidence, correct = pair(case)
    ours = calibration.smooth_ece(confidence, correct).point
    # relplot smooths on 200 points, halves the width down to 1/1,024, and loses up to 2 % of what lies at the ends.
    assert ours == pytest.approx(relplot.smECE(confidence, correct.astype(float)), abs=1e-3, rel=0.02)
    # Smoothing moves residuals and loses none.
    assert ours >= abs((confidence - correct).mean()) - 1e-9


@pytest.mark.parametrize("case", CASES)
def test_brier_and_auroc_are_scikit_learns(case: str) -> None:
    shares, labels = data(case)
    every = list(range(4))
    assert forecasts.brier(shares, labels).mean() == pytest.approx(brier_score_loss(labels, shares, labels=every))
    confidence, correct = pair(case)
    if 0 < correct.sum() < len(correct):
        assert ranking.auroc(confidence, correct).point == pytest.approx(roc_auc_score(correct, confidence))


@pytest.mark.parametrize("case", CASES)
def test_the_parts_of_the_brier_score_add_up(case: str) -> None:
    shares, labels = data(case)
    parts, score = forecasts.brier_parts(shares, labels), forecasts.brier(shares, labels).mean()
    assert parts.reliability - parts.resolution + parts.uncertainty == pytest.approx(score)
    assert parts.reliability >= -1e-12
    assert parts.resolution >= -1e-12
    # Each of four choices is true for a quarter of the forecasts: 4 * 1/4 * 3/4.
    assert parts.uncertainty == pytest.approx(0.75)


def test_brier_parts_of_closed_forms() -> None:
    certain = np.eye(2)[[0, 1, 0, 1]]
    assert forecasts.brier_parts(certain, [0, 1, 0, 1]) == forecasts.BrierParts(0.0, 0.5, 0.5)
    wrong = forecasts.brier_parts(certain, [1, 0, 1, 0])
    assert (wrong.reliability, wrong.resolution) == (1.5, 0.0)
    # A share of 0 for the true choice is a forecast like any other, not padding.
    assert forecasts.brier(certain, [1, 0, 1, 0]).tolist() == [2.0] * 4


def test_equal_mass_bins_are_what_sorting_and_cutting_gives() -> None:
    confidence, correct = pair("random")
    order = np.argsort(confidence)
    parts = np.array_split(order, 10)
    expected = sum(abs((confidence[part] - correct[part]).sum()) for part in parts) / len(order)
    assert calibration.ece_equal_mass(confidence, correct, 10).point == pytest.approx(expected)


def test_equal_mass_bins_never_part_items_of_one_confidence() -> None:
    confidence = np.array([0.5] * 7 + [0.9] * 3)
    edges = calibration.equal_mass_edges(confidence, 5)
    assert np.bincount(calibration.bin_of(confidence, edges), minlength=5).tolist() == [7, 0, 0, 3, 0]


def test_edges_belong_to_the_bin_below_and_the_ends_to_theirs() -> None:
    edges = calibration.equal_width_edges(5)
    assert calibration.bin_of([0.0, 0.1, 0.2, 0.2000001, 0.6, 1.0], edges).tolist() == [0, 0, 0, 1, 2, 4]


def test_the_debiased_error_is_that_of_kumar() -> None:
    confidence, correct = pair("random")
    index = calibration.bin_of(confidence, calibration.equal_mass_edges(confidence))
    total = 0.0
    for number in range(15):
        members, count = index == number, (index == number).sum()
        accuracy = correct[members].mean()
        square = (accuracy - confidence[members].mean()) ** 2
        total += count / len(index) * (square - accuracy * (1 - accuracy) / (count - 1))
    assert calibration.l2_debiased(confidence, correct).point == pytest.approx(math.sqrt(total))


def test_debiasing_takes_off_what_chance_adds() -> None:
    rng = np.random.default_rng(0)
    squares = []
    for _ in range(400):
        confidence = rng.uniform(0.3, 1.0, 150)
        squares.append(calibration.l2_debiased(confidence, rng.random(150) < confidence).point)
    # The plain error of 15 bins with 10 items each is about sqrt(0.2 / 10) = 0.14; half of the debiased are cut at 0.
    assert np.mean(squares) < 0.05


def test_the_adaptive_error_is_its_formula() -> None:
    shares, labels = data("random")
    gaps = []
    for k in range(4):
        for part in np.array_split(np.argsort(shares[:, k]), 15):
            gaps.append(abs(shares[part, k].mean() - (labels[part] == k).mean()))
    # np.array_split makes its first parts the larger ones, our ranks spread them: an item or two go elsewhere.
    assert forecasts.ace(shares, labels).point == pytest.approx(np.mean(gaps), abs=2e-3)


def test_the_risk_coverage_area_is_its_definition() -> None:
    confidence, correct = pair("random")
    wrong = ~correct[np.argsort(-confidence)]
    risks = [wrong[:k].mean() for k in range(1, len(wrong) + 1)]
    assert ranking.risk_coverage_area(confidence, correct).point == pytest.approx(np.mean(risks))
    # Two answers have the same confidence and one is right: half an error at the first of them.
    assert ranking.risk_coverage_area([0.7, 0.7], [True, False]).point == 0.5


def test_auroc_without_two_classes_is_nan() -> None:
    assert math.isnan(ranking.auroc([0.5, 0.6], [True, True]).point)
    assert math.isnan(ranking.auroc([0.5, 0.6], [False, False]).point)


def notebook_ace(shares: Floats, labels: Ints) -> float:
    """Compute the notebook's error over its ranges and classes, one by one."""
    confidence, choices = shares.max(axis=1), shares.shape[1]
    step = len(labels) // 15
    thresholds = [np.sort(confidence)[i * step] for i in range(15)]
    total = 0.0
    for number in range(15):
        for k in range(choices):
            members = [
                i
                for i, value in enumerate(confidence)
                if labels[i] == k and next((n for n, t in enumerate(thresholds) if value <= t), 0) == number
            ]
            if members:
                right = np.mean([shares[i].argmax() == k for i in members])
                total += abs(right - np.mean(confidence[members]))
    return total / (choices * 15)


@pytest.mark.parametrize("case", ["random", "calibrated", "skewed", "tied"])
def test_the_papers_estimator_is_the_notebooks(case: str) -> None:
    shares, labels = data(case)
    assert forecasts.paper_ce(shares, labels).point == pytest.approx(notebook_ace(shares, labels))


def test_the_papers_estimator_of_two_choices_compares_with_the_label() -> None:
    """Shares that are right as often as they say: 0.25 with the notebook's, nothing with the standard definition."""
    rng = np.random.default_rng(0)
    first = rng.random(200_000)
    shares, labels = np.stack([first, 1 - first], axis=1), (rng.random(200_000) > first).astype(int)
    # E|m - 1/2| of m uniform between 1/2 and 1.
    assert forecasts.paper_ce(shares, labels).point == pytest.approx(0.25, abs=4e-3)
    confidence = shares.max(axis=1)
    assert calibration.ece(confidence, shares.argmax(axis=1) == labels).point < 0.01
    expected = 0.0
    for number in range(100):
        members = (confidence >= number / 100) & ((confidence < (number + 1) / 100) | (number == 99))
        if members.any():
            expected += abs(confidence[members].sum() - labels[members].sum()) / len(labels)
    assert forecasts.paper_ce(shares, labels).point == pytest.approx(expected, abs=1e-4)


def test_fewer_items_than_bins_and_one_item() -> None:
    assert calibration.ece([0.8], [True]).point == pytest.approx(0.2)
    assert calibration.mce([0.8], [False]).point == pytest.approx(0.8)
    assert calibration.ece_equal_mass([0.8], [True]).point == pytest.approx(0.2)
    assert calibration.l2_debiased([0.8], [True]).point == pytest.approx(0.2)
    assert calibration.smooth_ece([1.0], [True]).point == pytest.approx(0.0, abs=1e-9)
    assert forecasts.ace([[0.8, 0.2]], [0]).point == pytest.approx(0.2)


def test_rows_of_different_lengths_count_for_the_choices_they_have() -> None:
    shares = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    padded = forecasts.brier_parts(shares, [0, 2], [2, 3])
    # Five forecasts, of which two come true.
    assert padded.uncertainty == pytest.approx(5 * 0.4 * 0.6 / 2)
    assert forecasts.ace(shares, [0, 2], [2, 3]).point == pytest.approx(np.mean([0.5, 0.2, 0.5, 0.3, 0.5]))


ONE = np.array([[0.5, 0.5]])
WRONG: list[Any] = [
    (lambda: calibration.ece([], []), r"confidence has length 0, expected 1 or more"),
    (lambda: calibration.ece([[0.5]], [True]), r"confidence has shape \(1, 1\), expected one dimension"),
    (lambda: calibration.ece([0.5, 1.5], [1, 0]), r"confidence\[1\] is 1.5, expected a number from 0 to 1"),
    (lambda: calibration.mce([0.5, math.nan], [1, 0]), r"confidence\[1\] is nan, expected a finite number"),
    (lambda: ranking.auroc([0.5], [True, False]), r"correct has length 2, expected 1, that of confidence"),
    (lambda: calibration.ece([0.5], [2]), r"correct\[0\] is 2.0, expected true or false"),
    (lambda: forecasts.brier([0.5], [0]), r"shares has shape \(1,\), expected \(items, choices\)"),
    (lambda: forecasts.brier(ONE, [0, 1]), r"labels has shape \(2,\), expected \(1,\)"),
    (lambda: forecasts.brier(ONE * 1.1, [0]), r"shares\[0\] is \[0.55 0.55\], expected numbers .* that sum to 1"),
    (lambda: forecasts.brier(ONE * math.nan, [0]), r"shares\[0\] is \[nan nan\]"),
    (lambda: forecasts.brier(ONE, [-1]), r"labels\[0\] is -1, expected an index below 2"),
    (lambda: forecasts.ace(ONE, [0], [1]), r"shares\[0\] is \[0.5 0.5\], expected 0 after the 1 of its choices"),
    (lambda: forecasts.ace(ONE, [0], [1, 2]), r"sizes has shape \(2,\), expected \(1,\)"),
    (lambda: forecasts.ace([[1.0, 0.0]], [1], [1]), r"labels\[0\] is 1, expected an index below 1"),
    (lambda: forecasts.paper_ce([[1.0, 0.0]], [0], [1]), r"sizes\[0\] is 1, expected 2: items with the same number"),
    (lambda: forecasts.paper_ce([[0.2, 0.3, 0.5]], [0]), r"shares has 1 items, expected at least 15"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_what_is_wrong_is_named(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


items = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@settings(deadline=None, derandomize=True)
@given(items, st.randoms(use_true_random=False))
def test_the_order_of_items_does_not_matter(pairs: list[tuple[float, bool]], random: Any) -> None:
    mixed = pairs.copy()
    random.shuffle(mixed)
    for function in (
        calibration.ece,
        calibration.ece_equal_mass,
        calibration.mce,
        calibration.l2_debiased,
        calibration.smooth_ece,
        ranking.auroc,
        ranking.risk_coverage_area,
    ):
        values = [function(*map(np.array, zip(*order, strict=True))).point for order in (pairs, mixed)]
        assert values[0] == pytest.approx(values[1], abs=1e-8, nan_ok=True)
        assert math.isnan(values[0]) or 0 <= values[0] <= 1 + 1e-12


@settings(deadline=None, derandomize=True)
@given(st.integers(2, 5), st.integers(15, 60), st.integers(0, 2**31))
def test_the_order_of_choices_does_not_matter(choices: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(choices), count)
    labels, order = rng.integers(choices, size=count), rng.permutation(choices)
    moved = np.argsort(order)[labels]
    assert forecasts.ace(shares, labels).point == pytest.approx(forecasts.ace(shares[:, order], moved).point)
    assert forecasts.brier(shares, labels) == pytest.approx(forecasts.brier(shares[:, order], moved))
    if choices > 2:  # of two choices the paper's estimator takes the index of the true one for a number
        one, two = forecasts.paper_ce(shares, labels), forecasts.paper_ce(shares[:, order], moved)
        assert one.point == pytest.approx(two.point)


def test_the_error_of_binary_forecasts_is_torchmetrics() -> None:
    confidence, correct = pair("random")
    expected = binary_calibration_error(torch.from_numpy(confidence), torch.from_numpy(correct).int(), n_bins=15)
    assert calibration.ece(confidence, correct).point == pytest.approx(expected.item(), abs=1e-6)
