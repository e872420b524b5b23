"""Sends the items of tasks to a server, many at a time, and turns the replies into rows of a run."""

import asyncio
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from client.api import AsyncClient
from client.errors import BadReply, QconfError
from client.results import ItemResult
from client.tasks import Item
from server.schema import Comparison, Continuation


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to send: items in flight at once, and whether contexts get the tokenizer's special tokens."""

    concurrency: int
    add_special_tokens: bool


async def replay(
    client: AsyncClient, items: Sequence[Item], options: ReplayOptions, on_result: Callable[[ItemResult], None]
) -> list[ItemResult]:
    """Scores every item; results come in the order of the items. An item that fails carries its error.

    Long items go first: a server that cannot take them says so at once, and none is left running alone at the end.
    """
    order = sorted(range(len(items)), key=lambda index: _length(items[index]), reverse=True)
    results: dict[int, ItemResult] = {}

    async def worker(indices: Iterator[int]) -> None:
        for index in indices:
            results[index] = await score(client, items[index], options.add_special_tokens)
            on_result(results[index])

    queue = iter(order)
    async with asyncio.TaskGroup() as group:
        for _ in range(min(options.concurrency, len(items))):
            group.create_task(worker(queue))
    return [results[index] for index in range(len(items))]


def _length(item: Item) -> int:
    return len(item.context) + sum(len(text) for text in item.continuations)


async def score(client: AsyncClient, item: Item, add_special_tokens: bool) -> ItemResult:
    """One item, all its choices in one request."""
    row = ItemResult(
        task=item.task,
        doc_id=item.doc_id,
        doc_hash=item.doc_hash,
        prompt_hash=item.prompt_hash,
        label=item.label,
        n_choices=len(item.continuations),
        choice_chars=item.choice_chars,
        choice_bytes=item.choice_bytes,
    )
    try:
        reply = await client.compare(
            prompt=item.context,
            continuations=item.continuations,
            label=item.label,
            detail="summary",
            add_special_tokens=add_special_tokens,
        )
        return _filled(row, reply, _continuations(reply, len(item.continuations)))
    except QconfError as exc:
        return replace(row, error=f"{type(exc).__name__}: {exc}")


def _continuations(reply: Comparison, expected: int) -> list[Continuation]:
    found = reply.continuations or []
    if [continuation.index for continuation in found] != list(range(expected)):
        raise BadReply(f"expected {expected} continuations in order, got {[c.index for c in found]}")
    for choice in found:
        if not (math.isfinite(choice.base.logprob) and math.isfinite(choice.quantized.logprob)):
            raise BadReply(f"continuation {choice.index} has a log-probability that is not finite")
    return found


def _filled(row: ItemResult, reply: Comparison, choices: Sequence[Continuation]) -> ItemResult:
    return replace(
        row,
        base_logprob=[choice.base.logprob for choice in choices],
        quantized_logprob=[choice.quantized.logprob for choice in choices],
        choice_tokens=[len(choice.token_ids) for choice in choices],
        base_is_greedy=[choice.base.is_greedy for choice in choices],
        quantized_is_greedy=[choice.quantized.is_greedy for choice in choices],
        choice_mean_kl=[choice.summary.mean_kl for choice in choices],
        choice_max_kl=[choice.summary.max_kl for choice in choices],
        mean_kl=reply.summary.mean_kl,
        max_kl=reply.summary.max_kl,
    )
