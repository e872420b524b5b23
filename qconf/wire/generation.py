"""Answers that the models generate, each scored under both."""

from typing import Literal

from qconf.wire.fields import Both, Reply
from qconf.wire.scores import Summary, TokenComparison, TopTokens


class Generation(Reply):
    """One model's answer. ``scores`` is present with detail "tokens"; all tokens are scored under both models.

    It ends ("stop") with a token that ends texts, which ``text`` leaves out, or with a stop text; else at
    ``max_tokens`` ("length").
    """

    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    summary: Summary
    scores: TokenComparison | None = None


class Fork(Reply):
    """Where two answers part: after ``index`` equal tokens, the token of each, and the distributions there."""

    index: int
    token_ids: Both[int]
    tokens: Both[str]
    kl: float
    top: Both[TopTokens]


class Generations(Reply):
    """The answers that were asked for, and how they compare.

    ``common_prefix`` counts the tokens before they part, ``length_ratio`` divides the quantized model's number of
    tokens by the base's; both are null without both answers, and ``fork`` also where they are equal. ``acceptance`` is
    the mean of 1 - total variation over the quantized model's answer, or else the base's: the share of drafted tokens
    that speculative decoding would accept if the quantized model drafted for the base.
    """

    base: Generation | None
    quantized: Generation | None
    fork: Fork | None
    common_prefix: int | None
    length_ratio: float | None
    acceptance: float
    seed: int | None


class GeneratedToken(Reply):
    """An event of a stream: a token of an answer. Until answers part, they are one, and ``models`` names them all.

    ``text`` is what the answer's text grows by, which is empty within a character and where a stop text may begin.
    ``scores`` has columns of length one: under the base and the answer's variant, or the first for the base's answer.
    """

    object: Literal["comparison.token"] = "comparison.token"
    models: list[str]
    index: int
    text: str
    scores: TokenComparison
