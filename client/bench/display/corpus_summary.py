"""Comparison of both models on a corpus, token by token, as llama.cpp's --kl-divergence reports it."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]


@dataclass(frozen=True, slots=True)
class CorpusSummary:
    """Means over the scored tokens of one corpus; logarithms are natural.

    ``perplexity_ratio`` is quantized over base; ``same_top`` the share of positions at which both models have the same
    likeliest token; Δp the probability of the actual token under the quantized model minus the one under the base.
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


def summarize(tokens: pa.Table) -> CorpusSummary:
    """Summarize a corpus's rows of ``tokens.parquet``, one or more."""

    def column(name: str) -> npt.NDArray[np.float64]:
        return np.asarray(tokens[name], dtype=np.float64)

    base, quantized, kl = column("base_logprob"), column("quantized_logprob"), column("kl")
    delta_p = np.exp(quantized) - np.exp(base)
    return CorpusSummary(
        tokens=len(kl),
        base_perplexity=math.exp(-base.mean()),
        quantized_perplexity=math.exp(-quantized.mean()),
        perplexity_ratio=math.exp(base.mean() - quantized.mean()),
        mean_kl=float(kl.mean()),
        median_kl=float(np.median(kl)),
        kl_99=float(np.quantile(kl, 0.99)),
        max_kl=float(kl.max()),
        mean_reverse_kl=float(column("reverse_kl").mean()),
        mean_js=float(column("js").mean()),
        same_top=float((column("base_argmax") == column("quantized_argmax")).mean()),
        mean_delta_p=float(delta_p.mean()),
        rms_delta_p=float(np.sqrt(np.mean(delta_p**2))),
    )
