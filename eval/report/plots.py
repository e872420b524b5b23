"""The report's figures: each as JSON, with how to read it, and its numbers in words."""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]
from markupsafe import Markup

from eval.analysis.items import Analysis, Bucket
from eval.analysis.null import Band
from eval.analysis.run import RunAnalysis
from eval.report.terminal import band, bracket, number, signed
from qconf.statistics.arrays import Floats
from qconf.statistics.calibration import Bins
from qconf.statistics.intervals import Interval
from qconf.statistics.routing import RoutingCurve, at_shares

ROUTES = 201
"""Points of the routing curve that are drawn: of many thousands, nobody sees more."""
TINY = 1e-8
"""Divergences below are shown as if they were this: on a logarithmic axis, 0 has no place."""
BARS = 40
LONGEST = 22
"""Characters of a task's name beside a plot: a phone has no room for more."""
BUCKET_AXIS = {
    "title": {"text": "confidence of the base model, %"},
    "type": "category",
    "showgrid": False,
    "tickangle": 0,
}
BASE, QUANTIZED, GREY, FAINT, INK, RULE = (
    f"var(--{name})" for name in ("base", "quantized", "grey", "faint", "ink", "rule")
)
"""Colours are names of CSS variables: the page's script puts in what they are in light and in dark."""


@dataclass(frozen=True)
class Plot:
    """A figure as JSON, how to read it, and its numbers in words for those who cannot see it."""

    figure: Markup
    caption: str
    words: str


def _figure(traces: Sequence[Any], height: int, **layout: Any) -> Markup:
    axis = {
        "gridcolor": RULE, "zerolinecolor": GREY, "linecolor": RULE, "automargin": True,
        "title": {"standoff": 8},
    }  # fmt: skip
    axes = {name: axis | layout.pop(name, {}) for name in ("xaxis", "yaxis")}
    figure = go.Figure(
        traces,
        {
            "template": "none",
            "height": height,
            "margin": {"l": 8, "r": 12, "t": 30, "b": 8},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 13, "color": INK},
            "legend": {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "itemclick": False},
            "hoverlabel": {"font": {"family": "system-ui, sans-serif"}, "align": "left"},
        }
        | axes
        | {name: axis | value if name in ("xaxis2", "yaxis2") else value for name, value in layout.items()},
    )
    # In a script element, only "<" could end it.
    return Markup(figure.to_json().replace("<", "\\u003c"))


def percent(values: Floats | Sequence[float]) -> list[float]:
    return [round(100 * float(value), 4) for value in values]


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
    figure = _figure(
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
        figure,
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


def bucket_names(buckets: Sequence[Bucket]) -> list[str]:
    return [f"{100 * each.low:.0f}-{100 * each.high:.0f}" for each in buckets]


def _noise_marks(names: Sequence[str], bands: Sequence[Band], group: str, shown: bool = True) -> Any:
    """What constant noise would give in each bucket, with the middle 95 % of simulations."""
    return go.Scatter(
        x=names,
        y=percent([each.expected for each in bands]),
        mode="markers",
        name="constant noise",
        offsetgroup=group,
        showlegend=shown,
        marker={"color": INK, "symbol": "diamond", "size": 7},
        error_y={
            "type": "data",
            "array": percent([each.high - each.expected for each in bands]),
            "arrayminus": percent([each.expected - each.low for each in bands]),
            "color": INK,
            "thickness": 1.5,
            "width": 4,
        },
        hovertext=[f"constant noise: {band(each, True)}" for each in bands],
        hoverinfo="text",
    )


def bucket_shift_plot(overall: Analysis) -> Plot:
    buckets, null = overall.buckets, overall.null.buckets
    names = bucket_names(buckets)
    series = (
        ("in the true choice", [each.true_confidence_change for each in buckets], GREY, ""),
        ("in the choice made", [each.confidence_change for each in buckets], FAINT, "/"),
    )
    traces = [
        go.Bar(
            x=names,
            y=percent(values),
            name=name,
            offsetgroup=name,
            marker={
                "color": colour,
                "pattern": {"shape": shape, "size": 5, "fgcolor": GREY, "fillmode": "overlay"},
                "line": {"width": 1, "color": GREY},
            },
            hovertemplate=f"base confidence %{{x}} %<br>{name}: %{{y:+.2f}} points<extra></extra>",
        )
        for name, values, colour, shape in series
    ] + [
        _noise_marks(names, [each["true_confidence_change"] for each in null], series[0][0]),
        _noise_marks(names, [each["confidence_change"] for each in null], series[1][0], shown=False),
    ]
    figure = _figure(
        traces,
        320,
        xaxis=BUCKET_AXIS,
        yaxis={"title": {"text": "delta, points"}, "zeroline": True},
        barmode="group",
        bargap=0.3,
        scattermode="group",
        scattergap=0.3,
    )
    words = "; ".join(
        f"{name} %: {signed(each.true_confidence_change, True)} points in the true choice, "
        f"{signed(each.confidence_change, True)} in the choice made, under constant noise "
        f"{signed(noise['true_confidence_change'].expected, True)} and "
        f"{signed(noise['confidence_change'].expected, True)}"
        for name, each, noise in zip(names, buckets, null, strict=True)
    )
    return Plot(
        figure,
        "Delta of confidence (quantized minus base) among items of about equal number, from those where the base model "
        "is least sure to those where it is most. Diamonds: what noise of the same size on all items would give, with "
        "the middle 95 % of simulations.",
        f"Delta of confidence by the base model's confidence. {words}.",
    )


def bucket_flips_plot(overall: Analysis) -> Plot:
    buckets, null = overall.buckets, [each["flips"] for each in overall.null.buckets]
    names = bucket_names(buckets)
    traces = [
        go.Bar(
            x=names,
            y=percent([each.flips for each in buckets]),
            name="the run",
            marker={"color": FAINT, "line": {"width": 1, "color": GREY}},
            hovertemplate="base confidence %{x} %<br>%{y:.1f} % flips<extra></extra>",
            offsetgroup="flips",
        ),
        _noise_marks(names, null, "flips"),
    ]
    figure = _figure(
        traces,
        320,
        xaxis=BUCKET_AXIS,
        yaxis={"title": {"text": "flips, %"}, "rangemode": "tozero"},
        bargap=0.3,
    )
    words = ", ".join(
        f"{number(each.flips, True)} % at {name} % (constant noise: {band(noise, True)})"
        for name, each, noise in zip(names, buckets, null, strict=True)
    )
    return Plot(
        figure,
        "Share of answers that flipped in the same buckets, and what noise of the same size on all items would flip, "
        "with the middle 95 % of simulations.",
        f"Flips by base confidence: {words}.",
    )


def histogram_plot(values: Floats, name: str) -> Plot:
    logs = np.log10(np.maximum(values, TINY))
    low, high = math.floor(logs.min()), math.ceil(logs.max())
    edges = np.linspace(low, max(high, low + 1), BARS + 1)
    counts, _ = np.histogram(logs, edges)
    ends = 10**edges
    traces = [
        go.Bar(
            x=((edges[1:] + edges[:-1]) / 2).round(4).tolist(),
            y=counts.tolist(),
            width=float(edges[1] - edges[0]) * 0.92,
            marker={"color": GREY},
            hovertext=[f"{a:.2g} to {b:.2g} nats: {n} items" for a, b, n in zip(ends, ends[1:], counts, strict=False)],
            hoverinfo="text",
        )
    ]
    ticks = list(range(low, int(edges[-1]) + 1))
    figure = _figure(
        traces,
        280,
        xaxis={
            "title": {"text": f"{name}, nats (log)"},
            "tickvals": ticks,
            "ticktext": [f"10<sup>{each}</sup>" if each < 0 else f"{10**each}" for each in ticks],
        },
        yaxis={"title": {"text": "items"}},
    )
    median, top, mean = (float(each) for each in (np.median(values), values.max(), values.mean()))
    below = int((values < TINY).sum())
    first = f" {below} items below {TINY:g} are counted in the first bar." if below else ""
    return Plot(
        figure,
        f"{name} of the items' choices. Half of the items are below {median:.2g} nats, the mean is {mean:.2g} and the "
        f"largest {top:.2g}.{first}",
        f"Histogram of {name} over {len(values)} items: median {median:.2g}, mean {mean:.2g}, largest {top:.2g} nats.",
    )


def forest_plot(analysis: RunAnalysis, overall: Analysis, name: str, title: str) -> Plot:
    rows = [(task, each.items, each.compared[name].delta) for task, each in analysis.tasks.items()]
    traces = [_forest_trace(rows, list(range(len(rows), 0, -1)), "circle", GREY)]
    if len(rows) > 1:
        pooled = ("all tasks", overall.items, overall.compared[name].delta)
        traces.append(_forest_trace([pooled], [0], "diamond", INK))
        rows.append(pooled)
    figure = _figure(
        traces,
        80 + 26 * len(rows),
        xaxis={"title": {"text": "delta, points"}, "zeroline": True, "zerolinewidth": 1.5},
        yaxis={
            "tickvals": list(range(len(analysis.tasks), len(analysis.tasks) - len(rows), -1)),
            "ticktext": [_short(task) for task, *_ in rows],
            "showgrid": False,
            "zeroline": False,
            "range": [0.4 - (len(rows) > 1), len(analysis.tasks) + 0.6],
        },
        showlegend=False,
        title={"text": title, "x": 0, "xanchor": "left", "y": 0.99, "yanchor": "top", "font": {"size": 14}},
    )
    words = "; ".join(f"{task} {signed(e.point, True)} {bracket(e, True, signed)}" for task, _, e in rows)
    return Plot(
        figure,
        f"{title}: delta (quantized minus base) of each task with its 95 % interval. Where the line crosses 0, "
        "the change is not significant.",
        f"{title}, delta in points by task: {words}.",
    )


def _forest_trace(rows: Sequence[tuple[str, int, Interval]], places: Sequence[int], symbol: str, colour: str) -> Any:
    deltas = [each for *_, each in rows]
    return go.Scatter(
        x=percent([each.point for each in deltas]),
        y=list(places),
        mode="markers",
        marker={"symbol": symbol, "size": 10, "color": colour},
        error_x={
            "type": "data",
            "array": percent([each.high - each.point for each in deltas]),
            "arrayminus": percent([each.point - each.low for each in deltas]),
            "color": colour,
            "thickness": 1.5,
            "width": 4,
        },
        hovertext=[
            f"{html.escape(task)}, {items} items: {signed(each.point, True)} {bracket(each, True, signed)}"
            for task, items, each in rows
        ],
        hoverinfo="text",
    )


def _short(name: str) -> str:
    """A task's name for a plot, whose labels are HTML of a kind."""
    return html.escape(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…", quote=False)


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
    figure = _figure(
        traces,
        340,
        xaxis={"title": {"text": "items sent to the base model, %"}, "range": [-1, 102], "zeroline": False},
        yaxis={"title": {"text": "accuracy, %"}},
    )
    told = at_shares(curve, [0.1, 0.2, 0.5])
    return Plot(
        figure,
        "Accuracy when the items about which the quantized model is least sure are answered by the base model, by how "
        "many those are. Hover to see how much of the lost accuracy is won back. Thresholds are chosen and judged on "
        "the same items, which flatters the curve.",
        f"Routing curve. Accuracy {number(curve.quantized_accuracy, True)} % with the quantized model alone, "
        f"{number(curve.base_accuracy, True)} % with the base model alone. "
        + " ".join(
            f"{_route(*each)}." for each in _points(told)
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
