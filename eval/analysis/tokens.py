"""Divergence token by token over a corpus, streamed from ``tokens.parquet``: memory grows by 4 bytes per token."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from scipy import stats  # type: ignore[import-untyped]

from qconf.run.choices import EvalError
from qconf.run.folder import TOKENS
from qconf.run.tokens import read_columns
from qconf.statistics.arrays import Floats, Ints
from qconf.statistics.intervals import GROUPS, LEVEL, WINDOW_REACH, Interval, Mean, clopper_pearson
from qconf.statistics.significance import TrendTest, cochran_armitage

QUANTILES = {"median": 0.5, "p90": 0.9, "p99": 0.99, "p99_9": 0.999}
EDGES = np.linspace(0.0, 1.0, 6)
"""Buckets of the base model's confidence."""
COLUMNS = (
    "doc_id",
    "base_logprob",
    "quantized_logprob",
    "kl",
    "reverse_kl",
    "js",
    "total_variation",
    "base_confidence",
    "base_argmax",
    "quantized_argmax",
)
SUMS = (
    "tokens",
    "kl",
    "reverse_kl",
    "js",
    "total_variation",
    "same_top",
    "delta_p",
    "squared_delta_p",
    "base_nll",
    "quantized_nll",
)
MEANS = {
    "kl": (0.0, math.inf),
    "reverse_kl": (0.0, math.inf),
    "js": (0.0, math.log(2)),
    "total_variation": (0.0, 1.0),
    "same_top": (0.0, 1.0),
    "delta_p": (-1.0, 1.0),
}
"""Means over tokens that are shown, with the bounds of a token's value."""


@dataclass(frozen=True)
class TokenBucket:
    """Tokens at whose place the base model's confidence is in (low, high]; means over them."""

    low: float
    high: float
    tokens: int
    kl: float
    reverse_kl: float
    js: float
    total_variation: float
    same_top: float
    mean_delta_p: float
    rms_delta_p: float


@dataclass(frozen=True)
class TokenAnalysis:
    """A corpus under both models; logarithms are natural, intervals are clustered by window.

    ``same_top`` is the share of places where both models have the same likeliest token, Δp the probability of the token
    that is there under the quantized model less that under the base. ``kl_quantiles`` has median, 90th, 99th and 99.9th
    percentile, with Woodruff's intervals. ``disagreement_trend`` is Cochran-Armitage over the buckets of base
    confidence: negative where the likeliest tokens differ where the base model is unsure; its p takes tokens for
    independent, which within a window they are not quite. It only describes: any noise has such a trend, and the
    null of ``eval.analysis.null`` needs log-odds between tokens, which the file does not hold. ``means`` of runs of
    earlier versions lack ``total_variation``.
    """

    tokens: int
    windows: int
    means: dict[str, Interval]
    base_perplexity: Interval
    quantized_perplexity: Interval
    perplexity_ratio: Interval
    rms_delta_p: Interval
    kl_quantiles: dict[str, Interval]
    max_kl: float
    buckets: list[TokenBucket]
    disagreement_trend: TrendTest


def analyse_tokens(folder: Path, task: str) -> TokenAnalysis:
    """Analyse a corpus of a run folder, in two passes over its file. EvalError where it has none of that name."""
    windows: dict[int, int] = {}
    sums: list[Floats] = []
    buckets = np.zeros((len(EDGES) - 1, len(SUMS)))
    kl = np.empty(_rows(folder / TOKENS), np.float32)
    tokens = 0
    for doc_id, columns, confidence in _batches(folder / TOKENS, task):
        kl[tokens : tokens + len(doc_id)] = _named(columns)["kl"]
        tokens += len(doc_id)
        ids, place = np.unique(doc_id, return_inverse=True)
        batch = np.zeros((len(ids), len(SUMS)))
        np.add.at(batch, place, columns)
        for each, total in zip(ids.tolist(), batch, strict=True):
            if each in windows:
                sums[windows[each]] += total
            else:
                windows[each] = len(sums)
                sums.append(total)
        np.add.at(buckets, np.searchsorted(EDGES[1:-1], confidence, side="left"), columns)
    if not sums:
        raise EvalError(f"{folder / TOKENS} has no tokens of a corpus named '{task}'")
    max_kl = float(kl[:tokens].max())
    totals = _named(buckets)
    kl_quantiles = _quantiles(kl[:tokens], folder / TOKENS, task, windows)
    return TokenAnalysis(
        tokens=tokens,
        windows=len(sums),
        **_intervals(_named(np.array(sums))),
        kl_quantiles=kl_quantiles,
        max_kl=max_kl,
        disagreement_trend=cochran_armitage(totals["tokens"] - totals["same_top"], totals["tokens"]),
        buckets=[_bucket(*each) for each in zip(EDGES[:-1], EDGES[1:], buckets, strict=True) if each[2][0]],
    )


def _quantiles(values: npt.NDArray[np.float32], path: Path, task: str, windows: dict[int, int]) -> dict[str, Interval]:
    """Return quantiles of KL with intervals clustered by window; reorders the values in place.

    The share of tokens below an estimated quantile has an exact interval, for an effective number of tokens that
    follows from how much windows differ in it; the ends are the quantiles at the ends of that interval, NaN where
    so many tokens do not determine them. Woodruff 1952 (J. Am. Stat. Assoc. 47), with the interval of Korn &
    Graubard 1998 in place of the normal one.
    """
    shares = np.array(list(QUANTILES.values()))
    points = np.quantile(values, shares, overwrite_input=True)
    counts = np.zeros((len(windows), 1 + len(points)))
    for chosen in read_columns(path, task, ("doc_id", "kl")):
        ids, place = np.unique(chosen["doc_id"], return_inverse=True)
        rows = np.array([windows[each] for each in ids.tolist()], dtype=np.int64)[place]
        inside = chosen["kl"][:, None] <= points
        np.add.at(counts, rows, np.concatenate([np.ones((len(rows), 1)), inside], axis=1))
    return {
        name: quantile_interval(values, share, float(point), below, counts[:, 0])
        for name, share, point, below in zip(QUANTILES, shares, points, counts[:, 1:].T, strict=True)
    }


def quantile_interval(
    values: npt.NDArray[np.float32], share: float, point: float, below: Floats, tokens: Floats
) -> Interval:
    """Return the interval of the quantile ``point``, with ``below`` of each window's tokens below; reorders values."""
    low, high = clopper_pearson(share, *[_effective_tokens(below, tokens)] * 2)
    ends = _quantile(values, low), _quantile(values, high)
    return Interval(point, *ends, units=len(tokens), unit="windows", least=GROUPS)


def _effective_tokens(inside: Floats, tokens: Floats) -> float:
    """Return how many independent tokens determine the share inside as well: share (1 - share) / variance, with the
    variance of a ratio over windows, at most all tokens, and times the square of Student's quantiles' ratio."""
    windows, total = len(tokens), float(tokens.sum())
    if windows < 2:
        return math.nan
    share = float(inside.sum()) / total
    variance = windows / (windows - 1) * float(((inside - share * tokens) ** 2).sum()) / total**2
    effective = min(total, share * (1 - share) / variance) if variance else windows
    quantiles = stats.t.ppf((1 + LEVEL) / 2, [total - 1, windows - 1])
    return float(effective * (quantiles[0] / quantiles[1]) ** 2)


def _quantile(values: npt.NDArray[np.float32], share: float) -> float:
    """Return the quantile; NaN where the share is NaN, or leaves less than one value beyond."""
    if not 1 / len(values) <= share <= 1 - 1 / len(values):
        return math.nan
    return float(np.quantile(values, share, overwrite_input=True))


def _rows(path: Path) -> int:
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pa.ArrowException) as exc:
        raise EvalError(f"cannot read {path}: {exc}") from exc


def _batches(path: Path, task: str) -> Iterator[tuple[Ints, Floats, Floats]]:
    """Yield windows, the values of SUMS, and base confidences, batch by batch. EvalError names what is not finite.

    A column that the file of an earlier version lacks is NaN.
    """
    row = 0
    for numbers in read_columns(path, task, COLUMNS):
        base, quantized = (numbers[f"{name}_logprob"].astype(np.float64) for name in ("base", "quantized"))
        delta_p = np.exp(quantized) - np.exp(base)
        values = numbers | {
            "tokens": np.ones(len(base)),
            "same_top": numbers["base_argmax"] == numbers["quantized_argmax"],
            "delta_p": delta_p,
            "squared_delta_p": delta_p**2,
            "base_nll": -base,
            "quantized_nll": -quantized,
        }
        for name in SUMS:
            if name in values and not (finite := np.isfinite(values[name])).all():
                raise EvalError(f"{path}, token {row + int(finite.argmin())} of '{task}': {name} is not finite")
        columns = np.stack([values.get(name, np.full(len(base), np.nan)) for name in SUMS], axis=1)
        row += len(base)
        yield numbers["doc_id"], columns, numbers["base_confidence"].astype(np.float64)


def _named(sums: Floats) -> dict[str, Floats]:
    """Return the columns of an array by their names in SUMS."""
    return dict(zip(SUMS, sums.T, strict=True))


def _intervals(by_window: dict[str, Floats]) -> dict[str, Any]:
    tokens = by_window["tokens"]

    def mean(name: str, low: float, high: float) -> Interval:
        return mean_over_tokens(by_window[name], tokens, low, high)

    log_ratio = by_window["quantized_nll"] - by_window["base_nll"]
    return {
        "means": {name: mean(name, *ends) for name, ends in MEANS.items() if np.isfinite(by_window[name]).all()},
        "base_perplexity": mean("base_nll", 0.0, math.inf).mapped(math.exp),
        "quantized_perplexity": mean("quantized_nll", 0.0, math.inf).mapped(math.exp),
        "perplexity_ratio": mean_over_tokens(log_ratio, tokens, -math.inf, math.inf).mapped(math.exp),
        "rms_delta_p": mean("squared_delta_p", 0.0, 1.0).mapped(math.sqrt),
    }


def mean_over_tokens(sums: Floats, tokens: Floats, low: float, high: float) -> Interval:
    """Return the mean over tokens; windows are what is sampled.

    The sum S over the tokens T of windows is, to first order, the mean over windows of R + (S_w - R T_w) / T, with R
    the ratio and T the mean number of tokens of a window.
    """
    ratio = float(sums.sum() / tokens.sum())
    values = ratio + (sums - ratio * tokens) / tokens.mean()
    return Mean(values, low, high, reach=WINDOW_REACH, unit="windows", least=GROUPS).interval()


def _bucket(low: float, high: float, sums: Floats) -> TokenBucket:
    mean = {name: float(total / sums[0]) for name, total in _named(sums).items()}
    return TokenBucket(
        low=float(low),
        high=float(high),
        tokens=int(sums[0]),
        kl=mean["kl"],
        reverse_kl=mean["reverse_kl"],
        js=mean["js"],
        total_variation=mean["total_variation"],
        same_top=mean["same_top"],
        mean_delta_p=mean["delta_p"],
        rms_delta_p=math.sqrt(mean["squared_delta_p"]),
    )
