"""What came of an item under the base and a quantized variant, and what a replay's journal keeps of it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from client.bench.items import Item
from qconf.run.columns import ANSWER_SCORES, SCORES, AnswerResult, ItemResult

_COMMON = {each.name for each in fields(Item)} & {each.name for each in fields(ItemResult)}

Tokens = dict[str, list[Any]]
"""Columns of ``tokens.parquet`` without task and document."""
KEPT = {*SCORES, "tokens", "expected_counts", "answer"}
"""What the journal keeps of each outcome."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an item under a pair: its row; for a window of a corpus the columns of its tokens, and the
    expected counts in base64, base and quantized, where they were asked for; the answers where they were generated."""

    row: ItemResult
    tokens: Tokens | None = None
    expected_counts: list[str] | None = None
    answer: AnswerResult | None = None


Outcomes = dict[str, Outcome]
"""What came of an item under the base and each variant, by the variant's name."""


def blank(item: Item) -> ItemResult:
    """Return the row of an item without its scores: the fields that items and rows have in common."""
    return ItemResult(n_choices=len(item.choices), **{name: getattr(item, name) for name in _COMMON})


def pooled_kl(parts: Iterable[tuple[float | None, float | None, int]]) -> tuple[float | None, float | None]:
    """Return the mean KL over the tokens of all parts, and the largest, from each part's mean, largest and tokens."""
    known = [(mean, largest, tokens) for mean, largest, tokens in parts if tokens]
    total = sum(tokens for _, _, tokens in known)
    if not total:
        return None, None
    mean = math.fsum(mean * tokens for mean, _, tokens in known if mean is not None) / total
    return mean, max(largest for _, largest, _ in known if largest is not None)


def kept(outcome: Outcome) -> dict[str, Any]:
    """Return what the journal keeps of an outcome."""
    answer = outcome.answer
    return {name: getattr(outcome.row, name) for name in SCORES} | {
        "tokens": outcome.tokens,
        "expected_counts": outcome.expected_counts,
        "answer": answer and {name: getattr(answer, name) for name in ANSWER_SCORES},
    }


def restored(item: Item, scores: Mapping[str, Any]) -> Outcome:
    """Return the outcome of an item from what the journal kept of it. Its tokens and counts stay in the journal."""
    row = replace(blank(item), **{name: scores[name] for name in SCORES})
    answer = scores["answer"]
    return Outcome(row, answer=answer and AnswerResult(task=item.task, doc_id=item.doc_id, **answer))
