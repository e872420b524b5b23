"""From rows of statistics to the reply of ``/compare``. Plain functions of their arguments."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qconf.wire import (
    Both,
    Choice,
    Continuation,
    ContinuationModel,
    ModelTokens,
    Role,
    Summary,
    TokenComparison,
    TopTokens,
)
from server.engine.twin.rows import WIDTH, Rows

MODELS: tuple[Role, Role] = ("base", "quantized")
Texts = Callable[[list[int]], list[str]]


def token_comparison(token_ids: list[int], rows: Rows, texts: Texts, top: int) -> TokenComparison:
    """Columns for a sequence; tokens before the first row, which nothing scored predicts, get null."""
    unscored = len(token_ids) - len(rows.values)

    def column(values: np.ndarray[Any, Any]) -> list[Any]:
        scored: list[Any] = values.tolist()
        return [None] * unscored + scored

    def model(index: int) -> ModelTokens:
        name = MODELS[index]
        return ModelTokens(
            logprobs=column(rows[f"{name}_logprob"]),
            entropy=column(rows[f"{name}_entropy"]),
            confidence=column(rows[f"{name}_confidence"]),
            argmax=column(rows[f"{name}_argmax"].astype(np.int64)),
            top=[None] * unscored + _top(rows, index, texts) if top else None,
        )

    return TokenComparison(
        tokens=texts(token_ids),
        token_ids=token_ids,
        base=model(0),
        quantized=model(1),
        kl=column(rows["kl"]),
        reverse_kl=column(rows["reverse_kl"]),
        js=column(rows["js"]),
        agree=column(rows["base_argmax"] == rows["quantized_argmax"]),
    )


def _top(rows: Rows, model: int, texts: Texts) -> list[TopTokens]:
    top = rows.top(model)
    return [
        TopTokens(token_ids=ids, tokens=texts(ids), logprobs=logprobs)
        for ids, logprobs in zip(top.ids.tolist(), top.logprobs.tolist(), strict=True)
    ]


def joined(parts: Sequence[Rows]) -> Rows:
    """The statistics of several sequences as rows of one, in float64 so that sums lose nothing."""
    values = [part.values[:, :WIDTH] for part in parts]
    return Rows(np.concatenate(values).astype(np.float64) if values else np.empty((0, WIDTH)))


def summary(rows: Rows) -> Summary:
    """Means over rows that were joined."""
    if not len(rows.values):
        nothing = Both[float | None](base=None, quantized=None)
        return Summary(
            tokens=0,
            mean_kl=None,
            max_kl=None,
            mean_reverse_kl=None,
            mean_js=None,
            agreement=None,
            perplexity=nothing,
            mean_entropy=nothing,
            mean_confidence=nothing,
        )

    def mean(name: str) -> float:
        return float(rows[name].mean())

    def both(name: str) -> Both[float | None]:
        return Both[float | None](base=mean(f"base_{name}"), quantized=mean(f"quantized_{name}"))

    return Summary(
        tokens=len(rows.values),
        mean_kl=mean("kl"),
        max_kl=float(rows["kl"].max()),
        mean_reverse_kl=mean("reverse_kl"),
        mean_js=mean("js"),
        agreement=float((rows["base_argmax"] == rows["quantized_argmax"]).mean()),
        perplexity=Both[float | None](
            base=_perplexity(mean("base_logprob")), quantized=_perplexity(mean("quantized_logprob"))
        ),
        mean_entropy=both("entropy"),
        mean_confidence=both("confidence"),
    )


def _perplexity(mean_logprob: float) -> float | None:
    try:
        return math.exp(-mean_logprob)
    except OverflowError:  # JSON has no infinity
        return None


def continuations(
    texts_and_ids: Sequence[tuple[str, list[int]]], parts: Sequence[Rows], texts: Texts, top: int, tokens: bool
) -> list[Continuation]:
    """One entry per candidate, in order; ``parts`` are the rows of its tokens alone."""
    if not parts:
        return []
    per_model = [_models(name, [ids for _, ids in texts_and_ids], parts) for name in MODELS]
    return [
        Continuation(
            index=i,
            text=text,
            token_ids=ids,
            base=per_model[0][i],
            quantized=per_model[1][i],
            summary=summary(joined([rows])),
            scores=token_comparison(ids, rows, texts, top) if tokens else None,
        )
        for i, ((text, ids), rows) in enumerate(zip(texts_and_ids, parts, strict=True))
    ]


def _models(name: str, token_ids: Sequence[list[int]], parts: Sequence[Rows]) -> list[ContinuationModel]:
    sums = np.array([rows[f"{name}_logprob"].sum(dtype=np.float64) for rows in parts])
    odds = np.exp(sums - sums.max())
    return [
        ContinuationModel(
            logprob=float(total),
            confidence=float(confidence),
            is_greedy=bool((rows[f"{name}_argmax"] == np.array(ids)).all()),
        )
        for total, confidence, ids, rows in zip(sums, odds / odds.sum(), token_ids, parts, strict=True)
    ]


def choice(candidates: Sequence[Continuation], label: int | None) -> Choice:
    """Which candidate each model finds likeliest; the first of equals."""
    base = max(range(len(candidates)), key=lambda i: candidates[i].base.logprob)
    quantized = max(range(len(candidates)), key=lambda i: candidates[i].quantized.logprob)
    return Choice(
        base=base,
        quantized=quantized,
        flip=base != quantized,
        label=label,
        correct=None if label is None else Both[bool](base=base == label, quantized=quantized == label),
        label_confidence=None
        if label is None
        else Both[float](base=candidates[label].base.confidence, quantized=candidates[label].quantized.confidence),
    )
