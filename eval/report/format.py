"""How numbers, intervals and p-values are written, in tables and in sentences."""

import math
from collections.abc import Callable

from eval.analysis.null import Band
from qconf.statistics.intervals import Interval


def number(value: float, share: bool) -> str:
    """Write a share in percent, or a number with four digits."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}" if share else f"{value:.4f}"


def signed(value: float, share: bool) -> str:
    """Write the same with its sign."""
    return "-" if math.isnan(value) else f"{100 * value:+.1f}" if share else f"{value:+.4f}"


def fine(value: float, share: bool) -> str:
    """Write a share as ``number`` does, and of a divergence, which may be tiny, the first digits that are not zero."""
    return number(value, share) if share or math.isnan(value) else f"{value:.3g}"


def excludes(each: Interval, nothing: float = 0.0) -> bool:
    """Return whether a confidence interval excludes no change; a spread never does, as it is not an interval."""
    return each.kind == "interval" and (each.low > nothing or each.high < nothing)


def bracket(each: Interval, share: bool, show: Callable[[float, bool], str] = number) -> str:
    """Write the ends of an interval in square brackets, the ends of a spread as ~( )."""
    ends = f"{show(each.low, share)}, {show(each.high, share)}"
    return f"[{ends}]" if each.kind == "interval" else f"~({ends})"


def with_interval(each: Interval, share: bool) -> str:
    """Write an estimate and the ends of its interval, or of its spread."""
    return f"{number(each.point, share)} {bracket(each, share)}"


def change(delta: Interval, share: bool) -> tuple[str, str]:
    """Write a difference and its interval, with a star where an interval excludes 0."""
    star = " *" if excludes(delta) else "  "
    return signed(delta.point, share), f"{bracket(delta, share, signed)}{star}"


def band(each: Band, share: bool) -> str:
    """Write what constant noise would give."""
    return f"{number(each.expected, share)} [{number(each.low, share)}, {number(each.high, share)}]"


def p_value(value: float) -> str:
    """Write a p-value with two significant digits, tiny ones as a bound."""
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def p_equals(value: float) -> str:
    """Write the same for a sentence: "= 0.034" or "< 0.0001"."""
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"
