"""Differences by task with their intervals."""

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from eval.analysis.items import Analysis
from eval.analysis.run import RunAnalysis
from eval.report.format import bracket, signed
from eval.report.plots.figure import GREY, INK, Plot, figure, percent, whiskers
from qconf.statistics.intervals import Interval

LONGEST = 22
"""Characters of a task's name next to a plot: a phone has no room for more."""


def forest_plot(analysis: RunAnalysis, overall: Analysis, name: str, title: str) -> Plot:
    rows = [(task, each.items, each.compared[name].delta) for task, each in analysis.tasks.items()]
    traces = [_forest_trace(rows, list(range(len(rows), 0, -1)), "circle", GREY)]
    if len(rows) > 1:
        pooled = ("all tasks", overall.items, overall.compared[name].delta)
        traces.append(_forest_trace([pooled], [0], "diamond", INK))
        rows.append(pooled)
    shown = figure(
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
        shown,
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
        error_x=whiskers([(each.low, each.point, each.high) for each in deltas], colour),
        hovertext=[
            f"{html.escape(task)}, {items} items: {signed(each.point, True)} {bracket(each, True, signed)}"
            for task, items, each in rows
        ],
        hoverinfo="text",
    )


def _short(name: str) -> str:
    """Shorten and escape a task's name: Plotly reads labels as HTML."""
    return html.escape(name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…", quote=False)
