"""How lm-eval's own definitions have answers generated."""

import importlib
from collections.abc import Sequence
from typing import Any

from client.bench.items import Generating, TaskError

DEFAULT_MAX_TOKENS = 256
"""Most tokens of an answer where the task names no number: lm-eval's own default."""
KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}


def generating_of(name: str, requests: Sequence[Any]) -> Generating:
    """Return how the answer to a document is generated, from lm-eval's requests; TaskError where it cannot be."""
    repeats = sum(each.repeats for each in requests)
    if repeats > 1:
        raise TaskError(f"task '{name}' draws {repeats} answers to each document: only one can be replayed, so far")
    utils = importlib.import_module("lm_eval.models.utils")
    options = utils.normalize_gen_kwargs(requests[0].args[1], DEFAULT_MAX_TOKENS)
    if unknown := sorted(options.keys() - KNOWN):
        given = f"'{unknown[0]}' {options[unknown[0]]!r}"
        raise TaskError(f"task '{name}' generates with {given}: expected only {', '.join(sorted(KNOWN))}")
    return Generating(
        max_tokens=options["max_gen_toks"],
        stop=tuple(text for text in options["until"] if text),
        temperature=options.get("temperature", 0.0),
        top_p=options.get("top_p", 1.0),
    )
