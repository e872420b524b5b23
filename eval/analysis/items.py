"""Every statistic computed for a pair of models on a set of items: intervals, tests, buckets, temperatures, routes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

import numpy as np

from eval.analysis.model_metrics import estimates, resampled
from eval.analysis.null import SIMULATIONS, Null, constant_noise, item_changes, spreads
from qconf.run.choices import Answers, Choices
from qconf.run.quantities import OF_THE_PAIR
from qconf.statistics import recalibration, significance
from qconf.statistics.arrays import Booleans, Floats, Ints
from qconf.statistics.bootstrap import RESAMPLES, resample, spread
from qconf.statistics.calibration import Bins, bin_of, ece, equal_mass_edges, equal_width_edges, reliability
from qconf.statistics.forecasts import BrierParts, brier_parts
from qconf.statistics.intervals import Interval, Mean, Proportion
from qconf.statistics.recalibration import Recalibration
from qconf.statistics.routing import RoutingCurve, routing_curve

BUCKETS = 5


@dataclass(frozen=True)
class Compared:
    """A statistic of both models, and the quantized model's less the base model's: 95 % intervals, or spreads."""

    base: Interval
    quantized: Interval
    delta: Interval


@dataclass(frozen=True)
class Tests:
    """Tests of whether the models differ: of accuracy, and of confidence in the true choice (the paper's).

    Where items belong to clusters, the p-values come from ``significance.sign_flip`` of the same quantities."""

    mcnemar: significance.McNemarTest
    paired_t: significance.PairedTest
    wilcoxon: significance.PairedTest


@dataclass(frozen=True)
class Bucket:
    """Items whose base confidence is from ``low`` to ``high``; means over them, changes being quantized less base.

    ``confidence_shift`` is the absolute change of the confidence in the true choice. ``log_odds_spread`` is not a mean
    but the standard deviation of the change of the log-odds between the base model's choice and its runner-up.
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
    """Trends of changes over the base model's confidence, negative where unsure items change more.

    They only describe: any noise has such trends, and ``Null`` tests whether the run's differ. ``flips`` is
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
    """All statistics of a set of items. ``clusters`` is the number of groups of items that belong together, None where
    each is on its own. ``compared`` has statistics of both models by name, ``pair`` statistics of the two together:
    shares of items by kind of flip, and mean divergences over the choices."""

    items: int
    clusters: int | None
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
    """Analyse labelled items, of which there must be three or more."""
    base, quantized = choices.base, choices.quantized
    bucket = bin_of(base.confidence, equal_mass_edges(base.confidence, BUCKETS))
    clusters = choices.cluster_numbers
    return Analysis(
        items=len(choices),
        clusters=None if clusters is None else int(clusters.max()) + 1,
        compared=compared_estimates(choices, clusters) | compared_spreads(choices, clusters, rng, resamples),
        pair={name: each.interval(clusters) for name, each in pair_estimates(choices).items()},
        tests=_tests(choices, clusters, rng),
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


def mcnemar(
    base: Booleans, quantized: Booleans, clusters: Ints | None, rng: np.random.Generator
) -> significance.McNemarTest:
    """Test whether both models are right equally often: exactly, or where items have clusters by flipping signs."""
    found = significance.mcnemar(base, quantized)
    if clusters is None:
        return found
    return replace(found, p_value=significance.sign_flip(quantized.astype(np.float64) - base, clusters, rng))


def _tests(choices: Choices, clusters: Ints | None, rng: np.random.Generator) -> Tests:
    base, quantized = choices.base, choices.quantized
    tests = Tests(
        mcnemar=mcnemar(base.correct, quantized.correct, clusters, rng),
        paired_t=significance.paired_t(base.true_share, quantized.true_share),
        wilcoxon=significance.wilcoxon(base.true_share, quantized.true_share),
    )
    if clusters is None:
        return tests
    changes = quantized.true_share - base.true_share

    def p_value(values: Floats) -> float:
        return significance.sign_flip(values, clusters, rng)

    return Tests(
        mcnemar=tests.mcnemar,
        paired_t=replace(tests.paired_t, p_value=p_value(changes)),
        wilcoxon=replace(tests.wilcoxon, p_value=p_value(significance.signed_ranks(changes))),
    )


def adjusted(tests: Mapping[str, Tests]) -> dict[str, dict[str, float]]:
    """Return p-values of several tasks' tests, adjusted by Holm's method over the tasks: by test, then by task."""
    found = {}
    for name in ("mcnemar", "paired_t", "wilcoxon"):
        values = significance.holm([getattr(each, name).p_value for each in tests.values()])
        found[name] = dict(zip(tests, map(float, values), strict=True))
    return found


def compared_estimates(choices: Choices, clusters: Ints | None) -> dict[str, Compared]:
    """Return the statistics of both models that have intervals, and their differences."""
    ours, theirs = (estimates(choices, each) for each in (choices.base, choices.quantized))
    return {
        name: Compared(base.interval(clusters), theirs[name].interval(clusters), theirs[name].less(base, clusters))
        for name, base in ours.items()
    }


def compared_spreads(
    choices: Choices, clusters: Ints | None, rng: np.random.Generator, resamples: int
) -> dict[str, Compared]:
    """Return the statistics of both models that have only a spread, and their differences, resample by resample."""
    ours, theirs = (resampled(choices, each) for each in (choices.base, choices.quantized))
    both = {("base", name): each for name, each in ours.items()} | {
        ("quantized", name): each for name, each in theirs.items()
    }
    drawn = resample(both, rng, clusters=clusters, resamples=resamples)
    found, items = {}, len(choices)
    for name in ours:
        base, quantized = drawn["base", name], drawn["quantized", name]
        points = ours[name].point, theirs[name].point
        found[name] = Compared(
            base=spread(points[0], base, items),
            quantized=spread(points[1], quantized, items),
            delta=spread(points[1] - points[0], quantized - base, items),
        )
    return found


def pair_estimates(choices: Choices) -> dict[str, Mean | Proportion]:
    """Return the statistics of both models together: shares of items by kind of flip, and mean divergences."""
    most = int(choices.sizes.max())
    return {name: quantity.estimate(most, choices) for name, quantity in OF_THE_PAIR.items()}


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
        ece_before=ece(answers.confidence[rest], answers.correct[rest]).point,
        ece_after=ece(scaled.confidence, scaled.correct).point,
    )


def as_json(value: object) -> object:
    """Return nested dataclasses, dictionaries and arrays as JSON has them; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {key: as_json(each) for key, each in value.items()}
    if isinstance(value, np.ndarray):
        return [as_json(each) for each in value.tolist()]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [as_json(each) for each in value]
    if is_dataclass(value):
        return {each.name: as_json(getattr(value, each.name)) for each in fields(value) if each.repr}
    return None if isinstance(value, float) and not math.isfinite(value) else value
