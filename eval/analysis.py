"""All that is said of two models on a set of items: statistics with intervals, tests, buckets, temperatures, routes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from eval import recalibration, significance
from eval.arrays import Booleans, Floats, Ints
from eval.bootstrap import RESAMPLES, Interval, interval, mean_of, resample
from eval.calibration import (
    Bins,
    BrierParts,
    bin_of,
    brier_parts,
    ece,
    equal_mass_edges,
    equal_width_edges,
    reliability,
)
from eval.choices import Answers, Choices
from eval.model_metrics import model_metrics
from eval.null import SIMULATIONS, Null, constant_noise, item_changes, spreads
from eval.recalibration import Recalibration
from eval.routing import RoutingCurve, routing_curve

BUCKETS = 5


@dataclass(frozen=True)
class Compared:
    """A statistic of both models, and the quantized model's less the base model's, each with its 95 % interval."""

    base: Interval
    quantized: Interval
    delta: Interval


@dataclass(frozen=True)
class Tests:
    """Tests of whether the models differ: of accuracy, and of confidence in the true choice (the paper's)."""

    mcnemar: significance.McNemarTest
    paired_t: significance.PairedTest
    wilcoxon: significance.PairedTest


@dataclass(frozen=True)
class Bucket:
    """Items whose base confidence is from ``low`` to ``high``; means over them, changes being quantized less base.

    ``confidence_shift`` is the absolute change of the confidence in the true choice. ``log_odds_spread`` is no mean but
    the standard deviation of the change of the log-odds between the base model's choice and its runner-up.
    """

    low: float
    high: float
    items: int
    base_accuracy: float
    accuracy_change: float
    confidence_change: float
    true_confidence_change: float
    confidence_shift: float
    flips: float
    kl: float
    reverse_kl: float
    js: float
    log_odds_spread: float


@dataclass(frozen=True)
class Trends:
    """How changes go with the base model's confidence: trends over it, negative where what is unsure changes more.

    They describe: any noise has such trends, and ``Null`` tells whether those of the run differ. ``flips`` is
    Cochran-Armitage over the buckets, ``kl`` and ``confidence_shift`` (the absolute change of the
    confidence in the true choice) Spearman's over the items.
    """

    flips: significance.TrendTest
    kl: significance.TrendTest
    confidence_shift: significance.TrendTest


@dataclass(frozen=True)
class Recalibrated:
    """A model's temperature, fitted on half of the items, and its ECE on the other half without it and with it."""

    fit: Recalibration
    ece_before: float
    ece_after: float


@dataclass(frozen=True)
class Temperatures:
    """Temperatures that calibrate each model, and one that gives the quantized model the base model's mean confidence;
    None where no temperature does."""

    base: Recalibrated
    quantized: Recalibrated
    matching: float | None


@dataclass(frozen=True)
class Analysis:
    """What the items say. ``compared`` has statistics of both models by name, ``pair`` those of the two together:
    shares of items by kind of flip, and mean divergences over the choices."""

    items: int
    compared: dict[str, Compared]
    pair: dict[str, Interval]
    tests: Tests
    base_reliability: Bins
    quantized_reliability: Bins
    base_brier: BrierParts
    quantized_brier: BrierParts
    buckets: list[Bucket]
    trends: Trends
    null: Null
    temperatures: Temperatures
    routing: RoutingCurve


def analyse(choices: Choices, rng: np.random.Generator, resamples: int = RESAMPLES) -> Analysis:
    """Analyses labelled items, of which there must be three or more."""
    base, quantized = choices.base, choices.quantized
    compared, pair = _intervals(choices, rng, resamples)
    bucket = bin_of(base.confidence, equal_mass_edges(base.confidence, BUCKETS))
    return Analysis(
        items=len(choices),
        compared=compared,
        pair=pair,
        tests=Tests(
            mcnemar=significance.mcnemar(base.correct, quantized.correct),
            paired_t=significance.paired_t(base.true_share, quantized.true_share),
            wilcoxon=significance.wilcoxon(base.true_share, quantized.true_share),
        ),
        base_reliability=reliability(base.confidence, base.correct, equal_width_edges()),
        quantized_reliability=reliability(quantized.confidence, quantized.correct, equal_width_edges()),
        base_brier=brier_parts(base.shares, choices.labels, choices.sizes),
        quantized_brier=brier_parts(quantized.shares, choices.labels, choices.sizes),
        buckets=_buckets(choices, bucket),
        trends=_trends(choices, bucket),
        temperatures=_temperatures(choices, rng),
        routing=routing_curve(quantized.confidence, base.correct, quantized.correct),
        null=constant_noise(choices, bucket, rng, min(SIMULATIONS, resamples)),
    )


def adjusted(tests: Mapping[str, Tests]) -> dict[str, dict[str, float]]:
    """P-values of several tasks' tests, adjusted by Holm's method over the tasks: by test, then by task."""
    found = {}
    for name in ("mcnemar", "paired_t", "wilcoxon"):
        values = significance.holm([getattr(each, name).p_value for each in tests.values()])
        found[name] = dict(zip(tests, map(float, values), strict=True))
    return found


def flip_kinds(choices: Choices) -> dict[str, Booleans]:
    """Which items flipped, by what became of the answer."""
    base, quantized = choices.base, choices.quantized
    flip = base.choice != quantized.choice
    return {
        "flips": flip,
        "right_to_wrong": base.correct & ~quantized.correct,
        "wrong_to_right": ~base.correct & quantized.correct,
        "wrong_to_other_wrong": flip & ~base.correct & ~quantized.correct,
    }


def _intervals(
    choices: Choices, rng: np.random.Generator, resamples: int
) -> tuple[dict[str, Compared], dict[str, Interval]]:
    ours, theirs = model_metrics(choices, choices.base), model_metrics(choices, choices.quantized)
    divergence = choices.divergence
    kinds = flip_kinds(choices)
    pair = [mean_of(name, flipped.astype(np.float64)) for name, flipped in kinds.items()]
    pair += [
        mean_of("net_loss", kinds["right_to_wrong"].astype(np.float64) - kinds["wrong_to_right"]),
        mean_of("kl", divergence.kl),
        mean_of("reverse_kl", divergence.reverse_kl),
        mean_of("js", divergence.js),
        mean_of("js_distance", divergence.js_distance),
        mean_of("total_variation", divergence.total_variation),
    ]
    # One call for all: the difference of two models is taken resample by resample. Names only have to differ.
    statistics = [metric.statistic for metrics in (ours, theirs) for metric in metrics.values()]
    named = [replace(each, name=str(number)) for number, each in enumerate([*statistics, *pair])]
    values = list(resample(named, rng, resamples=resamples).values())
    compared = {}
    for number, (name, metric) in enumerate(ours.items()):
        other = theirs[name]
        base = values[number] + (metric.value - metric.statistic.point)
        quantized = values[number + len(ours)] + (other.value - other.statistic.point)
        compared[name] = Compared(
            base=interval(metric.value, base),
            quantized=interval(other.value, quantized),
            delta=interval(other.value - metric.value, quantized - base),
        )
    together = values[2 * len(ours) :]
    return compared, {each.name: interval(each.point, drawn) for each, drawn in zip(pair, together, strict=True)}


def _buckets(choices: Choices, bucket: Ints) -> list[Bucket]:
    base, changes = choices.base, item_changes(choices)
    spread = spreads(changes.log_odds, bucket)
    found = []
    for number in np.unique(bucket):
        members = bucket == number

        def mean(values: Floats | Booleans, members: Booleans = members) -> float:
            return float(values[members].mean())

        found.append(
            Bucket(
                low=float(base.confidence[members].min()),
                high=float(base.confidence[members].max()),
                items=int(members.sum()),
                base_accuracy=mean(base.correct),
                accuracy_change=mean(changes.accuracy_change),
                confidence_change=mean(changes.confidence_change),
                true_confidence_change=mean(changes.true_confidence_change),
                confidence_shift=mean(changes.confidence_shift),
                flips=mean(changes.flips),
                kl=mean(changes.kl),
                reverse_kl=mean(choices.divergence.reverse_kl),
                js=mean(changes.js),
                log_odds_spread=float(spread[number]),
            )
        )
    return found


def _trends(choices: Choices, bucket: Ints) -> Trends:
    base, quantized = choices.base, choices.quantized
    flips = np.bincount(bucket, base.choice != quantized.choice, BUCKETS)
    return Trends(
        flips=significance.cochran_armitage(flips, np.bincount(bucket, minlength=BUCKETS)),
        kl=significance.spearman_trend(base.confidence, choices.divergence.kl),
        confidence_shift=significance.spearman_trend(base.confidence, np.abs(quantized.true_share - base.true_share)),
    )


def _temperatures(choices: Choices, rng: np.random.Generator) -> Temperatures:
    halves = rng.integers(2**63)  # both models are fitted on the same half
    base, quantized = (_recalibrated(each, np.random.default_rng(halves)) for each in (choices.base, choices.quantized))
    target = recalibration.mean_confidence(choices.base_logprobs)
    try:
        matching: float | None = recalibration.match_confidence(choices.quantized_logprobs, target)
    except ValueError:
        matching = None
    return Temperatures(base, quantized, matching)


def _recalibrated(answers: Answers, rng: np.random.Generator) -> Recalibrated:
    fit, rest = recalibration.recalibrate(answers.logprobs, answers.labels, rng)
    scaled = Answers(answers.logprobs[rest] / fit.temperature, answers.labels[rest])
    return Recalibrated(
        fit=fit,
        ece_before=ece(answers.confidence[rest], answers.correct[rest]),
        ece_after=ece(scaled.confidence, scaled.correct),
    )


def as_json(value: object) -> object:
    """Nested dataclasses, dictionaries and arrays as JSON has them; what is not finite is null."""
    if isinstance(value, Mapping):
        return {key: as_json(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return [as_json(each) for each in value.tolist()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_json(each) for each in value]
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_json(getattr(value, name)) for name in value.__dataclass_fields__}
    return None if isinstance(value, float) and not math.isfinite(value) else value
