"""The base model's own greedy texts under the quantized model: where it would have written something else.

A token of such a text is divergent where it is not the quantized model's likeliest. Deiseroth et al. 2024, "Divergent
Token Metrics" (NAACL 2024, arXiv 2311.01544).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qconf.run.tokens import read_columns
from qconf.statistics.arrays import Ints

COLUMNS = ("doc_id", "position", "token_id", "base_argmax", "quantized_argmax")
NONE = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Traces:
    """Texts of a corpus, each array of shape (texts,).

    ``tokens`` is a text's length, ``divergent`` how many of its tokens are divergent, ``agreed`` how many come before
    the first of these: so many tokens of the text the quantized model would write itself, all of them without a
    divergent one. ``reproduced`` is how many were the base model's likeliest again; all, but for rounding in 16 bits.
    """

    tokens: Ints
    divergent: Ints
    agreed: Ints
    reproduced: Ints


def read_traces(path: Path, task: str) -> Traces:
    """Read the texts of a corpus from the file of a run's tokens."""
    counts: dict[int, Ints] = {}
    firsts: dict[int, int] = {}
    for batch in read_columns(path, task, COLUMNS):
        divergent = batch["token_id"] != batch["quantized_argmax"]
        reproduced = batch["token_id"] == batch["base_argmax"]
        ids, place = np.unique(batch["doc_id"], return_inverse=True)
        first = np.full(len(ids), NONE)
        np.minimum.at(first, place[divergent], batch["position"][divergent])
        sums = np.zeros((len(ids), 3), np.int64)
        np.add.at(sums, place, np.stack([np.ones(len(place), np.int64), divergent, reproduced], axis=1))
        for text, row, at in zip(ids.tolist(), sums, first.tolist(), strict=True):
            counts[text] = counts.get(text, 0) + row
            firsts[text] = min(firsts.get(text, NONE), at)
    tokens, divergent, reproduced = np.array(list(counts.values())).T
    return Traces(tokens, divergent, np.minimum(tokens, list(firsts.values())), reproduced)
