"""What the pooler returns for one request: rows of float32 numbers, one per position and quantized variant.

Numpy only, no torch, no vLLM.
"""

from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

STATISTICS: Final = (
    "base_logprob",
    "quantized_logprob",
    "kl",
    "reverse_kl",
    "js",
    "total_variation",
    "base_entropy",
    "quantized_entropy",
    "base_confidence",
    "quantized_confidence",
    "base_argmax",
    "quantized_argmax",
)
WIDTH: Final = len(STATISTICS)
"""Columns that every row has; after them come, for k likeliest tokens, k ids and k log-probabilities of the base
model, then as many of the quantized one. Ids are exact in float32: vocabularies are far below 2**24."""

Floats = npt.NDArray[np.floating[Any]]
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Top:
    """The k likeliest tokens per position of one model, likeliest first; both of shape (positions, k)."""

    ids: Ids
    logprobs: Floats


@dataclass(frozen=True)
class Rows:
    """Statistics of the base and one variant at consecutive positions of a sequence, shape (positions, WIDTH + 4k).

    Row ``i`` describes the distributions that predict token ``start + 1 + i``; there is one row for every token
    after ``start``. ``computed_tokens`` ran through the models, ``cached_tokens`` came from the prefix cache;
    ``queue_seconds`` is how long the sequence waited for the engine to begin with it. Where the cache covered positions
    that are asked for, the sequence ran twice, and all three are sums over both passes. ``counts``, where they
    are asked for, are each token's probability summed over these positions, shape (models, vocabulary).
    """

    values: Floats
    computed_tokens: int = 0
    cached_tokens: int = 0
    queue_seconds: float = 0.0
    counts: Floats | None = None

    def __getitem__(self, name: str) -> Floats:
        """Return the column of that name in STATISTICS."""
        column: Floats = self.values[:, STATISTICS.index(name)]
        return column

    def in_float64(self) -> "Rows":
        """Return the statistics, without likeliest tokens, in float64, so that sums lose nothing."""
        return replace(self, values=self.values[:, :WIDTH].astype(np.float64))

    def waited(self, seconds: float) -> "Rows":
        """Return the same rows with a wait before the engine's own added."""
        return replace(self, queue_seconds=self.queue_seconds + seconds)

    def after(self, first: "Rows") -> "Rows":
        """Return the same rows with the tokens and the wait of an earlier pass over the sequence added."""
        return replace(
            self,
            computed_tokens=self.computed_tokens + first.computed_tokens,
            cached_tokens=self.cached_tokens + first.cached_tokens,
            queue_seconds=self.queue_seconds + first.queue_seconds,
        )

    def taken_apart(self, vocab_size: int) -> "Rows":
        """Return the rows after the first ones, in which the pooler writes the counts, and these counts."""
        numbers = 2 * vocab_size
        length = -(-numbers // self.values.shape[1])
        counts = self.values[:length].reshape(-1)[:numbers].reshape(2, vocab_size)
        return replace(self, values=self.values[length:], counts=counts)

    def top(self, model: int) -> Top:
        """Return the likeliest tokens of model 0 (base) or 1 (quantized)."""
        ids, logprobs = np.split(self.values[:, WIDTH:], 4, axis=1)[2 * model : 2 * model + 2]
        return Top(ids.astype(np.int64), logprobs)
