"""What became of the calls of a log that was replayed, in words."""

from collections.abc import Mapping, Sequence

EMPTY = "empty"
"""Why a call is left out: it has no answer, and its prompt at most one token."""
REFUSED = "refused"
"""Why a call is left out: the server refused to tokenize it."""
IN_WORDS = {
    "answer_ids": "scored: the answer, by its token ids",
    "answer_text": "scored: the answer, by its text",
    "prompt": "scored: the prompt",
    "tools": "left out: calls of tools",
    "media": "left out: images and other media",
    "echo": "left out: echo",
    EMPTY: "left out: nothing to score",
    REFUSED: "left out: refused by the server",
}


def calls_rows(logs: Sequence[Mapping[str, int]]) -> list[tuple[str, list[int]]]:
    """Return a row for all calls and one for each thing that became of any of them, with a number per log."""
    found = [(words, [log.get(kind, 0) for log in logs]) for kind, words in IN_WORDS.items()]
    return [("calls", [sum(log.values()) for log in logs]), *(row for row in found if any(row[1]))]
