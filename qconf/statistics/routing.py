"""Selective use: answer with the quantized model where it is sure, and ask the base model where it is not.

This is a cascade that defers by confidence (Jitkrittum et al. 2023, arXiv 2307.02764): an item goes to the base model
where the quantized one's confidence is below a threshold.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qconf.statistics.arrays import Floats, booleans, probabilities, same_length


@dataclass(frozen=True, slots=True)
class RoutingCurve:
    """The costs and gains of each threshold; the arrays have shape (points,), and ``share`` rises.

    ``share`` is the share of items sent to the base model, whose confidence is below ``threshold``; ``accuracy`` the
    mixture's accuracy. ``recovered`` is the part of the accuracy lost by quantization that is recovered:
    (accuracy - quantized_accuracy) / (base_accuracy - quantized_accuracy). A mixture may be better than either model,
    which is a part above 1, or worse than the quantized one, which is a negative part. It is NaN at all points where
    both models are as accurate, and where the quantized one is the better it is the part of its lead that is given up.
    """

    threshold: Floats
    share: Floats
    accuracy: Floats
    recovered: Floats
    base_accuracy: float
    quantized_accuracy: float


def routing_curve(
    confidence: npt.ArrayLike, base_correct: npt.ArrayLike, quantized_correct: npt.ArrayLike
) -> RoutingCurve:
    """Return the curve over all thresholds that differ in what they send to the base model.

    ``confidence`` is the quantized model's in the choice it made, from 0 to 1; the others say which items each model
    answers rightly. All have shape (items,). Each distinct confidence is the threshold of one point: the lowest that
    of share 0, since nothing is below it. The last point has share 1 and an infinite threshold. Raises ``ValueError``
    where there is no item, a confidence is outside of 0 to 1 or the arrays differ in length.
    """
    confident = probabilities(confidence, "confidence")
    base, quantized = booleans(base_correct, "base_correct"), booleans(quantized_correct, "quantized_correct")
    same_length(base, "base_correct", confident, "confidence")
    same_length(quantized, "quantized_correct", confident, "confidence")
    items = len(confident)
    order = np.argsort(confident)
    ascending = confident[order]
    # Items before the first of each distinct confidence, and all: equal confidences go to the same model.
    sent = np.concatenate(([0], np.flatnonzero(np.diff(ascending)) + 1, [items]))
    won = np.cumsum(base[order].astype(np.int64) - quantized[order])
    won = np.concatenate(([0], won))[sent]
    right = np.count_nonzero(quantized)
    return RoutingCurve(
        threshold=np.append(ascending[sent[:-1]], math.inf),
        share=sent / items,
        accuracy=(right + won) / items,
        recovered=won / won[-1] if won[-1] else np.full(len(won), math.nan),
        base_accuracy=np.count_nonzero(base) / items,
        quantized_accuracy=right / items,
    )


def at_shares(curve: RoutingCurve, shares: Sequence[float] | Floats) -> RoutingCurve:
    """Return for each of ``shares``, in order, the point of the curve with the largest share that is not above it.

    Raises ``ValueError`` where one is outside of 0 to 1.
    """
    asked = probabilities(shares, "shares", at_least=0)
    points = np.searchsorted(curve.share, asked, side="right") - 1
    return RoutingCurve(
        threshold=curve.threshold[points],
        share=curve.share[points],
        accuracy=curve.accuracy[points],
        recovered=curve.recovered[points],
        base_accuracy=curve.base_accuracy,
        quantized_accuracy=curve.quantized_accuracy,
    )


def threshold_for(curve: RoutingCurve, recovered: float) -> tuple[float, float] | None:
    """Return the smallest share from which on at least ``recovered`` of the loss is recovered, and its threshold.

    "From which on" means at every larger share of the curve too, so that a lucky peak does not count. None where there
    is no such share, which only a part above 1 can bring about, and where the quantized model lost no accuracy. Raises
    ``ValueError`` where ``recovered`` is not finite.
    """
    if not math.isfinite(recovered):
        raise ValueError(f"recovered is {recovered}, expected a finite number")
    enough = curve.recovered >= recovered
    if curve.base_accuracy <= curve.quantized_accuracy or not enough[-1]:
        return None
    point = len(enough) - int(np.logical_and.accumulate(enough[::-1]).sum())
    return float(curve.share[point]), float(curve.threshold[point])
