"""Pairs of models with known truth, simulated: items with choices, windows of a corpus, generated answers."""

import math
from dataclasses import dataclass

import numpy as np

from qconf.run.choices import Choices
from qconf.run.quantities import mean_within
from qconf.statistics.arrays import Floats, Ints
from qconf.statistics.intervals import Mean, Proportion

CHOICES = 4


@dataclass(frozen=True)
class Pair:
    """Distribution of the logits of a pair of models.

    Base logits are normal with standard deviation ``scale``. The true choice is drawn from their softmax after division
    by ``temperature``: 1 for a calibrated base model. The quantized model adds ``noise`` to the logits of a share
    ``hit`` of the items and multiplies them by ``sharper``. ``grid`` rounds logits to its multiples. Items come in
    clusters of ``cluster``, which share difficulty, noise and half of the outcomes.
    """

    scale: float = 1.5
    temperature: float = 1.0
    noise: float = 0.3
    hit: float = 1.0
    sharper: float = 1.0
    grid: float = 0.0
    cluster: int = 1


PAIRS = {
    "calibrated": Pair(),
    "base miscalibrated": Pair(temperature=1.6),
    "quantized miscalibrated": Pair(sharper=1.4),
    "both miscalibrated": Pair(temperature=1.6, sharper=1.2),
    "rare events": Pair(scale=4.0, noise=6.0, hit=0.02),
    "ties": Pair(grid=1.0, noise=0.6),
    "saturated": Pair(scale=12.0, temperature=3.0, noise=2.0),
    "clusters of 5": Pair(cluster=5),
}


def draw(pair: Pair, items: int, rng: np.random.Generator) -> Choices:
    """Draw items of the pair, as a run has them."""
    groups = -(-items // pair.cluster)
    cluster = np.repeat(np.arange(groups), pair.cluster)[:items]
    shared = rng.normal(size=(2, groups))[:, cluster] * (pair.cluster > 1)
    base = rng.normal(size=(items, CHOICES)) * (pair.scale * np.exp(0.4 * shared[0]))[:, None]
    changed = (rng.random(items) < pair.hit) * pair.noise * np.exp(0.6 * shared[1])
    quantized = (base + rng.normal(size=base.shape) * changed[:, None]) * np.where(pair.hit < 1, 1.0, pair.sharper)
    if pair.grid:
        base, quantized = (np.round(each / pair.grid) * pair.grid for each in (base, quantized))
    return Choices(
        tasks=("task",),
        task=np.zeros(items, np.int64),
        doc_id=np.arange(items),
        labels=_labels(base / pair.temperature, cluster, pair.cluster > 1, rng),
        sizes=np.full(items, CHOICES),
        base_logprobs=base,
        quantized_logprobs=quantized,
        chars=np.full((items, CHOICES), 8),
        cluster=cluster if pair.cluster > 1 else None,
    )


def _labels(logits: Floats, cluster: Ints, clustered: bool, rng: np.random.Generator) -> Ints:
    """Draw true choices from the softmax of the logits; with clusters, half of the draws are the cluster's."""
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    order = np.argsort(-shares, axis=1)
    draws = rng.random(len(logits))
    if clustered:
        draws = np.where(rng.random(len(logits)) < 0.5, rng.random(int(cluster.max()) + 1)[cluster], draws)
    place = (draws[:, None] > np.take_along_axis(shares, order, axis=1).cumsum(axis=1)[:, :-1]).sum(axis=1)
    return np.asarray(np.take_along_axis(order, place[:, None], axis=1)[:, 0])


def window_means(windows: int, heavy: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Draw sums of lognormal values over windows of 255 tokens, with a scale for each window; and the tokens."""
    values = rng.lognormal(0.0, heavy, (windows, 255)) * rng.lognormal(0.0, 0.3, (windows, 1))
    return values, np.full(windows, 255.0)


@dataclass(frozen=True)
class Answers:
    """Distribution of the answers that a pair of models generates to an item.

    The answers part at each token with the item's ``rate``, which is exponential with that mean; lengths are lognormal
    with a median of 40 tokens, and cut at ``LONGEST``. The KL of an answer is lognormal around the item's rate. Where
    answers part, the quantized model's is right or wrong whatever the base's is.
    """

    rate: float


ANSWERS = {"alike": Answers(0.0005), "apart": Answers(0.01)}
LONGEST, ACCURACY = 256, 0.6


def draw_answers(pair: Answers, items: int, rng: np.random.Generator) -> dict[str, Proportion | Mean]:
    """Draw items, and return what a run says of their answers, by the names of rules; "accuracy" is of the change."""
    rate = pair.rate * rng.exponential(size=items)
    length = np.clip(rng.lognormal(math.log(40), 1.0, items), 1, LONGEST).round()
    part = rng.exponential(size=items) / rate
    equal = part >= length
    right = rng.random((2, items)) < ACCURACY
    kl = rate * rng.lognormal(0.0, 1.0, items)
    changed = np.where(equal, 0, right[1].astype(np.float64) - right[0])
    return {
        "accuracy": Mean(changed, -1.0, 1.0),
        "equal": Proportion(equal),
        "common_prefix": mean_within(np.minimum(np.floor(part), length), 0.0, math.inf),
        "acceptance": mean_within(np.exp(-np.sqrt(kl / 2)), 0.0, 1.0),
        "base_kl": mean_within(kl, 0.0, math.inf),
    }
