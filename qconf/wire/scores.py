"""Columns of scored tokens, and their summary."""

from qconf.wire.fields import Both, Reply


class TopTokens(Reply):
    """The likeliest tokens at one position, likeliest first."""

    token_ids: list[int]
    tokens: list[str]
    logprobs: list[float]


class ModelTokens(Reply):
    """Columns of one model. ``confidence`` is the largest probability, ``argmax`` the id of the token that has it."""

    logprobs: list[float | None]
    entropy: list[float | None]
    confidence: list[float | None]
    argmax: list[int | None]
    top: list[TopTokens | None] | None = None


class TokenComparison(Reply):
    """Columns of both models over a sequence of tokens.

    ``kl`` is KL(base || quantized), ``reverse_kl`` the other; ``total_variation`` is half the sum of |q - p| over the
    vocabulary, from 0 to 1.
    """

    tokens: list[str]
    token_ids: list[int]
    base: ModelTokens
    quantized: ModelTokens
    kl: list[float | None]
    reverse_kl: list[float | None]
    js: list[float | None]
    total_variation: list[float | None]
    agree: list[bool | None]


class Summary(Reply):
    """Means over scored tokens. All fields but ``tokens`` are null when no token was scored.

    ``agreement`` is the share of positions where both models have the same likeliest token; ``perplexity`` is
    exp(-mean log-probability) of the tokens that are there, null where that exceeds the largest float.
    """

    tokens: int
    mean_kl: float | None
    max_kl: float | None
    mean_reverse_kl: float | None
    mean_js: float | None
    mean_total_variation: float | None
    agreement: float | None
    perplexity: Both[float | None]
    mean_entropy: Both[float | None]
    mean_confidence: Both[float | None]
