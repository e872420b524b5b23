"""Divergences over choices, against scipy."""

import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon  # type: ignore[import-untyped]
from scipy.special import softmax  # type: ignore[import-untyped]
from scipy.stats import entropy  # type: ignore[import-untyped]

from qconf.statistics.divergence import choice_divergence


def test_they_are_scipys() -> None:
    rng = np.random.default_rng(0)
    base, quantized = rng.normal(size=(2, 200, 5)) * 3 - 100
    base[::3, 4] = quantized[::3, 4] = -np.inf
    found = choice_divergence(base, quantized)
    p, q = softmax(base, axis=1), softmax(quantized, axis=1)
    assert found.kl == pytest.approx(entropy(p, q, axis=1))
    assert found.reverse_kl == pytest.approx(entropy(q, p, axis=1))
    assert found.js_distance == pytest.approx(jensenshannon(p, q, axis=1), abs=1e-9)


def test_a_model_and_itself_are_not_apart() -> None:
    base = np.random.default_rng(0).normal(size=(50, 3)) * 100
    found = choice_divergence(base, base)
    assert not found.kl.any()
    assert not found.js.any()


def test_shares_too_small_for_a_float_do_no_harm() -> None:
    found = choice_divergence([[0.0, -2_000.0]], [[-2_000.0, 0.0]])
    assert found.kl.tolist() == [2_000.0]
    assert found.js[0] == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("base", "quantized", "message"),
    [
        ([1.0], [1.0], r"base has shape \(1,\), expected \(items, choices\)"),
        ([[1.0, 2.0]], [[1.0]], r"quantized has shape \(1, 1\), expected \(1, 2\)"),
        ([[1.0, math.nan]], [[1.0, 2.0]], r"base\[0\] is \[ 1. nan\], expected finite numbers"),
        ([[1.0, 2.0]], [[-math.inf, -math.inf]], r"quantized\[0\] is \[-inf -inf\], expected finite numbers"),
        ([[1.0, -math.inf]], [[1.0, 2.0]], r"quantized\[0\] is \[1. 2.\], expected -inf where base\[0\] has it"),
    ],
)
def test_what_is_wrong_is_named(base: list[list[float]], quantized: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        choice_divergence(base, quantized)
