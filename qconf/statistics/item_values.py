"""Statistics that are means over items: what each item contributes, and between which bounds.

These are the ones that can be judged while items come in. Values are those of ``eval.analysis.items``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qconf.rules import Rule
from qconf.run.choices import Answers, Choices, EvalError, flip_kinds
from qconf.statistics.arrays import Floats

Values = Callable[[Choices], Floats]
LATER = "judge it with 'eval gate' on a whole run"


@dataclass(frozen=True)
class ItemStatistic:
    """A statistic whose value is the mean of ``values``, shape (items,), each from ``low`` to ``high``."""

    name: str
    values: Values
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether it can be bet on."""
        return math.isfinite(self.low) and math.isfinite(self.high)


OF_A_MODEL: dict[str, tuple[Callable[[Choices, Answers], Floats], float, float]] = {
    "accuracy": (lambda _, answers: answers.correct.astype(np.float64), 0.0, 1.0),
    "acc_norm": (lambda choices, answers: choices.normalized_correct(answers).astype(np.float64), 0.0, 1.0),
    "confidence": (lambda _, answers: answers.confidence, 0.0, 1.0),
    "true_confidence": (lambda _, answers: answers.true_share, 0.0, 1.0),
    "margin": (lambda _, answers: answers.margin, 0.0, 1.0),
    "overconfidence": (lambda _, answers: answers.confidence - answers.correct, -1.0, 1.0),
    "brier": (lambda _, answers: answers.brier, 0.0, 2.0),
    "nll": (lambda _, answers: answers.nll, 0.0, math.inf),
}
"""Values of one model, by statistic, and their bounds; those of a difference follow."""
OF_THE_PAIR: dict[str, tuple[Values, float, float]] = {
    "flips": (lambda choices: flip_kinds(choices)["flips"].astype(np.float64), 0.0, 1.0),
    "right_to_wrong": (lambda choices: flip_kinds(choices)["right_to_wrong"].astype(np.float64), 0.0, 1.0),
    "wrong_to_right": (lambda choices: flip_kinds(choices)["wrong_to_right"].astype(np.float64), 0.0, 1.0),
    "wrong_to_other_wrong": (lambda choices: flip_kinds(choices)["wrong_to_other_wrong"].astype(np.float64), 0.0, 1.0),
    "net_loss": (lambda choices: choices.base.correct.astype(np.float64) - choices.quantized.correct, -1.0, 1.0),
    "total_variation": (lambda choices: choices.divergence.total_variation, 0.0, 1.0),
    "js": (lambda choices: choices.divergence.js, 0.0, math.log(2)),
    "js_distance": (lambda choices: choices.divergence.js_distance, 0.0, math.sqrt(math.log(2))),
    "kl": (lambda choices: choices.divergence.kl, 0.0, math.inf),
    "reverse_kl": (lambda choices: choices.divergence.reverse_kl, 0.0, math.inf),
}


def item_statistic(rule: Rule) -> ItemStatistic:
    """What a rule limits. EvalError for one that can only be judged once all items are there, naming what can be."""
    name, of = rule.statistic, rule.of
    if rule.corpus is not None:
        raise EvalError(f"the rule on '{name}' of the corpus '{rule.corpus}' cannot be judged item by item: {LATER}")
    if rule.over_floor:
        raise EvalError(f"the rule on '{name}' is over the floor, which one replay does not have: {LATER}")
    if rule.judge == "point":
        raise EvalError(
            f"the rule on '{name}' is judged by its point, which chance alone brings across a limit sooner or later: "
            'expected judge = "interval"'
        )
    if name in OF_THE_PAIR:
        if "of" in rule.model_fields_set:
            raise EvalError(f"'{name}' is of both models together: leave out of = \"{of}\"")
        return ItemStatistic(name, *OF_THE_PAIR[name])
    if name not in OF_A_MODEL:
        known = ", ".join(sorted({*OF_A_MODEL, *OF_THE_PAIR}))
        raise EvalError(f"'{name}' cannot be judged item by item, expected one of {known}; or {LATER}")
    values, low, high = OF_A_MODEL[name]
    if of == "delta":
        return ItemStatistic(f"delta {name}", lambda choices: _delta(choices, values), low - high, high - low)
    return ItemStatistic(f"{of} {name}", lambda choices: values(choices, getattr(choices, of)), low, high)


def _delta(choices: Choices, values: Callable[[Choices, Answers], Floats]) -> Floats:
    return values(choices, choices.quantized) - values(choices, choices.base)
