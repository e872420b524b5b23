"""Rules that can be judged item by item, as answers arrive: those on means over items."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from qconf.rules import Rule
from qconf.run.choices import Choices, EvalError
from qconf.run.quantities import OF_A_MODEL, OF_THE_PAIR, Quantity, difference
from qconf.statistics.arrays import Floats

LATER = "judge it with 'eval gate' on a whole run"


@dataclass(frozen=True)
class ItemStatistic:
    """A statistic whose value is the mean of ``values``, shape (items,), each from ``low`` to ``high``."""

    name: str
    values: Callable[[Choices], Floats]
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether the mean can be tested by betting."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def item_statistic(rule: Rule) -> ItemStatistic:
    """Return the statistic that a rule limits. EvalError for one that needs all items, naming what can be judged."""
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
        return _statistic(name, OF_THE_PAIR[name])
    if name not in OF_A_MODEL:
        known = ", ".join(sorted({*OF_A_MODEL, *OF_THE_PAIR}))
        raise EvalError(f"'{name}' cannot be judged item by item, expected one of {known}; or {LATER}")
    quantity = OF_A_MODEL[name]
    if of == "delta":
        return _statistic(f"delta {name}", difference(quantity))
    of_model: Quantity[[Choices]] = Quantity(
        lambda choices: quantity.values(choices, getattr(choices, of)), quantity.bounds
    )
    return _statistic(f"{of} {name}", of_model)


def _statistic(name: str, quantity: Quantity[[Choices]]) -> ItemStatistic:
    # A replay does not know how many choices the items have that it has not yet sent.
    low, high = quantity.bounds(math.inf)
    return ItemStatistic(name, lambda choices: quantity.values(choices).astype(np.float64), low, high)
