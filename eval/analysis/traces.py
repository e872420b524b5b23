"""How far the quantized model follows the base model's own greedy texts, with intervals; texts are what is sampled."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.analysis.tokens import mean_over_tokens
from qconf.run.folder import TOKENS
from qconf.run.quantities import mean_within
from qconf.run.traces import read_traces
from qconf.statistics.intervals import Interval, Proportion


@dataclass(frozen=True)
class TraceAnalysis:
    """Means of ``qconf.run.traces``.

    ``divergent`` is the share of divergent tokens; ``first_divergent`` the mean position of a text's first one, counted
    from 0, where a text without any counts with its length; ``identical`` the share of texts without any.
    ``reproduced`` is the share of tokens that this run found to be the base model's likeliest, too.
    """

    divergent: Interval
    first_divergent: Interval
    identical: Interval
    reproduced: float


def analyse_traces(folder: Path, task: str) -> TraceAnalysis:
    """Analyse a corpus of a run folder whose records are the base model's greedy texts."""
    traces = read_traces(folder / TOKENS, task)
    tokens = traces.tokens.astype(np.float64)
    return TraceAnalysis(
        divergent=mean_over_tokens(traces.divergent.astype(np.float64), tokens, 0.0, 1.0),
        first_divergent=mean_within(traces.agreed.astype(np.float64), 0.0, np.inf).interval(),
        identical=Proportion(traces.divergent == 0).interval(),
        reproduced=float(traces.reproduced.sum() / traces.tokens.sum()),
    )
