"""Distances between two runs, as a table and as JSON."""

from collections.abc import Mapping

from eval.report.grid import Grid
from qconf.statistics.drift import MODERATE, Distance, Key

NAMES = {
    "kl": "KL(base ‖ quantized), nats",
    "base_confidence": "confidence, base",
    "quantized_confidence": "confidence, quantized",
    "confidence_delta": "confidence, quantized minus base",
}


def drift_table(distances: Mapping[Key, Distance]) -> Grid:
    """Return a row for each quantity."""
    return Grid(
        "Distance from the reference; in brackets, what chance alone exceeds once in 1,000 samples. Drift: PSI above "
        f"its threshold and above {MODERATE}.",
        ["", "quantity", "reference", "sample", "PSI", "JS, nats", "KS", "drift"],
        [
            [
                unit,
                NAMES[quantity],
                f"{each.reference:,}",
                f"{each.samples:,}",
                f"{each.psi:.4f} ({each.psi_threshold:.4f})",
                f"{each.js:.5f} ({each.js_threshold:.5f})",
                f"{each.ks:.4f} ({each.ks_threshold:.4f})",
                "yes" if each.drifted else "no",
            ]
            for (unit, quantity), each in distances.items()
        ],
    )


def drift_as_json(outcome: str, distances: Mapping[Key, Distance]) -> object:
    """Return all numbers, and the verdict."""
    return {
        "outcome": outcome,
        "distances": [
            {"unit": unit, "quantity": quantity, "drifted": each.drifted, **vars(each)}
            for (unit, quantity), each in distances.items()
        ],
    }
