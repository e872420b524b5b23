"""The latest comparisons as gauges: calibration, and drift against a reference."""

import copy
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from qconf.statistics.arrays import Floats
from qconf.statistics.calibration import BINS, bin_of
from qconf.statistics.drift import Distance, Key, Reference
from server.monitoring.confidence_metrics import BIN_EDGES
from server.monitoring.observation import Observations
from server.monitoring.sliding import Damaged, SlidingSums
from server.scoring.scored import MODELS

logger = logging.getLogger(__name__)
PER_MODEL = 3 * BINS + 1
"""Sums per model: labelled items, right answers and confidence by bin, then the Brier score."""


class LiveWindow(Collector):
    """A sliding window over comparisons. Adding and collecting may be on two threads.

    ``pair`` tells pairs apart: a saved window is only taken up for the pair and the reference that it is of.
    """

    def __init__(
        self,
        most: int,
        seconds: float,
        pair: str,
        reference: Reference,
        registry: CollectorRegistry,
        folder: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        time_of_day: Callable[[], float] = time.time,
    ) -> None:
        self._reference = reference
        self._clock, self._time_of_day = clock, time_of_day
        self._lock, self._saving = threading.Lock(), threading.Lock()
        self._window = SlidingSums(len(MODELS) * PER_MODEL + len(reference.own), most, seconds)
        identity = hashlib.sha256(pair.encode() + reference.own.tobytes()).hexdigest()[:16]
        self._path = None if folder is None else folder / f"window-{identity}.npz"
        if self._path is not None and self._path.exists():
            self._restore(self._path)
        registry.register(self)

    def _restore(self, path: Path) -> None:
        """Restore the window; a damaged file is kept aside, since monitoring must not keep the server from serving."""
        try:
            self._window.load(path, self._clock(), self._time_of_day())
        except Damaged as damage:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            logger.error("%s is damaged (%s): kept as %s, the window begins empty", path, damage, aside.name)

    @property
    def step(self) -> int:
        """How many comparisons to add at a time, at most, for the window to slide smoothly."""
        return self._window.step

    def observe(self, observations: Observations) -> None:
        """Add comparisons."""
        vector = np.concatenate([_calibration(observations), self._reference.sums(observations.samples())])
        with self._lock:
            self._window.add(vector, observations.count, self._clock())

    def save(self) -> None:
        """Write the window to its file, if it has one. Raises OSError."""
        if self._path is not None:
            with self._saving:
                with self._lock:
                    window, now = copy.deepcopy(self._window), self._clock()
                window.save(self._path, now, self._time_of_day())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """For the registry."""
        with self._lock:
            comparisons, sums = self._window.total(self._clock())
        yield GaugeMetricFamily("qconf_window_comparisons", "Comparisons in the sliding window.", comparisons)
        calibration, drift = np.split(sums, [len(MODELS) * PER_MODEL])
        yield from _calibration_gauges(calibration.reshape(len(MODELS), PER_MODEL))
        yield from _drift_gauges(self._reference.distances(drift))


def _calibration(observations: Observations) -> Floats:
    parts = []
    for model in range(len(MODELS)):
        confidence = observations.confidence[observations.labelled, model]
        right = observations.right[observations.labelled, model]
        bins = bin_of(confidence, BIN_EDGES)
        parts += [np.bincount(bins, weights, BINS) for weights in (None, right, confidence)]
        parts.append(observations.brier[:, model].sum(keepdims=True))
    return np.concatenate(parts)


def _calibration_gauges(sums: Floats) -> Iterator[GaugeMetricFamily]:
    count, hits, confidence = sums[:, :-1].reshape(len(MODELS), 3, BINS).swapaxes(0, 1)
    labelled = count[0].sum()
    ece = GaugeMetricFamily("qconf_window_ece", "Expected calibration error over the sliding window.", labels=["model"])
    brier = GaugeMetricFamily("qconf_window_brier_score", "Brier score over the sliding window.", labels=["model"])
    if labelled:
        for model, name in enumerate(MODELS):
            ece.add_metric([name], np.abs(hits[model] - confidence[model]).sum() / labelled)
            brier.add_metric([name], sums[model, -1] / labelled)
    yield GaugeMetricFamily("qconf_window_labelled_items", "Items with a label in the sliding window.", float(labelled))
    yield ece
    yield brier


def _drift_gauges(distances: dict[Key, Distance]) -> Iterator[GaugeMetricFamily]:
    labels = ["unit", "quantity"]
    for name, meaning in (
        ("psi", "Population stability index"),
        ("js", "Jensen-Shannon divergence, in nats,"),
        ("ks", "Kolmogorov-Smirnov distance"),
    ):
        value = GaugeMetricFamily(f"qconf_drift_{name}", f"{meaning} of window and reference.", labels=labels)
        threshold = GaugeMetricFamily(
            f"qconf_drift_{name}_threshold", "What chance alone exceeds once in a thousand windows.", labels=labels
        )
        for key, distance in distances.items():
            value.add_metric(key, getattr(distance, name))
            threshold.add_metric(key, getattr(distance, f"{name}_threshold"))
        yield value
        yield threshold
    samples = GaugeMetricFamily("qconf_drift_samples", "Values that drift is told from.", labels=[*labels, "side"])
    for key, distance in distances.items():
        samples.add_metric([*key, "reference"], distance.reference)
        samples.add_metric([*key, "window"], distance.samples)
    yield samples
