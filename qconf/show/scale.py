"""Colours of quantities, with text that can be read on them.

The scales are ColorBrewer's YlOrBr and PuOr, which it lists as colour-blind safe: Cynthia Brewer, Mark Harrower and The
Pennsylvania State University, https://colorbrewer2.org.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class Color(NamedTuple):
    """A colour in sRGB, each part from 0 to 255."""

    red: int
    green: int
    blue: int

    @property
    def hex(self) -> str:
        return f"#{self.red:02x}{self.green:02x}{self.blue:02x}"


def _colors(text: str) -> tuple[Color, ...]:
    return tuple(Color(*bytes.fromhex(each)) for each in text.split())


BLACK, WHITE = _colors("000000 ffffff")
SEQUENTIAL = _colors("ffffe5 fff7bc fee391 fec44f fe9929 ec7014 cc4c02 993404 662506")
"""From 0 to large."""
DIVERGING = _colors("542788 8073ac b2abd2 d8daeb f7f7f7 fee0b6 fdb863 e08214 b35806")
"""From negative, which is purple, over 0 to positive, which is orange."""


def on_scale(stops: Sequence[Color], place: float) -> Color:
    """Return the colour at a place from 0 to 1, linear between the stops; places beyond the ends have the ends'."""
    along = min(max(place, 0.0), 1.0) * (len(stops) - 1)
    index = min(int(along), len(stops) - 2)
    start, end = list(pairwise(stops))[index]
    parts = (round(low + (high - low) * (along - index)) for low, high in zip(start, end, strict=True))
    return Color(*parts)


def text_on(background: Color) -> Color:
    """Return black or white, whichever has the higher contrast: at least 4.5 to 1 on any background."""
    return max(BLACK, WHITE, key=lambda text: contrast(text, background))


def contrast(one: Color, other: Color) -> float:
    """Return the contrast ratio of WCAG 2.2, from 1 to 21."""
    darker, lighter = sorted((_luminance(one), _luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: Color) -> float:
    """Return WCAG's relative luminance."""
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in (each / 255 for each in color)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
