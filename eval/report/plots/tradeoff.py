"""What variants lose, over their size."""

import html
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go  # type: ignore[import-untyped]

from eval.report.format import bracket, number, signed
from eval.report.plots.figure import GREY, INK, Plot, Scale, figure, percent, whiskers
from eval.report.size import in_bytes
from eval.report.variants import Loss

LONGEST = 22
"""Characters of a variant's name next to its mark: a phone has no room for more."""
MARGIN = 0.12
"""Room beside the smallest and the largest variant, as a share of the range of sizes."""


def tradeoff_plot(names: Sequence[str], loss: Loss) -> Plot:
    """Plot a loss of each variant over its size."""
    bits = [each.bits_per_weight for each in loss.sizes]
    room = MARGIN * ((max(bits) - min(bits)) or 1)
    unit = "points" if loss.share else "nats"
    shown = figure(
        [
            _marks(names, loss, True, "undominated", INK, "diamond"),
            _marks(names, loss, False, "dominated", GREY, "circle-open"),
        ],
        340,
        xaxis={
            "title": {"text": "size, bits per weight"},
            "range": [min(bits) - room, max(bits) + room],
            "zeroline": False,
        },
        yaxis={"title": {"text": f"{_escaped(loss.heading)}, {unit}"}, "rangemode": "tozero"},
        showlegend=True,
    )
    heading = f"{loss.heading[0].upper()}{loss.heading[1:]}"
    words = "; ".join(
        f"{name}{', undominated' if best else ''}: {_point(loss, place)}"
        for place, (name, best) in enumerate(zip(names, loss.undominated, strict=True))
    )
    return Plot(
        shown,
        f"{heading} of each variant with its 95 % interval, over its size. Undominated: no other variant is both no "
        "larger and no worse, by the estimates alone.",
        f"{heading} over size: {words}.",
    )


def _marks(names: Sequence[str], loss: Loss, best: bool, title: str, colour: str, symbol: str) -> Any:
    """Mark the variants that are undominated, or those that are not."""
    bits = [each.bits_per_weight for each in loss.sizes]
    middle = (min(bits) + max(bits)) / 2
    places = [place for place, each in enumerate(loss.undominated) if each == best]
    values = [loss.values[place] for place in places]
    scaled: Scale = percent if loss.share else list
    return go.Scatter(
        x=[bits[place] for place in places],
        y=scaled([each.point for each in values]),
        mode="markers+text",
        name=title,
        marker={"symbol": symbol, "size": 10, "color": colour},
        error_y=whiskers([(each.low, each.point, each.high) for each in values], colour, scaled),
        text=[_label(names[place]) for place in places],
        textposition=[f"top {'right' if bits[place] <= middle else 'left'}" for place in places],
        textfont={"color": colour},
        cliponaxis=False,
        hovertext=[f"{_escaped(names[place])}: {_point(loss, place)}" for place in places],
        hoverinfo="text",
    )


def _point(loss: Loss, place: int) -> str:
    """Write a variant's size and loss."""
    size, value = loss.sizes[place], loss.values[place]
    show = signed if loss.share else number
    return (
        f"{in_bytes(size.bytes)}, {size.bits_per_weight:.2f} bits per weight, "
        f"{show(value.point, loss.share)} {bracket(value, loss.share, show)}"
    )


def _label(name: str) -> str:
    """Shorten a name to its end, where variants of one base differ."""
    return _escaped(name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}")


def _escaped(text: str) -> str:
    """Escape names of models and corpora: Plotly reads texts as HTML."""
    return html.escape(text, quote=False)
