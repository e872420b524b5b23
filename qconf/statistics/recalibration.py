"""Temperatures: what would make each model calibrated, and the quantized one as confident as the base.

Everywhere here, ``logprobs`` is a float64 array of shape (items, choices): the log-likelihoods of each item's choices,
in nats, in rows that are padded at the end with -inf where an item has fewer choices than the widest. ``labels`` is an
integer array of shape (items,), the index of each item's true choice. The confidence distribution of an item at
temperature T is softmax(logprobs / T). All functions raise ``ValueError``, which names the argument and the value,
where there is no item or an array is not as described.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize  # type: ignore[import-untyped]

from qconf.statistics.arrays import Floats

LOWEST, HIGHEST = 0.01, 100.0
"""The temperatures among which all searches are."""

PRECISION = 1e-6
"""Relative error of a temperature that a search finds."""

Indices = npt.NDArray[np.integer]


@dataclass(frozen=True, slots=True)
class Recalibration:
    """The effect of temperature scaling on items that it was not fitted on.

    The negative log-likelihoods are means in nats over the ``evaluated`` items, at temperature 1 and at the one that
    was fitted on the ``fitted`` other items.
    """

    temperature: float
    nll_before: float
    nll_after: float
    fitted: int
    evaluated: int


def nll(logprobs: Floats, labels: Indices, temperature: float = 1.0) -> float:
    """Negative log-likelihood: mean over the items of -log softmax(logprobs / temperature)[label], in nats."""
    _check(logprobs, labels)
    _check_temperature(temperature)
    scaled = _gaps(logprobs) / temperature
    true = _true(scaled, labels)
    return float(np.mean(np.log(np.exp(scaled, out=scaled).sum(axis=1)) - true))


def fit_temperature(logprobs: Floats, labels: Indices) -> float:
    """Return the temperature of 0.01 to 100 with the lowest ``nll``.

    That is temperature scaling (Guo et al. 2017, arXiv 1706.04599). The likelihood is convex in 1 / T, so that it has
    one minimum, where its slope in 1 / T is zero: where the mean over the items of (expected log-likelihood of a choice
    drawn at T - log-likelihood of the true choice) is. The result is within 1e-6 of it, relatively, or exactly the
    bound beyond which it lies: 0.01 where every item is right, 100 where the true choices are no likelier than others.
    Raises ``ValueError`` also where every temperature is as good as any other, since no item has choices that differ in
    likelihood.
    """
    _check(logprobs, labels)
    gaps = _gaps(logprobs)
    if not np.any(np.isfinite(gaps) & (gaps < 0)):
        raise ValueError("logprobs has equally likely choices in every item, expected an item where they differ")
    mean_true = _true(gaps, labels).mean()

    def slope(temperature: float) -> float:
        weights = gaps / temperature
        np.exp(weights, out=weights)
        total = weights.sum(axis=1)
        # Left out where the weight is 0, since 0 times the -inf of the padding is NaN.
        expected = np.multiply(weights, gaps, out=weights, where=weights > 0).sum(axis=1)
        return float(np.mean(expected / total) - mean_true)

    # The lower bound comes first: models that are sure and right have slopes that round to 0 everywhere.
    if slope(LOWEST) <= 0:
        return LOWEST
    if slope(HIGHEST) >= 0:
        return HIGHEST
    return _root(slope)


def mean_confidence(logprobs: Floats, temperature: float = 1.0) -> float:
    """Mean over the items of the largest share in softmax(logprobs / temperature)."""
    _check(logprobs)
    _check_temperature(temperature)
    return _confidence(_gaps(logprobs), temperature)


def match_confidence(quantized: Floats, target: float) -> float:
    """Return the temperature of 0.01 to 100 at which ``mean_confidence`` of ``quantized`` equals ``target``.

    ``quantized`` is as ``logprobs``; ``target`` is the base model's mean confidence, a share. Confidence falls as the
    temperature rises, so that there is one such temperature, found to 1e-6 of itself. Only where so many items are sure
    that a range of low temperatures gives the same confidence are there more: of these it is 1 or otherwise the lowest.
    Raises ``ValueError``, with the range that is reached, where no temperature gives this confidence.
    """
    _check(quantized, name="quantized")
    gaps = _gaps(quantized)
    low, high = _confidence(gaps, HIGHEST), _confidence(gaps, LOWEST)
    if not low <= target <= high:
        raise ValueError(
            f"target is {target}, expected a mean confidence of {low} to {high}, "
            f"which temperatures of {HIGHEST} to {LOWEST} reach"
        )
    if _confidence(gaps, 1.0) == target:
        return 1.0
    return _root(lambda temperature: _confidence(gaps, temperature) - target)


def recalibrate(
    logprobs: Floats, labels: Indices, rng: np.random.Generator
) -> tuple[Recalibration, npt.NDArray[np.intp]]:
    """Fit the temperature on a random half of the items and evaluates it on the other (Guo et al. 2017).

    Returns the indices of the evaluated items too, in ascending order; they are one more than the fitted ones where the
    number of items is odd. Raises ``ValueError`` where there are fewer than two items, or as ``fit_temperature``.
    """
    _check(logprobs, labels)
    items = len(labels)
    if items < 2:
        raise ValueError(f"logprobs has {items} item, expected at least 2, of which one half is for the fit")
    order = rng.permutation(items)
    fitted, evaluated = order[: items // 2], np.sort(order[items // 2 :])
    temperature = fit_temperature(logprobs[fitted], labels[fitted])
    rest = logprobs[evaluated], labels[evaluated]
    result = Recalibration(temperature, nll(*rest), nll(*rest, temperature), len(fitted), len(evaluated))
    return result, evaluated


def _gaps(logprobs: Floats) -> Floats:
    """Return distances to the item's likeliest choice, whose exponentials do not overflow."""
    return np.asarray(logprobs - logprobs.max(axis=1, keepdims=True))


def _true(values: Floats, labels: Indices) -> Floats:
    return np.asarray(values[np.arange(len(labels)), labels])


def _confidence(gaps: Floats, temperature: float) -> float:
    weights = gaps / temperature
    return float(np.mean(1 / np.exp(weights, out=weights).sum(axis=1)))


def _root(function: Callable[[float], float]) -> float:
    """Return the temperature at which a falling function is zero. Powers of ten give the bounds without rounding."""
    exponent = optimize.brentq(
        lambda exponent: function(10.0**exponent),
        math.log10(LOWEST),
        math.log10(HIGHEST),
        xtol=PRECISION / math.log(10),
    )
    return float(10.0**exponent)


def _check(logprobs: Floats, labels: Indices | None = None, name: str = "logprobs") -> None:
    if logprobs.ndim != 2 or 0 in logprobs.shape:
        raise ValueError(f"{name} has shape {logprobs.shape}, expected (items, choices), at least one of each")
    if logprobs.dtype != np.float64:
        raise ValueError(f"{name} has dtype {logprobs.dtype}, expected float64")
    padding = np.logical_and.accumulate(np.isneginf(logprobs[:, ::-1]), axis=1)[:, ::-1]
    padding[:, 0] = False
    bad = ~np.isfinite(logprobs) & ~padding
    if bad.any():
        item, choice = divmod(int(bad.argmax()), bad.shape[1])
        raise ValueError(
            f"{name}[{item}, {choice}] is {logprobs[item, choice]}, expected a finite number, "
            "or -inf as padding after the item's last choice"
        )
    if labels is not None:
        _check_labels(labels, choices=np.isfinite(logprobs).sum(axis=1))


def _check_labels(labels: Indices, choices: npt.NDArray[np.intp]) -> None:
    if labels.shape != choices.shape:
        raise ValueError(f"labels has shape {labels.shape}, expected {choices.shape}: one for each item of logprobs")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels has dtype {labels.dtype}, expected integers")
    bad = (labels < 0) | (labels >= choices)
    if bad.any():
        item = int(bad.argmax())
        raise ValueError(f"labels[{item}] is {labels[item]}, expected the index of one of {choices[item]} choices")


def _check_temperature(temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}, expected a finite number above 0")
