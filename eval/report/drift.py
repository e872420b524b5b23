"""Distances between two runs, as a table and as JSON."""

from collections.abc import Mapping

from rich.table import Table

from qconf.statistics.drift import MODERATE, Distance, Key

NAMES = {
    "kl": "KL(base ‖ quantized), nats",
    "base_confidence": "confidence, base",
    "quantized_confidence": "confidence, quantized",
    "confidence_delta": "confidence, quantized minus base",
}


def drift_table(distances: Mapping[Key, Distance]) -> Table:
    """A row for each quantity."""
    table = Table(
        title="Distance from the reference (in brackets: what chance alone exceeds once in 1,000 samples)",
        caption=f"Drift: PSI above its threshold and above {MODERATE}.",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("")
    table.add_column("")
    for name in ("reference", "sample", "PSI", "JS, nats", "KS", "drift"):
        table.add_column(name, justify="right")
    for (unit, quantity), each in distances.items():
        table.add_row(
            unit,
            NAMES[quantity],
            f"{each.reference:,}",
            f"{each.samples:,}",
            f"{each.psi:.4f} ({each.psi_threshold:.4f})",
            f"{each.js:.5f} ({each.js_threshold:.5f})",
            f"{each.ks:.4f} ({each.ks_threshold:.4f})",
            "yes" if each.drifted else "no",
        )
    return table


def drift_as_json(outcome: str, distances: Mapping[Key, Distance]) -> object:
    """All numbers, and the verdict."""
    return {
        "outcome": outcome,
        "distances": [
            {"unit": unit, "quantity": quantity, "drifted": each.drifted, **vars(each)}
            for (unit, quantity), each in distances.items()
        ],
    }
