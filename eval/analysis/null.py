"""Changes that do not depend on confidence: the null of every "by the base model's confidence" figure.

Items whose choices are close flip most under any noise, also under noise that is the same on every item. That they
flip most says nothing about quantization; that they flip more than under the same noise does.

The null keeps the run's own changes of log-likelihood (quantized less base, choice by choice) and permutes them among
the items of the same task, number of choices and true choice: quantized* = base + change of another item. Size, tails
and bias of the changes stay as they are, task by task; what is lost is how they go with the item's confidence. If they
do not go with it, every permutation is as likely as the one observed, so the tests are exact, whatever the distribution
of the changes. Fisher 1935, "The Design of Experiments"; the p-value counts the observed arrangement in:
Phipson & Smyth 2010 (Stat. Appl. Genet. Mol. Biol. 9, arXiv 1603.05766).

The base model's log-likelihoods are taken as given, in the run and in the null: items are put into buckets by them,
and the quantized model has the noise that it adds. Were both models equally noisy versions of a third, the most
confident items would have been lucky ones, and changes would lean against the base's choice; the spread of the changes
is therefore taken around the median of each bucket.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

from qconf.run.choices import Answers, Choices
from qconf.statistics.arrays import Booleans, Floats, Ints
from qconf.statistics.divergence import choice_divergence
from qconf.statistics.significance import cochran_armitage

SIMULATIONS = 499
MOST = 5_000
"""Largest number of items that are simulated: of more, so many are drawn at random."""
LEVEL = 0.95
ROUNDING = 1e-9
"""Relative difference up to which two statistics count as equal: sums of the same numbers in another order."""


@dataclass(frozen=True, slots=True)
class Band:
    """A number under the null: its mean, and the ends of the middle 95 % of its values."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class NullTest:
    """A statistic of the run and under the null, with the two-sided p-value of the permutation test.

    ``observed`` below ``expected``: the run is hit more where the base model is unsure than the null is.
    """

    observed: float
    expected: Band
    p_value: float


@dataclass(frozen=True)
class Null:
    """The run compared with its null, from ``items`` items and ``simulations`` permutations of their changes.

    ``buckets`` has, for each bucket that holds items, the bands of its means by the names of ``Bucket``; ``flips`` that
    of all items. The tests are for trends over the base model's confidence, negative where what is unsure changes more:
    ``flip_trend`` is Cochran-Armitage's z, ``kl_trend`` and ``shift_trend`` (the absolute change of confidence in the
    true choice) are Spearman's correlations. ``log_odds_trend`` is the direct one, near 0 under the null: Spearman's
    correlation of confidence and how far an item's change of log-odds is from the median of its bucket, which is what
    Brown & Forsythe's test of equal variances looks at (1974, J. Am. Stat. Assoc. 69).
    """

    items: int
    simulations: int
    buckets: list[dict[str, Band]]
    flips: Band
    flip_trend: NullTest
    kl_trend: NullTest
    shift_trend: NullTest
    log_odds_trend: NullTest


@dataclass(frozen=True)
class ItemChanges:
    """Changes of each item from base to quantized, each of shape (items,).

    ``log_odds`` is the change of the log-odds between the base model's choice and its runner-up; 0 where there is none.
    """

    flips: Booleans
    accuracy_change: Floats
    confidence_change: Floats
    true_confidence_change: Floats
    kl: Floats
    js: Floats
    log_odds: Floats

    @property
    def confidence_shift(self) -> Floats:
        """Absolute change of the confidence in the true choice."""
        return np.asarray(np.abs(self.true_confidence_change))


def item_changes(choices: Choices, logprobs: Floats | None = None) -> ItemChanges:
    """Return the changes of labelled items, with ``logprobs`` in place of the quantized model's if they are given."""
    base, other, divergence = choices.base, choices.quantized, choices.divergence
    if logprobs is not None:
        other, divergence = Answers(logprobs, choices.labels), choice_divergence(base.logprobs, logprobs)
    first, second = _top_two(choices)
    return ItemChanges(
        flips=base.choice != other.choice,
        accuracy_change=other.correct.astype(np.float64) - base.correct,
        confidence_change=other.confidence - base.confidence,
        true_confidence_change=other.true_share - base.true_share,
        kl=divergence.kl,
        js=divergence.js,
        log_odds=_gap(other.logprobs, first, second) - _gap(base.logprobs, first, second),
    )


def spreads(values: Floats, bucket: Ints) -> Floats:
    """Return the standard deviation of the values in each bucket, shape (largest bucket + 1,); NaN without items."""
    sizes = np.bincount(bucket)
    means = _quotient(np.bincount(bucket, values), sizes)
    return np.sqrt(_quotient(np.bincount(bucket, (values - means[bucket]) ** 2), sizes))


def constant_noise(choices: Choices, bucket: Ints, rng: np.random.Generator, simulations: int = SIMULATIONS) -> Null:
    """Simulate the null of labelled items, which are in these buckets of base confidence, shape (items,).

    At most MOST items take part, drawn at random, so that time and memory are bounded.
    """
    filled = np.unique(bucket)
    if len(choices) > MOST:
        drawn = np.zeros(len(choices), bool)
        drawn[rng.choice(len(choices), MOST, replace=False)] = True
        choices, bucket = choices.where(drawn), bucket[drawn]
    rank = stats.rankdata(choices.base.confidence)
    observed = _numbers(item_changes(choices), bucket, rank)
    simulated = [
        _numbers(item_changes(choices, logprobs), bucket, rank) for logprobs in permuted(choices, rng, simulations)
    ]
    under_null = {name: np.array([each[name] for each in simulated]) for name in observed}
    means = [name for name in observed if np.ndim(observed[name])]
    tests = {name: _test(float(observed[name]), under_null[name]) for name in observed if name.endswith("_trend")}
    return Null(
        items=len(choices),
        simulations=simulations,
        buckets=[{name: _band(under_null[name][:, at]) for name in means} for at in filled],
        flips=_band(under_null["all_flips"]),
        **tests,
    )


def permuted(choices: Choices, rng: np.random.Generator, times: int) -> Iterator[Floats]:
    """Yield log-likelihoods of twins with the changes of other items of the same task, size and label."""
    strata = np.stack([choices.task, choices.sizes, choices.labels])
    stratum = np.unique(strata, axis=1, return_inverse=True)[1].ravel()
    base = choices.base_logprobs
    change = np.zeros_like(base)
    np.subtract(choices.quantized_logprobs, base, out=change, where=np.isfinite(base))
    place = np.argsort(stratum, kind="stable")
    source = np.empty_like(place)
    for _ in range(times):
        source[place] = np.lexsort((rng.random(len(place)), stratum))
        yield base + change[source]


def _numbers(changes: ItemChanges, bucket: Ints, rank: Floats) -> Mapping[str, Floats]:
    """Return the statistics of a run or a simulated one: means by bucket, trends over ``rank`` of base confidence."""
    sizes = np.bincount(bucket)

    def mean(values: Floats | Booleans) -> Floats:
        return _quotient(np.bincount(bucket, values), sizes)

    flips = np.bincount(bucket, changes.flips)
    return {
        "flips": mean(changes.flips),
        "accuracy_change": mean(changes.accuracy_change),
        "confidence_change": mean(changes.confidence_change),
        "true_confidence_change": mean(changes.true_confidence_change),
        "confidence_shift": mean(changes.confidence_shift),
        "kl": mean(changes.kl),
        "js": mean(changes.js),
        "log_odds_spread": spreads(changes.log_odds, bucket),
        "all_flips": np.asarray(changes.flips.mean()),
        "flip_trend": np.asarray(cochran_armitage(flips, sizes).statistic),
        "kl_trend": _correlation(rank, changes.kl),
        "shift_trend": _correlation(rank, changes.confidence_shift),
        "log_odds_trend": _correlation(rank, np.abs(changes.log_odds - _medians(changes.log_odds, bucket))),
    }


def _medians(values: Floats, bucket: Ints) -> Floats:
    """Return for each item the median of its bucket."""
    found = np.empty_like(values)
    for number in np.unique(bucket):
        members = bucket == number
        found[members] = np.median(values[members])
    return found


def _correlation(rank: Floats, values: Floats) -> Floats:
    """Return Spearman's correlation from the ranks of the first; 0 where either does not vary."""
    x, y = rank - rank.mean(), stats.rankdata(values) - (len(values) + 1) / 2
    norm = np.sqrt((x @ x) * (y @ y))
    return np.asarray(x @ y / norm if norm else 0.0)


def _test(observed: float, under_null: Floats) -> NullTest:
    """Return the test with twice the smaller one-sided p-value, each with the run itself counted in."""
    slack = ROUNDING * (1 + abs(observed))
    below, above = (under_null <= observed + slack).sum(), (under_null >= observed - slack).sum()
    p_value = min(1.0, 2 * (1 + int(min(below, above))) / (1 + len(under_null)))
    return NullTest(observed, _band(under_null), p_value)


def _band(values: Floats) -> Band:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Band(float(values.mean()), float(low), float(high))


def _top_two(choices: Choices) -> tuple[Ints, Ints]:
    """Return the base model's choice and its runner-up; twice the choice where there is no other."""
    order = np.argsort(-choices.base_logprobs, axis=1, kind="stable")
    return order[:, 0], np.where(choices.sizes > 1, order[:, min(1, order.shape[1] - 1)], order[:, 0])


def _gap(logprobs: Floats, first: Ints, second: Ints) -> Floats:
    items = np.arange(len(logprobs))
    return np.asarray(logprobs[items, first] - logprobs[items, second])


def _quotient(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> Floats:
    return np.asarray(np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0))
