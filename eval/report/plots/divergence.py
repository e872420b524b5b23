"""The histogram of a divergence over items."""

import math

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]

from eval.report.plots.figure import GREY, Plot, figure
from qconf.statistics.arrays import Floats

TINY = 1e-8
"""Smaller divergences are shown as this one: a logarithmic axis has no 0."""
BARS = 40


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
    shown = figure(
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
        shown,
        f"{name} of the items' choices. Half of the items are below {median:.2g} nats, the mean is {mean:.2g} and the "
        f"largest {top:.2g}.{first}",
        f"Histogram of {name} over {len(values)} items: median {median:.2g}, mean {mean:.2g}, largest {top:.2g} nats.",
    )
