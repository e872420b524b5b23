"""A figure of the page: as JSON for Plotly, with how to read it, and its numbers in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]
from markupsafe import Markup

from qconf.statistics.arrays import Floats

BASE, QUANTIZED, GREY, FAINT, INK, RULE = (
    f"var(--{name})" for name in ("base", "quantized", "grey", "faint", "ink", "rule")
)
"""Colours are names of CSS variables: the page's script replaces them with their values in light and in dark."""
Scale = Callable[[Sequence[float]], list[float]]
"""Numbers to the unit of an axis."""


@dataclass(frozen=True)
class Plot:
    """A figure as JSON, how to read it, and its numbers in words for those who cannot see it."""

    figure: Markup
    caption: str
    words: str


def figure(traces: Sequence[Any], height: int, **layout: Any) -> Markup:
    """Return traces in the page's layout as JSON."""
    axis = {
        "gridcolor": RULE, "zerolinecolor": GREY, "linecolor": RULE, "automargin": True,
        "title": {"standoff": 8},
    }  # fmt: skip
    axes = {name: axis | layout.pop(name, {}) for name in ("xaxis", "yaxis")}
    drawn = go.Figure(
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
    return Markup(drawn.to_json().replace("<", "\\u003c"))


def percent(values: Floats | Sequence[float]) -> list[float]:
    """Return shares in percent."""
    return [round(100 * float(value), 4) for value in values]


def whiskers(ranges: Sequence[tuple[float, float, float]], colour: str, scaled: Scale = percent) -> dict[str, Any]:
    """Return error bars from the low end, the value and the high end of each; ``scaled`` is the axis's unit."""
    return {
        "type": "data",
        "array": scaled([high - value for _, value, high in ranges]),
        "arrayminus": scaled([value - low for low, value, _ in ranges]),
        "color": colour,
        "thickness": 1.5,
        "width": 4,
    }
