"""Items that a replay scores, from whatever source."""

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from qconf.run.columns import Kind

CHARACTERS_PER_TOKEN = 4
"""Of English text, roughly."""
TOKENS_PER_CHOICE = 16
"""What a choice takes besides its text: the prefix cache shares contexts in whole blocks only, of 16 or 32 tokens."""


class TaskError(Exception):
    """A task that cannot be replayed, and why, in one sentence."""


@dataclass(frozen=True, slots=True)
class Window:
    """Part of a corpus: token ids of a context, and ids after it that are scored, the first of them at ``position``.

    Ids are kept in 4 bytes each, because a corpus may have a hundred million.
    """

    context: Sequence[int]
    scored: Sequence[int]
    position: int

    def __post_init__(self) -> None:
        for name in ("context", "scored"):
            object.__setattr__(self, name, array("I", getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Generating:
    """How answers are generated: most tokens, texts that end them, how tokens are drawn. Temperature 0 is greedy."""

    max_tokens: int
    stop: tuple[str, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Item:
    """One document of a task.

    ``choices`` are the continuations exactly as they are scored, choice ``i`` after ``contexts[choice_context[i]]``:
    several for multiple choice, one for "loglikelihood", a whole text without context for "loglikelihood_rolling", none
    for "generate_until", whose only context gets an answer as ``generating`` says.
    ``choice_chars`` and ``choice_bytes`` are their lengths without the delimiter before them, by which lm-eval's
    acc_norm and acc_bytes divide. ``label`` is the index of the true choice, None where there is none. With
    ``unconditional``, choices are scored without their context as well. ``doc`` (JSON) and ``target`` are the document
    and the answer as the task has them. Items of one ``cluster``, such as questions about the same passage, are not
    independent of each other.
    """

    task: str
    doc_id: int
    kind: Kind
    doc_hash: str
    prompt_hash: str
    contexts: tuple[str, ...]
    choices: tuple[str, ...]
    choice_context: tuple[int, ...]
    choice_chars: tuple[int, ...]
    choice_bytes: tuple[int, ...]
    label: int | None = None
    unconditional: bool = False
    doc: str | None = None
    target: str | None = None
    cluster: str | None = None
    window: Window | None = None
    generating: Generating | None = None

    @property
    def length(self) -> float:
        """Return roughly how much there is to compute, in tokens."""
        if self.window:
            return len(self.window.context) + len(self.window.scored)
        choices = self.choices * (2 if self.unconditional else 1)
        characters = sum(map(len, (*self.contexts, *choices)))
        generated = self.generating.max_tokens if self.generating else 0
        return characters / CHARACTERS_PER_TOKEN + TOKENS_PER_CHOICE * len(choices) + generated


@dataclass(frozen=True)
class LoadedTask:
    """A task to replay. ``definition`` is lm-eval's own object, where it is an lm-eval task.

    ``calls`` are of a log of calls: their number by what is scored of them, or by why they are left out; ``refusal`` is
    the first reason that the server had to refuse one.
    """

    name: str
    version: str
    num_fewshot: int
    items: tuple[Item, ...]
    definition: Any = None
    calls: dict[str, int] | None = None
    refusal: str | None = None

    @cached_property
    def digest(self) -> str:
        """Return a SHA-256 over everything scored, in hexadecimal: the same digest means the same requests."""
        total = hashlib.sha256()
        for item in self.items:
            total.update(repr((item.doc_hash, item.contexts, item.choices, item.choice_context, item.window)).encode())
            if item.generating:
                total.update(repr(item.generating).encode())
        return total.hexdigest()


def hash_text(text: str) -> str:
    """Return the SHA-256 in hexadecimal, as lm-eval hashes documents and prompts."""
    return hashlib.sha256(text.encode()).hexdigest()


def distinct(contexts: Iterable[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return the distinct contexts in the order of their first appearance, and the index of each choice's context."""
    contexts = list(contexts)
    unique: Sequence[str] = list(dict.fromkeys(contexts))
    return tuple(unique), tuple(unique.index(context) for context in contexts)
