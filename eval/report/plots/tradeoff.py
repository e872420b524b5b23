"""What variants lose, over their size."""

import html
import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import numpy as np
import plotly.graph_objects as go  # type: ignore[import-untyped]

from eval.report.format import bracket, number, signed
from eval.report.plots.figure import GREY, INK, Plot, Scale, figure, percent, whiskers
from eval.report.size import in_bytes
from eval.report.variants import Loss

LONGEST = 22
"""Characters of a variant's name next to its mark: a phone has no room for more."""
MARGIN = 0.12
"""Room around the variants, for labels, as a share of the range."""


def tradeoff_plot(names: Sequence[str], loss: Loss) -> Plot:
    """Plot a loss of each variant over its size."""
    scaled: Scale = percent if loss.share else list
    ends = scaled([0.0, *(end for each in loss.values for end in (each.low, each.point, each.high))])
    unit = "points" if loss.share else "nats"
    shown = figure(
        [
            _marks(names, loss, True, "undominated", INK, "diamond"),
            _marks(names, loss, False, "dominated", GREY, "circle-open"),
        ],
        340,
        xaxis={"title": {"text": "size, bits per weight"}, "range": _range(_bits(loss)), "zeroline": False},
        yaxis={"title": {"text": f"{_escaped(loss.heading)}, {unit}"}, "range": _range(ends), "zeroline": True},
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
    bits, labels, positions = _bits(loss), _labels(names), _positions(loss)
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
        text=[labels[place] for place in places],
        textposition=[positions[place] for place in places],
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


def _bits(loss: Loss) -> list[float]:
    return [each.bits_per_weight for each in loss.sizes]


def _range(values: Sequence[float]) -> list[float]:
    """Return the range of an axis, with room for labels; interval ends may be NaN."""
    known = [each for each in values if math.isfinite(each)]
    room = MARGIN * ((max(known) - min(known)) or 1)
    return [min(known) - room, max(known) + room]


def _labels(names: Sequence[str]) -> list[str]:
    """Shorten names by the words that all begin with, and the long ones to their end."""
    first, last = min(names), max(names)
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    begin = max(first.rfind(mark, 0, common) for mark in "/-_") + 1
    rest = [name[begin:] for name in names]
    return [_escaped(name if len(name) <= LONGEST else f"…{name[1 - LONGEST :]}") for name in rest]


def _positions(loss: Loss) -> list[str]:
    """Place each label to the side of the middle, and away from the nearest variant's."""
    bits, values = (np.array(each) for each in (_bits(loss), [each.point for each in loss.values]))
    x, y = ((each - each.min()) / (np.ptp(each) or 1) for each in (bits, values))
    distance = np.hypot(x[:, None] - x, y[:, None] - y)
    np.fill_diagonal(distance, np.inf)
    below = y[distance.argmin(axis=1)] > y
    return [
        f"{'bottom' if under else 'top'} {'right' if place <= 0.5 else 'left'}"
        for under, place in zip(below, x, strict=True)
    ]


def _escaped(text: str) -> str:
    """Escape names of models and corpora: Plotly reads texts as HTML."""
    return html.escape(text, quote=False)
