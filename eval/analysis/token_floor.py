"""The noise floor over the tokens of a corpus: two runs of the same pair, compared token by token.

``tokens.parquet`` has the KL of base and quantized of one run, but of a model's two measurements only the probability
of the token that is there, and the likeliest token: KL between them cannot be known. What can be is named for what it
is. ``token_kl`` is the KL of one event, that this token comes next: p log(p/q) + (1-p) log((1-p)/(1-q)). It is never
above the KL of the whole distributions (data processing inequality; Cover & Thomas 2006, "Elements of Information
Theory", section 2.8). So KL less the floor's ``token_kl`` at the same token is never below the true excess of KL.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from eval.analysis.tokens import mean_over_tokens
from qconf.run.choices import EvalError
from qconf.run.folder import TOKENS
from qconf.run.tokens import read_columns
from qconf.statistics.arrays import Floats
from qconf.statistics.intervals import Interval

COLUMNS = (
    "doc_id",
    "position",
    "token_id",
    "base_logprob",
    "quantized_logprob",
    "base_argmax",
    "quantized_argmax",
    "kl",
)
PLACE = ("doc_id", "position", "token_id")
MOST = {"top_changed": 1.0, "abs_delta_p": 1.0, "abs_delta_logprob": math.inf, "token_kl": math.inf}
"""Differences at a token, with the largest possible value of each; the smallest is 0."""
NAMES = tuple(MOST)
PARTS = ("pair", "base", "quantized")
FINEST = 1e-7
"""Precision of the log-probabilities: what is nearer to 0 counts as so far from it."""

Columns = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class TokenFloor:
    """Floors of a corpus by statistic, means over tokens with intervals clustered by window.

    ``base`` and ``quantized`` are what each model's second measurement differs by from its first at the same token:
    ``top_changed`` the share of places with another likeliest token, ``abs_delta_p`` and ``abs_delta_logprob`` the
    absolute change of the probability, and of its logarithm, of the token that is there, and ``token_kl``. ``excess``
    is what base and quantized differ by beyond the floor of ``taken``; its ``kl`` is an upper bound.
    ``kl_change`` is how much KL(base || quantized) itself differs between the runs, |first - second|.
    """

    tokens: int
    windows: int
    base: dict[str, Interval]
    quantized: dict[str, Interval]
    excess: dict[str, Interval]
    taken: dict[str, Literal["base", "quantized"]]
    kl_change: Interval


def token_floor(run: Path, second: Path, task: str) -> TokenFloor:
    """Compare a corpus in two run folders in one pass. EvalError names the first token in which they differ."""
    totals: dict[int, Floats] = {}
    for ours, theirs in aligned(run / TOKENS, second / TOKENS, task):
        values = token_differences(ours, theirs)
        ids, place = np.unique(ours["doc_id"], return_inverse=True)
        batch = np.zeros((len(ids), values.shape[1]))
        np.add.at(batch, place, values)
        for window, total in zip(ids.tolist(), batch, strict=True):
            totals[window] = totals.get(window, 0.0) + total
    if not totals:
        raise EvalError(f"{run / TOKENS} has no tokens of a corpus named '{task}'")
    sums = np.array(list(totals.values()))
    tokens, kl, kl_change = sums[:, 0], sums[:, 1], sums[:, 2]
    parts = {
        part: dict(zip(NAMES, columns.T, strict=True))
        for part, columns in zip(PARTS, np.split(sums[:, 3:], len(PARTS), axis=1), strict=True)
    }
    taken: dict[str, Literal["base", "quantized"]] = {
        name: "base" if parts["base"][name].sum() <= parts["quantized"][name].sum() else "quantized" for name in NAMES
    }
    excess = {
        name: mean_over_tokens(parts["pair"][name] - parts[taken[name]][name], tokens, -most, most)
        for name, most in MOST.items()
    }
    taken["kl"] = taken["token_kl"]
    excess["kl"] = mean_over_tokens(kl - parts[taken["kl"]]["token_kl"], tokens, -math.inf, math.inf)
    return TokenFloor(
        tokens=int(tokens.sum()),
        windows=len(sums),
        base={name: mean_over_tokens(parts["base"][name], tokens, 0.0, most) for name, most in MOST.items()},
        quantized={name: mean_over_tokens(parts["quantized"][name], tokens, 0.0, most) for name, most in MOST.items()},
        excess=excess,
        taken=taken,
        kl_change=mean_over_tokens(kl_change, tokens, 0.0, math.inf),
    )


def token_differences(ours: Columns, theirs: Columns) -> Floats:
    """Return for each token 1, KL, its change, then NAMES for base and quantized, base twice, quantized twice."""
    kl = ours["kl"].astype(np.float64)
    columns = [np.ones(len(kl)), kl, np.abs(theirs["kl"] - kl)]
    for first, one, other, another in (
        (ours, "base", ours, "quantized"),
        (ours, "base", theirs, "base"),
        (ours, "quantized", theirs, "quantized"),
    ):
        p, q = first[f"{one}_logprob"].astype(np.float64), other[f"{another}_logprob"].astype(np.float64)
        columns += [
            (first[f"{one}_argmax"] != other[f"{another}_argmax"]).astype(np.float64),
            np.abs(np.exp(q) - np.exp(p)),
            np.abs(q - p),
            token_kl(p, q),
        ]
    return np.stack(columns, axis=1)


def token_kl(logprob: Floats, other: Floats) -> Floats:
    """Return the KL of whether the token comes next, p log(p/q) + (1-p) log((1-p)/(1-q)), nats, from log p, log q."""
    log_p, log_q = (np.minimum(each, -FINEST) for each in (logprob, other))
    rest_p, rest_q = -np.expm1(log_p), -np.expm1(log_q)
    return np.asarray(np.maximum(np.exp(log_p) * (log_p - log_q) + rest_p * np.log(rest_p / rest_q), 0.0))


def aligned(run: Path, second: Path, task: str) -> Iterator[tuple[Columns, Columns]]:
    """Yield the corpus's rows of both files, batch by batch, after checking that they are the same tokens in order.

    Batches of the files may end at different rows: the rest of the longer one waits for the next batch of the other.
    """
    files = [read_columns(path, task, COLUMNS) for path in (run, second)]
    waiting: list[Columns] = [{}, {}]
    row = 0
    while True:
        for side, file in enumerate(files):
            if not _length(waiting[side]):
                waiting[side] = next((batch for batch in file if _length(batch)), {})
        size = min(map(_length, waiting))
        if not size:
            break
        ours, theirs = ({name: values[:size] for name, values in each.items()} for each in waiting)
        _check_tokens(ours, theirs, (run, second), task, row)
        yield ours, theirs
        waiting = [{name: values[size:] for name, values in each.items()} for each in waiting]
        row += size
    for path, left in zip((second, run), waiting, strict=True):
        if _length(left):
            raise EvalError(f"{path} has only {row} tokens of '{task}': a floor has the same tokens as the run")


def _length(columns: Columns) -> int:
    return len(columns["doc_id"]) if columns else 0


def _check_tokens(ours: Columns, theirs: Columns, paths: tuple[Path, Path], task: str, row: int) -> None:
    for name in PLACE:
        same = ours[name] == theirs[name]
        if not same.all():
            at = int(same.argmin())
            raise EvalError(
                f"{paths[1]}, token {row + at} of '{task}': {name} is {theirs[name][at]}, expected {ours[name][at]} as "
                f"in {paths[0]}"
            )
    for path, columns in zip(paths, (ours, theirs), strict=True):
        for name in ("base_logprob", "quantized_logprob", "kl"):
            finite = np.isfinite(columns[name])
            if not finite.all():
                raise EvalError(f"{path}, token {row + int(finite.argmin())} of '{task}': {name} is not finite")
