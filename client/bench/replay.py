"""Send items to a server, many at a time, and turn the replies into rows of a run."""

import asyncio
import math
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from client.bench.answers import answered, fields_of
from client.bench.items import Generating, Item, Window
from client.bench.outcome import Outcome, Outcomes, Tokens, blank, pooled_kl
from client.bench.servers import ABSENT, Servers
from client.bench.sources.corpus import cut
from client.bench.sources.rolling import RollingWindows
from client.errors import BadReply, QconfError
from qconf.float32 import from_base64, to_base64
from qconf.run.columns import ItemResult
from qconf.wire import Both, Comparison, Continuation, ModelInfo, ModelTokens, PairScores

T = TypeVar("T")
Reply = dict[str, list[Continuation]]
"""Continuations of one request under the base and each variant, by the variant's name."""


class ServerGone(Exception):
    """No server answers any more, or one serves other models."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """How to send: items in progress at once, special tokens of contexts, and tokens per window of whole texts.

    ``stride`` is the number of tokens that windows of a long record score, by default half of them. With
    ``expected_counts``, windows are asked for them.
    """

    concurrency: int
    add_special_tokens: bool
    max_length: int
    stride: int | None
    expected_counts: bool = False


def longest_first(items: Iterable[Item]) -> list[Item]:
    """Sort items by falling length: long items fail early if they fail, and none runs alone at the end."""
    return sorted(items, key=lambda item: item.length, reverse=True)


async def replay(
    servers: Servers,
    items: Iterable[Item],
    pairs: Mapping[str, Both[ModelInfo]],
    options: ReplayOptions,
    on_outcomes: Callable[[Outcomes], None],
) -> None:
    """Score every item in the order given, each taken when there is room to send it.

    ``pairs`` are the base and each variant, by the variant's name. An item fails under all of them or none: its rows
    carry the error. ServerGone is raised when no server answers any more. An exception of ``on_outcomes`` ends the
    replay and cancels the requests in flight.
    """
    sender, queue = _Sender(servers, pairs, options), iter(items)
    await together(_work(sender, queue, on_outcomes) for _ in range(options.concurrency))


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all, and return their results in order; the first failure cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as failures:  # the first failure has cancelled the others
        raise failures.exceptions[0] from failures
    return [task.result() for task in tasks]


async def _work(sender: "_Sender", queue: Iterator[Item], on_outcomes: Callable[[Outcomes], None]) -> None:
    for item in queue:
        answered = sender.answered
        try:
            outcomes = await _score(sender, item)
        except QconfError as exc:
            failed = Outcome(replace(blank(item), error=f"{type(exc).__name__}: {exc}"))
            outcomes = dict.fromkeys(sender.variants, failed)
            # All retries failed, no other request succeeded meanwhile, and not only because of this item.
            if isinstance(exc, ABSENT) and sender.answered == answered and not await sender.ready():
                on_outcomes(outcomes)  # so that it is not the first of the next session
                raise ServerGone(f"no server answers any more: {exc}") from exc
        on_outcomes(outcomes)


async def _score(sender: "_Sender", item: Item) -> Outcomes:
    if item.generating:
        answers = await sender.answers(item.contexts[0], item.generating)
        return {name: answered(item, answers[name]) for name in sender.variants}
    windows: list[Window] = []
    if item.window:
        windows = sender.cut(item.window)
        replies = await together(sender.window(window, detail="tokens") for window in windows)
    elif item.kind == "loglikelihood_rolling":
        replies = await sender.whole_text(item.choices[0])
    else:
        replies = await sender.choices(item)
    return {name: _outcome(item, [reply[name] for reply in replies], windows) for name in sender.variants}


def _outcome(item: Item, replies: Sequence[list[Continuation]], windows: Sequence[Window]) -> Outcome:
    """Return what came of an item under one pair, from the replies to its requests; those of a window to its parts."""
    if item.window:
        parts = [part for (part,) in replies]
        columns = [_token_columns(part, each.position) for part, each in zip(parts, windows, strict=True)]
        return Outcome(_row(item, [_Scores.joined(parts)]), _joined(columns), _counts(parts))
    if item.kind == "loglikelihood_rolling":
        return Outcome(_row(item, [_Scores.joined([window for (window,) in replies])]))
    of_context = [iter(reply) for reply in replies]
    unconditional = replies[len(item.contexts)] if item.unconditional else []
    return Outcome(
        replace(
            _row(item, [_Scores.of(next(of_context[number])) for number in item.choice_context]),
            base_unconditional=[choice.base.logprob for choice in unconditional],
            quantized_unconditional=[choice.quantized.logprob for choice in unconditional],
        )
    )


class _Sender:
    """Sends requests, and checks that each reply fits its request and has its models."""

    def __init__(self, servers: Servers, pairs: Mapping[str, Both[ModelInfo]], options: ReplayOptions) -> None:
        self.variants = list(pairs)
        self.answered = 0
        self._servers = servers
        self._identities = {name: _identity(models) for name, models in pairs.items()}
        self._options = options
        self._rolling: asyncio.Task[RollingWindows] | None = None

    async def ready(self) -> bool:
        """Return whether a server takes requests."""
        return await self._servers.ready()

    async def choices(self, item: Item) -> list[Reply]:
        """Score the item's choices, one request per context, and if it says so once more without context.

        Choices of one context are sent together and share the prefix cache.
        """
        replies = []
        for number, context in enumerate(item.contexts):
            texts = [text for text, of in zip(item.choices, item.choice_context, strict=True) if of == number]
            label = item.label if len(item.contexts) == 1 else None
            replies.append(await self.continuations(context, texts, label))
        if item.unconditional:
            replies.append(await self.continuations("", item.choices))
        return replies

    async def continuations(self, context: str, texts: Sequence[str], label: int | None = None) -> Reply:
        """Score continuations of one context."""
        return await self._compare(
            len(texts),
            prompt=context,
            continuations=texts,
            label=label,
            detail="summary",
            add_special_tokens=self._options.add_special_tokens,
        )

    async def answers(self, context: str, how: Generating) -> dict[str, PairScores]:
        """Let both models, and each variant, answer to a context."""
        return await self._ask(
            prompt=context,
            detail="summary",
            add_special_tokens=self._options.add_special_tokens,
            **fields_of(how),
        )

    def cut(self, window: Window) -> list[Window]:
        """Cut a window that is longer than one may be."""
        return cut(window, self._options.max_length, self._options.stride)

    async def window(self, window: Window, detail: str) -> Reply:
        """Score the tokens of a window, as one continuation."""
        counts = {"expected_counts": True} if self._options.expected_counts and detail == "tokens" else {}
        return await self._compare(
            1,
            prompt=list(window.context),
            continuations=[list(window.scored)],
            detail=detail,
            score_prompt=False,
            **counts,
        )

    async def whole_text(self, text: str) -> list[Reply]:
        """Score all tokens of a text, window by window."""
        if self._rolling is None:
            self._rolling = asyncio.ensure_future(
                RollingWindows.made_for(self._servers, self._options.max_length, self._options.add_special_tokens)
            )
        windows = await (await self._rolling).of(self._servers, text)
        return await together(self.window(window, detail="summary") for window in windows)

    async def _compare(self, expected: int, **fields: Any) -> Reply:
        scores = await self._ask(**fields)
        return {name: _checked(each, expected) for name, each in scores.items()}

    async def _ask(self, **fields: Any) -> dict[str, PairScores]:
        reply = await self._servers.compare(**fields)
        self.answered += 1
        return {name: self._scores(reply, name) for name in self.variants}

    def _scores(self, reply: Comparison, name: str) -> PairScores:
        try:
            scores = reply.of(name)
        except KeyError as exc:
            raise ServerGone(f"the variant '{name}' is not served any more") from exc
        if _identity(scores.models) != self._identities[name]:
            changed = f"{scores.models.base.root} and {scores.models.quantized.root}"
            raise ServerGone(f"another pair is being served now: {changed}, or other files of that name")
        return scores


def _identity(models: Both[ModelInfo]) -> list[dict[str, Any]]:
    return [model.model_dump(exclude={"created"}) for model in (models.base, models.quantized)]


def _checked(scores: PairScores, expected: int) -> list[Continuation]:
    found = scores.continuations or []
    if [continuation.index for continuation in found] != list(range(expected)):
        raise BadReply(f"expected {expected} continuations in order, got {[c.index for c in found]}")
    for choice in found:
        for model, each in ((scores.models.base, choice.base), (scores.models.quantized, choice.quantized)):
            if not math.isfinite(each.logprob):
                raise BadReply(f"continuation {choice.index}: its log-probability under '{model.id}' is not finite")
    return found


@dataclass(frozen=True, slots=True)
class _Scores:
    """Scores of a continuation, or of several that make one text, under the names of the columns per choice."""

    base_logprob: float
    quantized_logprob: float
    choice_tokens: int
    base_is_greedy: bool
    quantized_is_greedy: bool
    choice_mean_kl: float | None
    choice_max_kl: float | None

    @classmethod
    def of(cls, scored: Continuation) -> "_Scores":
        return cls(
            base_logprob=scored.base.logprob,
            quantized_logprob=scored.quantized.logprob,
            choice_tokens=len(scored.token_ids),
            base_is_greedy=scored.base.is_greedy,
            quantized_is_greedy=scored.quantized.is_greedy,
            choice_mean_kl=scored.summary.mean_kl,
            choice_max_kl=scored.summary.max_kl,
        )

    @classmethod
    def joined(cls, parts: Sequence[Continuation]) -> "_Scores":
        scores = [cls.of(part) for part in parts]
        mean_kl, max_kl = _kl(scores)
        return cls(
            base_logprob=math.fsum(part.base_logprob for part in scores),
            quantized_logprob=math.fsum(part.quantized_logprob for part in scores),
            choice_tokens=sum(part.choice_tokens for part in scores),
            base_is_greedy=all(part.base_is_greedy for part in scores),
            quantized_is_greedy=all(part.quantized_is_greedy for part in scores),
            choice_mean_kl=mean_kl,
            choice_max_kl=max_kl,
        )


def _kl(scores: Sequence[_Scores]) -> tuple[float | None, float | None]:
    """Mean over tokens, and largest."""
    return pooled_kl((part.choice_mean_kl, part.choice_max_kl, part.choice_tokens) for part in scores)


def _row(item: Item, choices: Sequence[_Scores]) -> ItemResult:
    mean_kl, max_kl = _kl(choices)
    per_choice: dict[str, Any] = {
        each.name: [getattr(choice, each.name) for choice in choices] for each in fields(_Scores)
    }
    return replace(blank(item), mean_kl=mean_kl, max_kl=max_kl, **per_choice)


def _token_columns(scored: Continuation, position: int) -> Tokens:
    scores = scored.scores
    if scores is None:
        raise BadReply("the columns of the tokens are missing")
    columns: Tokens = {
        "position": list(range(position, position + len(scores.token_ids))),
        "token_id": scores.token_ids,
        "kl": scores.kl,
        "reverse_kl": scores.reverse_kl,
        "js": scores.js,
        "total_variation": scores.total_variation,
    }
    return columns | _model_columns("base", scores.base) | _model_columns("quantized", scores.quantized)


def _counts(parts: Sequence[Continuation]) -> list[str] | None:
    """Add up the expected counts of an item's windows."""
    counts = [part.expected_counts for part in parts if part.expected_counts is not None]
    if not counts:
        return None
    try:
        return [
            to_base64(np.sum([from_base64(each.base) for each in counts], axis=0)),
            to_base64(np.sum([from_base64(each.quantized) for each in counts], axis=0)),
        ]
    except ValueError as exc:
        raise BadReply(f"the expected counts cannot be read: {exc}") from exc


def _joined(parts: Sequence[Tokens]) -> Tokens:
    return {name: [value for part in parts for value in part[name]] for name in parts[0]}


def _model_columns(name: str, model: ModelTokens) -> Tokens:
    return {
        f"{name}_logprob": model.logprobs,
        f"{name}_entropy": model.entropy,
        f"{name}_confidence": model.confidence,
        f"{name}_argmax": model.argmax,
    }
