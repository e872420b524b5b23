"""Quantities of a token that its background can show."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from qconf.show.scale import DIVERGING, SEQUENTIAL, Color, on_scale
from qconf.wire.scores import ModelTokens, TokenComparison

Column = list[float | None]
QuantityName = Literal["kl", "logprob", "confidence", "entropy-base", "entropy-quantized"]
STEPS = 4


@dataclass(frozen=True)
class Quantity:
    """A quantity of each token. Values of ``full`` and more have the strongest colour.

    The colour goes with the square root of the value: most values are small, and would all look the same.
    """

    heading: str
    full: float
    diverging: bool
    column: Callable[[TokenComparison], Column]

    def color(self, value: float) -> Color:
        """Return the background of a value."""
        root = math.copysign(math.sqrt(min(abs(value) / self.full, 1.0)), value)
        return on_scale(DIVERGING, (1 + root) / 2) if self.diverging else on_scale(SEQUENTIAL, root)

    def legend(self) -> list[float]:
        """Return values whose colours are evenly spaced, for a legend."""
        values = [self.full * (step / STEPS) ** 2 for step in range(STEPS + 1)]
        return [-value for value in values[:0:-1]] + values if self.diverging else values


def _change(of: Callable[[ModelTokens], Column]) -> Callable[[TokenComparison], Column]:
    """Return the column of differences, quantized minus base."""

    def column(scores: TokenComparison) -> Column:
        pairs = zip(of(scores.base), of(scores.quantized), strict=True)
        return [None if base is None or quantized is None else quantized - base for base, quantized in pairs]

    return column


KL = Quantity("KL(base ‖ quantized), nats", 2.0, False, lambda scores: scores.kl)
QUANTITIES: dict[QuantityName, Quantity] = {
    "kl": KL,
    "logprob": Quantity("change of log-probability, nats", 4.0, True, _change(lambda model: model.logprobs)),
    "confidence": Quantity("change of confidence", 1.0, True, _change(lambda model: model.confidence)),
    "entropy-base": Quantity("base's entropy, nats", 8.0, False, lambda scores: scores.base.entropy),
    "entropy-quantized": Quantity("quantized's entropy, nats", 8.0, False, lambda scores: scores.quantized.entropy),
}
