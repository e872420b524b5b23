"""The one table of statistics that are means over items: each item's value, its bounds, and the interval of the mean.

An analysis of a whole run, the noise floor, and rules that are judged item by item all take them from here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, ParamSpec

import numpy as np

from qconf.run.choices import Answers, Choices, flip_kinds
from qconf.statistics.arrays import Booleans, Floats
from qconf.statistics.intervals import UNBOUNDED_ITEMS, UNBOUNDED_REACH, Mean, Proportion

Of = ParamSpec("Of")
Bounds = Callable[[float], tuple[float, float]]


@dataclass(frozen=True)
class Quantity(Generic[Of]):
    """A number that every item has; the statistic is its mean over items.

    ``values`` returns it, shape (items,): booleans where the mean is a share of items. ``bounds`` returns its lowest
    and highest possible value, given the largest number of choices of any item: infinity where that is unknown.
    """

    values: Callable[Of, Floats | Booleans]
    bounds: Bounds

    def estimate(self, choices: float, *args: Of.args, **kwargs: Of.kwargs) -> Mean | Proportion:
        """Return the mean in the form that has an interval, for items with at most so many choices."""
        values = self.values(*args, **kwargs)
        if values.dtype == np.bool_:
            return Proportion(values.astype(np.bool_))
        return mean_within(values.astype(np.float64), *self.bounds(choices))


def mean_within(values: Floats, low: float, high: float) -> Mean:
    """Return the mean of values from ``low`` to ``high``, either of which may be infinite, with its interval."""
    if math.isfinite(low) and math.isfinite(high):
        return Mean(values, low, high)
    return Mean(values, low, high, reach=UNBOUNDED_REACH, least=UNBOUNDED_ITEMS)


def within(low: float, high: float) -> Bounds:
    """Return bounds that do not depend on the number of choices."""
    return lambda _: (low, high)


def difference(quantity: Quantity[[Choices, Answers]]) -> Quantity[[Choices]]:
    """Return the quantized model's value less the base model's."""

    def values(choices: Choices) -> Floats:
        base, quantized = (quantity.values(choices, each) for each in (choices.base, choices.quantized))
        return quantized.astype(np.float64) - base

    def bounds(choices: float) -> tuple[float, float]:
        low, high = quantity.bounds(choices)
        return low - high, high - low

    return Quantity(values, bounds)


def _flipped(kind: str) -> Quantity[[Choices]]:
    return Quantity(lambda choices: flip_kinds(choices)[kind], within(0.0, 1.0))


OF_A_MODEL: dict[str, Quantity[[Choices, Answers]]] = {
    "accuracy": Quantity(lambda _, answers: answers.correct, within(0.0, 1.0)),
    "acc_norm": Quantity(lambda choices, answers: choices.normalized_correct(answers), within(0.0, 1.0)),
    "confidence": Quantity(lambda _, answers: answers.confidence, lambda most: (1 / most, 1.0)),
    "true_confidence": Quantity(lambda _, answers: answers.true_share, within(0.0, 1.0)),
    "overconfidence": Quantity(
        lambda _, answers: answers.confidence - answers.correct, lambda most: (1 / most - 1, 1.0)
    ),
    "margin": Quantity(lambda _, answers: answers.margin, within(0.0, 1.0)),
    "entropy": Quantity(lambda _, answers: answers.entropy, lambda most: (0.0, math.log(most))),
    "entropy_bits": Quantity(lambda _, answers: answers.entropy / math.log(2), lambda most: (0.0, math.log2(most))),
    "brier": Quantity(lambda _, answers: answers.brier, within(0.0, 2.0)),
    "nll": Quantity(lambda _, answers: answers.nll, within(0.0, math.inf)),
}
"""Quantities of one model, by statistic."""
OF_THE_PAIR: dict[str, Quantity[[Choices]]] = {
    "flips": _flipped("flips"),
    "right_to_wrong": _flipped("right_to_wrong"),
    "wrong_to_right": _flipped("wrong_to_right"),
    "wrong_to_other_wrong": _flipped("wrong_to_other_wrong"),
    "net_loss": Quantity(
        lambda choices: choices.base.correct.astype(np.float64) - choices.quantized.correct, within(-1.0, 1.0)
    ),
    "kl": Quantity(lambda choices: choices.divergence.kl, within(0.0, math.inf)),
    "reverse_kl": Quantity(lambda choices: choices.divergence.reverse_kl, within(0.0, math.inf)),
    "js": Quantity(lambda choices: choices.divergence.js, within(0.0, math.log(2))),
    "js_distance": Quantity(lambda choices: choices.divergence.js_distance, within(0.0, math.sqrt(math.log(2)))),
    "total_variation": Quantity(lambda choices: choices.divergence.total_variation, within(0.0, 1.0)),
}
"""Quantities of both models together, by statistic."""
