"""Prometheus metrics of confidence, divergence and calibration, counted since the server started.

Every series is there from the start, at 0: a rate needs a value to rise from.
"""

import itertools

import numpy as np
from prometheus_client import CollectorRegistry, Counter

from qconf.statistics.calibration import BINS, bin_of, equal_width_edges
from server.monitoring.histogram import ArrayHistogram
from server.monitoring.observation import Observations
from server.scoring.scored import MODELS

KL_BOUNDS = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1, 3, 10)
JS_BOUNDS = (1e-6, 1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 0.2, 0.4, 0.7)
CONFIDENCE_BOUNDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1)
DELTA_BOUNDS = (-0.5, -0.2, -0.1, -0.05, -0.02, -0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
ENTROPY_BOUNDS = (0.01, 0.03, 0.1, 0.3, 1, 2, 3, 5, 8, 12)

BIN_EDGES = equal_width_edges()
BIN_NAMES = tuple(f"{number + 1:02}" for number in range(BINS))
FLIPS = ("right_to_wrong", "wrong_to_right", "wrong_to_other_wrong", "unlabelled")
PER_MODEL = ("model", MODELS)


class ConfidenceMetrics:
    """All that a comparison adds to."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._comparisons = Counter("qconf_comparisons", "Comparisons answered.", registry=registry)
        self._tokens = _TokenMetrics(registry)
        self._items = _ItemMetrics(registry)

    def observe(self, observations: Observations) -> None:
        """Add comparisons."""
        self._comparisons.inc(observations.count)
        self._tokens.observe(observations)
        self._items.observe(observations)


class _TokenMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self._tokens = Counter("qconf_compared_tokens", "Tokens that were compared.", registry=registry)
        self._disagreements = Counter(
            "qconf_top_token_disagreements",
            "Tokens at whose place the models' likeliest tokens differ.",
            registry=registry,
        )
        self._kl = ArrayHistogram(
            "qconf_token_kl_nats", "KL(base || quantized) of a token.", KL_BOUNDS, registry=registry
        )
        self._js = ArrayHistogram(
            "qconf_token_js_nats", "Jensen-Shannon divergence of a token.", JS_BOUNDS, registry=registry
        )
        self._confidence = ArrayHistogram(
            "qconf_token_confidence",
            "Largest probability at a token's place.",
            CONFIDENCE_BOUNDS,
            label=PER_MODEL,
            registry=registry,
        )
        self._delta = ArrayHistogram(
            "qconf_token_confidence_delta",
            "Largest probability at a token's place, quantized minus base.",
            DELTA_BOUNDS,
            registry=registry,
        )
        self._entropy = ArrayHistogram(
            "qconf_token_entropy_nats",
            "Entropy of the distribution that predicts a token.",
            ENTROPY_BOUNDS,
            label=PER_MODEL,
            registry=registry,
        )

    def observe(self, observations: Observations) -> None:
        tokens = observations.tokens
        self._tokens.inc(len(tokens.values))
        self._disagreements.inc(int((tokens["base_argmax"] != tokens["quantized_argmax"]).sum()))
        self._kl.observe(tokens["kl"])
        self._js.observe(tokens["js"])
        self._delta.observe(observations.token_delta)
        for model, name in enumerate(MODELS):
            self._confidence.observe(tokens[f"{name}_confidence"], model)
            self._entropy.observe(tokens[f"{name}_entropy"], model)


class _ItemMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, documentation: str, **labels: tuple[str, ...]) -> Counter:
            made = Counter(name, documentation, list(labels), registry=registry)
            for values in itertools.product(*labels.values()):
                made.labels(*values)
            return made

        self._items = counter("qconf_items", "Comparisons with two choices or more.", labelled=("true", "false"))
        self._flips = counter("qconf_flips", "Items whose choice differs, by what became of the answer.", kind=FLIPS)
        self._confidence = ArrayHistogram(
            "qconf_choice_confidence",
            "Confidence of a model in its choice.",
            CONFIDENCE_BOUNDS,
            label=PER_MODEL,
            registry=registry,
        )
        self._delta = ArrayHistogram(
            "qconf_choice_confidence_delta",
            "Confidence in the choice, quantized minus base.",
            DELTA_BOUNDS,
            registry=registry,
        )
        self._answers = counter(
            "qconf_answers", "Answers to items with a label.", model=MODELS, correct=("true", "false")
        )
        self._brier = counter("qconf_brier_score", "Sum of the Brier scores of items with a label.", model=MODELS)
        per_bin = {"model": MODELS, "bin": BIN_NAMES}
        self._bin_items = counter("qconf_calibration_items", "Items with a label, by bin of confidence.", **per_bin)
        self._bin_hits = counter("qconf_calibration_hits", "Right answers, by bin of confidence.", **per_bin)
        self._bin_confidence = counter("qconf_calibration_confidence", "Sum of confidence, by bin of it.", **per_bin)

    def observe(self, observations: Observations) -> None:
        labelled = observations.labelled
        self._items.labels("true").inc(int(labelled.sum()))
        self._items.labels("false").inc(int((~labelled).sum()))
        for kind, count in observations.flips.items():
            self._flips.labels(kind).inc(count)
        self._delta.observe(observations.choice_delta)
        for model, name in enumerate(MODELS):
            self._confidence.observe(observations.confidence[:, model], model)
            confidence, right = observations.confidence[labelled, model], observations.right[labelled, model]
            self._answers.labels(name, "true").inc(int(right.sum()))
            self._answers.labels(name, "false").inc(int((~right).sum()))
            self._brier.labels(name).inc(float(observations.brier[:, model].sum()))
            for place in np.unique(bins := bin_of(confidence, BIN_EDGES)).tolist():
                inside = bins == place
                self._bin_items.labels(name, BIN_NAMES[place]).inc(int(inside.sum()))
                self._bin_hits.labels(name, BIN_NAMES[place]).inc(int(right[inside].sum()))
                self._bin_confidence.labels(name, BIN_NAMES[place]).inc(float(confidence[inside].sum()))
