"""Comparison of both models on a corpus, token by token, as llama.cpp's --kl-divergence reports it."""

import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from qconf.run.traces import Traces

DIVERGENCES = ("kl", "reverse_kl", "js", "total_variation")
COLUMNS = ("base_logprob", "quantized_logprob", *DIVERGENCES, "base_argmax", "quantized_argmax")
"""Columns of ``tokens.parquet`` that a summary needs."""


@dataclass(frozen=True, slots=True)
class CorpusSummary:
    """Means over the scored tokens of one corpus; logarithms are natural.

    ``perplexity_ratio`` is quantized over base; ``same_top`` the share of positions at which both models have the same
    likeliest token; Δp the probability of the actual token under the quantized model minus the one under the base.
    Runs of earlier versions have no ``mean_total_variation``. The last three are of the base model's own greedy texts
    (``qconf.run.traces``): the share of divergent tokens, the mean position of a text's first one, and the share of
    texts without any.
    """

    tokens: int
    base_perplexity: float
    quantized_perplexity: float
    perplexity_ratio: float
    mean_kl: float
    median_kl: float
    kl_99: float
    max_kl: float
    mean_reverse_kl: float
    mean_js: float
    same_top: float
    mean_delta_p: float
    rms_delta_p: float
    mean_total_variation: float | None = None
    divergent: float | None = None
    first_divergent: float | None = None
    identical: float | None = None


def summarize(batches: Iterable[Mapping[str, npt.NDArray[Any]]]) -> CorpusSummary:
    """Summarize a corpus from batches of COLUMNS, of one token or more in all; memory grows by 4 bytes per token."""
    sums = np.zeros(9)
    kept = array("f")
    for batch in batches:
        sums += _sums(batch)
        kept.frombytes(batch["kl"].astype(np.float32).tobytes())
    kl = np.frombuffer(kept, np.float32)
    base, quantized, mean_kl, reverse_kl, js, variation, same_top, delta_p, squared_delta_p = (sums / len(kl)).tolist()
    median, kl_99 = np.quantile(kl, (0.5, 0.99), overwrite_input=True).tolist()
    return CorpusSummary(
        tokens=len(kl),
        base_perplexity=math.exp(-base),
        quantized_perplexity=math.exp(-quantized),
        perplexity_ratio=math.exp(base - quantized),
        mean_kl=mean_kl,
        median_kl=median,
        kl_99=kl_99,
        max_kl=float(kl.max()),
        mean_reverse_kl=reverse_kl,
        mean_js=js,
        same_top=same_top,
        mean_delta_p=delta_p,
        rms_delta_p=math.sqrt(squared_delta_p),
        mean_total_variation=variation,
    )


def with_traces(summary: CorpusSummary, traces: Traces) -> CorpusSummary:
    """Return the summary with the figures of the base model's greedy texts."""
    return replace(
        summary,
        divergent=float(traces.divergent.sum() / traces.tokens.sum()),
        first_divergent=float(traces.agreed.mean()),
        identical=float((traces.divergent == 0).mean()),
    )


def _sums(batch: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float64]:
    """Return the sums over a batch's tokens, in the order in which ``summarize`` unpacks them."""
    base, quantized = (batch[f"{model}_logprob"].astype(np.float64) for model in ("base", "quantized"))
    divergences = (batch[name].astype(np.float64) for name in DIVERGENCES)
    delta_p = np.exp(quantized) - np.exp(base)
    same_top = batch["base_argmax"] == batch["quantized_argmax"]
    return np.array([each.sum() for each in (base, quantized, *divergences, same_top, delta_p, delta_p**2)])
