"""Accuracy when unsure requests are sent to the base model."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]

from eval.report.format import number
from eval.report.plots.figure import BASE, INK, QUANTIZED, Plot, figure, percent
from qconf.statistics.routing import RoutingCurve, at_shares

ROUTES = 201
"""Points of the routing curve that are drawn: more cannot be seen."""


def routing_plot(curve: RoutingCurve) -> Plot:
    points = at_shares(curve, np.linspace(0.0, 1.0, ROUTES).tolist())
    traces = [
        _level("quantized alone", curve.quantized_accuracy, QUANTIZED, "dash"),
        _level("base alone", curve.base_accuracy, BASE, "solid"),
        go.Scatter(
            x=percent(points.share),
            y=percent(points.accuracy),
            mode="lines",
            name="mixture",
            line={"color": INK, "width": 2, "shape": "hv"},
            hovertext=[_route(*each) for each in _points(points)],
            hoverinfo="text",
        ),
    ]
    shown = figure(
        traces,
        340,
        xaxis={"title": {"text": "items sent to the base model, %"}, "range": [-1, 102], "zeroline": False},
        yaxis={"title": {"text": "accuracy, %"}},
    )
    in_words = at_shares(curve, [0.1, 0.2, 0.5])
    return Plot(
        shown,
        "Accuracy when the items about which the quantized model is least sure are answered by the base model, by how "
        "many those are. Hover to see how much of the lost accuracy is recovered. Thresholds are chosen and judged on "
        "the same items, which flatters the curve.",
        f"Routing curve. Accuracy {number(curve.quantized_accuracy, True)} % with the quantized model alone, "
        f"{number(curve.base_accuracy, True)} % with the base model alone. "
        + " ".join(
            f"{_route(*each)}." for each in _points(in_words)
        ),
    )  # fmt: skip


def _level(name: str, accuracy: float, colour: str, dash: str) -> Any:
    return go.Scatter(
        x=[0, 100],
        y=percent([accuracy] * 2),
        mode="lines",
        name=name,
        line={"color": colour, "width": 1.5, "dash": dash},
        hoverinfo="skip",
    )


def _points(curve: RoutingCurve) -> Iterator[tuple[float, float, float, float]]:
    return zip(curve.share, curve.threshold, curve.accuracy, curve.recovered, strict=True)


def _route(share: float, threshold: float, accuracy: float, recovered: float) -> str:
    text = f"{number(share, True)} % sent to the base model"
    if 0 < share < 1:
        text += f" (confidence below {number(threshold, True)} %)"
    text += f": accuracy {number(accuracy, True)} %"
    return text if math.isnan(recovered) else f"{text}, {100 * recovered:.0f} % of the loss recovered"
