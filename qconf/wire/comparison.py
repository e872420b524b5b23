"""Replies of ``/compare``."""

from typing import Literal

from pydantic import Field

from qconf.wire.fields import Both, ErrorDetail, Reply
from qconf.wire.generation import Generations
from qconf.wire.models import ModelInfo
from qconf.wire.scores import Summary, TokenComparison


class ContinuationModel(Reply):
    """A continuation under one model.

    ``logprob`` is the sum over its tokens, ``confidence`` the softmax of the sums over the item's continuations,
    ``is_greedy`` whether every token is the model's likeliest.
    """

    logprob: float
    confidence: float
    is_greedy: bool


class Continuation(Reply):
    """One candidate continuation. ``scores`` is present with detail "tokens".

    ``expected_counts``, present where they are asked for, are the probabilities of each token of the vocabulary, summed
    over the continuation's positions: how often it is expected if each next token is drawn from the model. They are
    float32 numbers in the order of the token ids, little-endian, in base64.
    """

    index: int
    text: str
    token_ids: list[int]
    base: ContinuationModel
    quantized: ContinuationModel
    summary: Summary
    scores: TokenComparison | None = None
    expected_counts: Both[str] | None = None


class Choice(Reply):
    """Which continuation each model finds likeliest; ties go to the first. Present with two continuations or more."""

    base: int
    quantized: int
    flip: bool
    label: int | None
    correct: Both[bool] | None
    label_confidence: Both[float] | None


class Usage(Reply):
    """Token counts. ``scored_tokens`` are those that the summary covers; ``computed_tokens`` ran through the models,
    the others came from the prefix cache. A sequence whose scored positions are in the cache, as in a repeated
    request, runs again without the cache: the tokens of both passes are counted.
    ``generated_tokens`` are not among them; those that several answers share count once."""

    prompt_tokens: int
    continuation_tokens: int
    scored_tokens: int
    computed_tokens: int
    generated_tokens: int = 0


class Timing(Reply):
    """Wall-clock times in milliseconds: tokenization, waiting for the engine, the engine, and all of the request."""

    tokenize_ms: float
    queue_ms: float
    engine_ms: float
    total_ms: float


class PairScores(Reply):
    """What a request gives under the base and one quantized variant. ``summary`` covers the continuations' tokens if
    there are any, else the prompt's."""

    models: Both[ModelInfo]
    prompt: TokenComparison | None = None
    continuations: list[Continuation] | None = None
    choice: Choice | None = None
    summary: Summary
    generation: Generations | None = None

    def _repr_html_(self) -> str:
        """Return the scores as HTML, which notebooks display."""
        from qconf.show.html import comparison_html  # imports this module

        return comparison_html(self)


class Comparison(PairScores):
    """Reply of ``/compare``: the scores under the base and the first quantized variant, and under ``variants``, by
    name, those under the base and each of the others."""

    id: str
    object: Literal["comparison"] = "comparison"
    created: int
    variants: dict[str, PairScores] = Field(default_factory=dict)
    usage: Usage
    timing: Timing

    def of(self, name: str) -> PairScores:
        """Return the scores under the base and the variant of that name; KeyError where there is none."""
        return self if self.models.quantized.id == name else self.variants[name]


class ErrorReply(Reply):
    """Reply of every failed request, and of failed entries of a batch."""

    error: ErrorDetail


class BatchReply(Reply):
    """Reply of ``/compare/batch``: one entry per request, in order."""

    object: Literal["list"] = "list"
    results: list[Comparison | ErrorReply]
