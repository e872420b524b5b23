"""Changes by the base model's confidence, each with what constant noise would give."""

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from eval.analysis.items import Analysis, Bucket
from eval.analysis.null import Band
from eval.report.format import band, number, signed
from eval.report.plots.figure import FAINT, GREY, INK, Plot, figure, percent, whiskers

BUCKET_AXIS = {
    "title": {"text": "confidence of the base model, %"},
    "type": "category",
    "showgrid": False,
    "tickangle": 0,
}


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
    shown = figure(
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
        shown,
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
    shown = figure(
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
        shown,
        "Share of answers that flipped in the same buckets, and what noise of the same size on all items would flip, "
        "with the middle 95 % of simulations.",
        f"Flips by base confidence: {words}.",
    )


def bucket_names(buckets: Sequence[Bucket]) -> list[str]:
    return [f"{100 * each.low:.0f}-{100 * each.high:.0f}" for each in buckets]


def _noise_marks(names: Sequence[str], bands: Sequence[Band], group: str, shown: bool = True) -> Any:
    """Return marks of what constant noise would give in each bucket, with the middle 95 % of simulations."""
    return go.Scatter(
        x=names,
        y=percent([each.expected for each in bands]),
        mode="markers",
        name="constant noise",
        offsetgroup=group,
        showlegend=shown,
        marker={"color": INK, "symbol": "diamond", "size": 7},
        error_y=whiskers([(each.low, each.expected, each.high) for each in bands], INK),
        hovertext=[f"constant noise: {band(each, True)}" for each in bands],
        hoverinfo="text",
    )
