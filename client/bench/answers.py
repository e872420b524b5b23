"""Answers that both models generate to the prompt of an item, from one request."""

from dataclasses import replace
from typing import Any

from client.bench.items import Generating, Item
from client.bench.outcome import Outcome, blank, pooled_kl
from client.errors import BadReply
from qconf.run.columns import AnswerResult
from qconf.wire import PairScores

SEED = 1234
"""Seed of answers that are drawn: what lm-eval sends to a server."""


def fields_of(how: Generating) -> dict[str, Any]:
    """Return the fields of a request for the answers of all models."""
    drawn = {"temperature": how.temperature, "top_p": how.top_p, "seed": SEED} if how.temperature else {}
    stop = {"stop": list(how.stop)} if how.stop else {}
    return {"max_tokens": how.max_tokens, "generate_from": "both", **stop, **drawn}


def answered(item: Item, reply: PairScores) -> Outcome:
    """Return what came of an item whose answers were generated. BadReply where one of them is missing."""
    found = reply.generation
    if found is None or found.base is None or found.quantized is None or found.common_prefix is None:
        raise BadReply("the answers of both models are missing")
    base, quantized = found.base, found.quantized
    base_kl, quantized_kl = base.summary.mean_kl, quantized.summary.mean_kl
    if base_kl is None or quantized_kl is None:
        raise BadReply("an answer has no tokens")
    answer = AnswerResult(
        task=item.task,
        doc_id=item.doc_id,
        base_text=base.text,
        quantized_text=quantized.text,
        base_tokens=len(base.token_ids),
        quantized_tokens=len(quantized.token_ids),
        base_finish_reason=base.finish_reason,
        quantized_finish_reason=quantized.finish_reason,
        common_prefix=found.common_prefix,
        acceptance=found.acceptance,
        base_mean_kl=base_kl,
        quantized_mean_kl=quantized_kl,
    )
    summaries = [each.summary for each in (base, quantized)]
    mean_kl, max_kl = pooled_kl((each.mean_kl, each.max_kl, each.tokens) for each in summaries)
    return Outcome(replace(blank(item), mean_kl=mean_kl, max_kl=max_kl), answer=answer)
