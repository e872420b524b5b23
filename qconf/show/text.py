"""Texts of models made safe to look at, and numbers."""

import json
import math
import unicodedata

from qconf.wire.models import ModelInfo
from qconf.wire.scores import TopTokens

BIDIRECTIONAL = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They would reorder the text around them."""
LINE_BREAK = "⏎"


def visible(text: str) -> str:
    """Return text without characters that control a terminal or the direction of text: they are written as escapes."""
    return "".join(_visible(character) for character in text)


def visible_token(text: str) -> str:
    """Return the same with a sign where a line ends."""
    return visible(text).replace("\n", f"{LINE_BREAK}\n")


def _visible(character: str) -> str:
    if character in "\n\t" or not (unicodedata.category(character) == "Cc" or character in BIDIRECTIONAL):
        return character
    return f"\\u{ord(character):04x}"


def quoted(text: str) -> str:
    """Return a text on one line and in quotes, so that spaces at its ends are seen."""
    return visible(json.dumps(text, ensure_ascii=False))


def described(model: ModelInfo) -> str:
    """Return what a model is."""
    return f"{model.root} ({model.quantization or 'not quantized'}, {model.dtype})"


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def likeliest(top: TopTokens | None) -> str:
    """Return the likeliest tokens with their probabilities."""
    if top is None:
        return "-"
    pairs = zip(top.tokens, top.logprobs, strict=True)
    return ", ".join(f"{quoted(token)} {percent(math.exp(logprob))}" for token, logprob in pairs)
