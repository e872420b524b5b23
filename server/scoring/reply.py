"""The reply of ``/compare`` from a scored request."""

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from qconf.float32 import to_base64
from qconf.wire import (
    Both,
    Choice,
    Comparison,
    Continuation,
    ContinuationModel,
    Fork,
    Generation,
    Generations,
    ModelInfo,
    ModelTokens,
    PairScores,
    Summary,
    Timing,
    TokenComparison,
    TopTokens,
    Usage,
)
from server.engine.twin.rows import Rows
from server.scoring.generation import Answer
from server.scoring.scored import MODELS, Scored

Texts = Callable[[list[int]], list[str]]
"""From token ids to the text of each token on its own."""
FORK_TOP = 10
"""Likeliest tokens that are shown where answers part."""
NOTHING = Both[float | None](base=None, quantized=None)


def comparison(
    scored: Sequence[Scored],
    answers: Mapping[int, Answer],
    seed: int | None,
    models: Sequence[ModelInfo],
    texts: Texts,
    top: int,
    timing: Callable[[], Timing],
    *,
    tokens: bool,
) -> Comparison:
    """Return the reply; with ``tokens``, it has the columns of every token and ``top`` likeliest tokens.

    ``models`` are the base and the variants that it was scored under; ``answers`` are by their place among these, and
    were drawn with the seed. ``timing`` is called last, so that it covers the
    making of the reply.
    """
    base, *variants = models

    def parts(variant: int) -> dict[str, Any]:
        both = Both[ModelInfo](base=base, quantized=variants[variant])
        generation = _generations(answers, variant, seed, texts, top, tokens=tokens)
        return {"models": both, "generation": generation} | _pair_scores(scored[variant], texts, top, tokens=tokens)

    first = scored[0]
    return Comparison(
        id=f"cmp-{uuid.uuid4().hex}",
        created=int(time.time()),
        **parts(0),
        variants={variants[i].id: PairScores(**parts(i)) for i in range(1, len(variants))},
        usage=Usage(
            prompt_tokens=len(first.context),
            continuation_tokens=sum(len(each.token_ids) for each in first.continuations),
            scored_tokens=len(first.rows.values),
            computed_tokens=first.computed_tokens,
            generated_tokens=len({id(place) for answer in answers.values() for place in answer.places}),
        ),
        timing=timing(),
    )


def _pair_scores(scored: Scored, texts: Texts, top: int, *, tokens: bool) -> dict[str, Any]:
    rows = scored.rows
    return {
        "prompt": columns(scored.context, scored.prompt, texts, top) if scored.prompt is not None and tokens else None,
        "continuations": _continuations(scored, texts, top, tokens=tokens) or None,
        "choice": _choice(scored) if len(scored.continuations) > 1 else None,
        "summary": summary(rows),
    }


def _generations(
    answers: Mapping[int, Answer], variant: int, seed: int | None, texts: Texts, top: int, *, tokens: bool
) -> Generations | None:
    """Return the answers of the base and one variant, None if there is neither."""
    base, quantized = answers.get(0), answers.get(variant + 1)
    drafted = quantized or base
    if drafted is None:
        return None

    def generation(answer: Answer | None) -> Generation | None:
        if answer is None:
            return None
        rows = answer.rows(variant)
        return Generation(
            text=answer.text,
            token_ids=answer.token_ids,
            finish_reason=answer.finish_reason,
            summary=_summaries(rows.in_float64(), np.zeros(1, np.int64))[0],
            scores=columns(answer.token_ids, rows, texts, top) if tokens else None,
        )

    common = _common_prefix(base, quantized) if base and quantized else None
    return Generations(
        base=generation(base),
        quantized=generation(quantized),
        fork=_fork(base, quantized, common, variant, texts) if base and quantized and common is not None else None,
        common_prefix=common,
        length_ratio=len(quantized.places) / len(base.places) if base and quantized else None,
        acceptance=float(1 - drafted.rows(variant).in_float64()["total_variation"].mean()),
        seed=seed,
    )


def _common_prefix(base: Answer, quantized: Answer) -> int:
    pairs = list(zip(base.token_ids, quantized.token_ids, strict=False))
    return next((i for i, (one, other) in enumerate(pairs) if one != other), len(pairs))


def _fork(base: Answer, quantized: Answer, index: int, variant: int, texts: Texts) -> Fork | None:
    if index >= min(len(base.places), len(quantized.places)):
        return None
    rows = base.places[index].rows[variant]
    ids = [answer.places[index].token_id for answer in (base, quantized)]
    first, second = texts(ids)
    return Fork(
        index=index,
        token_ids=Both[int](base=ids[0], quantized=ids[1]),
        tokens=Both[str](base=first, quantized=second),
        kl=float(rows["kl"][0]),
        top=Both[TopTokens](base=_top(rows, 0, texts, FORK_TOP)[0], quantized=_top(rows, 1, texts, FORK_TOP)[0]),
    )


def columns(token_ids: list[int], rows: Rows, texts: Texts, top: int) -> TokenComparison:
    """Return the columns of a sequence; tokens before the first row get null."""
    unscored = len(token_ids) - len(rows.values)

    def column(values: npt.NDArray[Any]) -> list[Any]:
        scored: list[Any] = values.tolist()
        return [None] * unscored + scored

    def model(index: int) -> ModelTokens:
        name = MODELS[index]
        return ModelTokens(
            logprobs=column(rows[f"{name}_logprob"]),
            entropy=column(rows[f"{name}_entropy"]),
            confidence=column(rows[f"{name}_confidence"]),
            argmax=column(rows[f"{name}_argmax"].astype(np.int64)),
            top=[None] * unscored + _top(rows, index, texts, top) if top else None,
        )

    return TokenComparison(
        tokens=texts(token_ids),
        token_ids=token_ids,
        base=model(0),
        quantized=model(1),
        kl=column(rows["kl"]),
        reverse_kl=column(rows["reverse_kl"]),
        js=column(rows["js"]),
        total_variation=column(rows["total_variation"]),
        agree=column(rows["base_argmax"] == rows["quantized_argmax"]),
    )


def _top(rows: Rows, model: int, texts: Texts, k: int) -> list[TopTokens]:
    top = rows.top(model)
    return [
        TopTokens(token_ids=ids, tokens=texts(ids), logprobs=logprobs)
        for ids, logprobs in zip(top.ids[:, :k].tolist(), top.logprobs[:, :k].tolist(), strict=True)
    ]


def _continuations(scored: Scored, texts: Texts, top: int, *, tokens: bool) -> list[Continuation]:
    if not scored.continuations:
        return []
    logprobs, confidence = scored.logprobs.tolist(), scored.confidence.tolist()
    summaries = _summaries(scored.rows, scored.starts)

    def model(i: int, number: int) -> ContinuationModel:
        each = scored.continuations[i]
        return ContinuationModel(
            logprob=logprobs[i][number],
            confidence=confidence[i][number],
            is_greedy=bool((each.rows[f"{MODELS[number]}_argmax"] == np.array(each.token_ids)).all()),
        )

    return [
        Continuation(
            index=i,
            text=each.text,
            token_ids=each.token_ids,
            base=model(i, 0),
            quantized=model(i, 1),
            summary=summaries[i],
            scores=columns(each.token_ids, each.rows, texts, top) if tokens else None,
            expected_counts=None if each.rows.counts is None else _encoded(each.rows.counts),
        )
        for i, each in enumerate(scored.continuations)
    ]


def _encoded(counts: npt.NDArray[Any]) -> Both[str]:
    base, quantized = (to_base64(each) for each in counts)
    return Both[str](base=base, quantized=quantized)


def summary(rows: Rows) -> Summary:
    """Summarize all rows."""
    return _summaries(rows, np.zeros(1, np.int64))[0] if len(rows.values) else _empty_summary()


def _summaries(rows: Rows, starts: npt.NDArray[np.int64]) -> list[Summary]:
    """Summarize the segments of rows that begin at ``starts``, none of which is empty."""
    counts = np.diff(starts, append=len(rows.values))

    def means(values: npt.NDArray[Any]) -> list[float]:
        return (np.add.reduceat(values, starts) / counts).tolist()  # type: ignore[no-any-return]

    def both(values: Sequence[list[Any]]) -> list[Both[float | None]]:
        return [Both[float | None](base=base, quantized=quantized) for base, quantized in zip(*values, strict=True)]

    def both_means(name: str) -> list[Both[float | None]]:
        return both([means(rows[f"{model}_{name}"]) for model in MODELS])

    columns = {
        "tokens": counts.tolist(),
        "mean_kl": means(rows["kl"]),
        "max_kl": np.maximum.reduceat(rows["kl"], starts).tolist(),
        "mean_reverse_kl": means(rows["reverse_kl"]),
        "mean_js": means(rows["js"]),
        "mean_total_variation": means(rows["total_variation"]),
        "agreement": means((rows["base_argmax"] == rows["quantized_argmax"]).astype(np.float64)),
        "perplexity": both([_perplexity(means(rows[f"{model}_logprob"])) for model in MODELS]),
        "mean_entropy": both_means("entropy"),
        "mean_confidence": both_means("confidence"),
    }
    return [
        Summary.model_construct(**dict(zip(columns, values, strict=True)))
        for values in zip(*columns.values(), strict=True)
    ]


def _perplexity(mean_logprobs: list[float]) -> list[float | None]:
    with np.errstate(over="ignore"):
        values = np.exp(-np.array(mean_logprobs))
    return [value if np.isfinite(value) else None for value in values.tolist()]  # JSON has no infinity


def _empty_summary() -> Summary:
    return Summary(
        tokens=0,
        mean_kl=None,
        max_kl=None,
        mean_reverse_kl=None,
        mean_js=None,
        mean_total_variation=None,
        agreement=None,
        perplexity=NOTHING,
        mean_entropy=NOTHING,
        mean_confidence=NOTHING,
    )


def _choice(scored: Scored) -> Choice:
    base, quantized = scored.choices.tolist()
    label = scored.label
    return Choice(
        base=base,
        quantized=quantized,
        flip=base != quantized,
        label=label,
        correct=None if label is None else Both[bool](base=base == label, quantized=quantized == label),
        label_confidence=None
        if label is None
        else Both[float](base=float(scored.confidence[label, 0]), quantized=float(scored.confidence[label, 1])),
    )
