"""The reliability diagram of both models."""

from typing import Any

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]

from eval.analysis.items import Analysis
from eval.report.format import number
from eval.report.plots.figure import BASE, GREY, QUANTIZED, Plot, figure, percent
from qconf.statistics.calibration import Bins


def reliability_plot(overall: Analysis) -> Plot:
    models = (
        ("base", overall.base_reliability, BASE, "circle", "solid"),
        ("quantized", overall.quantized_reliability, QUANTIZED, "diamond", "dash"),
    )
    largest = max(int(bins.count.max()) for _, bins, *_ in models)
    traces: list[Any] = [
        go.Scatter(
            x=[0, 100], y=[0, 100], mode="lines", line={"color": GREY, "width": 1, "dash": "dot"},
            name="perfect", hoverinfo="skip",
        )
    ]  # fmt: skip
    for name, bins, colour, symbol, dash in models:
        traces += [
            _reliability_line(name, bins, colour, symbol, dash, largest),
            _reliability_counts(name, bins, colour),
        ]
    shown = figure(
        traces,
        470,
        xaxis={"title": {"text": "confidence, %"}, "anchor": "y2", "range": [-1, 102], "zeroline": False},
        yaxis={"title": {"text": "accuracy, %"}, "domain": [0.28, 1], "range": [0, 104]},
        yaxis2={"title": {"text": "items"}, "domain": [0, 0.2], "nticks": 3},
        barmode="group",
        bargap=0.15,
    )
    compared = overall.compared["ece"]
    return Plot(
        shown,
        "How often each model is right (up) where it is so confident (right), in 15 bins of equal width; larger marks "
        "are bins with more items, the bars below count them. On the dotted line confidence is what it says; below it "
        "the model is too sure. Bins with few items wander by chance.",
        f"Reliability diagram. Expected calibration error {number(compared.base.point, True)} % for the base model and "
        f"{number(compared.quantized.point, True)} % for the quantized one. "
        + " ".join(f"{name.capitalize()}: {_bins_in_words(bins)}." for name, bins, *_ in models),
    )


def _reliability_line(name: str, bins: Bins, colour: str, symbol: str, dash: str, largest: int) -> Any:
    filled = bins.count > 0
    return go.Scatter(
        x=percent(bins.confidence[filled]),
        y=percent(bins.accuracy[filled]),
        customdata=bins.count[filled].tolist(),
        mode="lines+markers",
        cliponaxis=False,
        name=name,
        line={"color": colour, "width": 1.5, "dash": dash},
        marker={
            "color": colour,
            "symbol": symbol,
            "size": (5 + 13 * np.sqrt(bins.count[filled] / largest)).round(1).tolist(),
            "opacity": 0.85,
            "line": {"width": 0},
        },
        hovertemplate=f"{name}: confidence %{{x:.1f}} %, accuracy %{{y:.1f}} %, %{{customdata}} items<extra></extra>",
    )


def _reliability_counts(name: str, bins: Bins, colour: str) -> Any:
    pattern = {"shape": "/" if name == "quantized" else "", "size": 4, "fillmode": "overlay", "fgcolor": "var(--paper)"}
    return go.Bar(
        x=percent((bins.low + bins.high) / 2),
        y=bins.count.tolist(),
        yaxis="y2",
        name=name,
        showlegend=False,
        marker={"color": colour, "pattern": pattern, "line": {"width": 0}},
        hovertemplate=f"{name}: %{{y}} items<extra></extra>",
    )


def _bins_in_words(bins: Bins) -> str:
    return ", ".join(
        f"{number(accuracy, True)} % right at confidence {number(confidence, True)} % ({count} items)"
        for confidence, accuracy, count in zip(bins.confidence, bins.accuracy, bins.count, strict=True)
        if count
    )
