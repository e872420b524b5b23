"""Journal of a replay on disk: one line per answered item, appended as soon as it is answered.

The first line holds what is measured (the ``Subject`` of each variant, with what they have in common only once) and the
version of the client: only the same version can resume. Then come lines that mark the start of a session, and lines of
items, each with the item's scores under every variant. The item of a line that was being written when the process
died is scored again.

Tokens and expected counts of a corpus are not kept in memory, but read back from their lines when the run is written.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from client.bench.outcome import KEPT, Tokens
from client.lines import Lines, Place
from qconf import __version__
from qconf.run.columns import ANSWER_SCORES
from qconf.run.folder import RunError, Subject

Key = tuple[str, int]
"""Task and document of an item."""

JOURNAL = "journal.jsonl"
# The last version whose journals do not name it.
UNNAMED = "0.1.0"
# The server's start time does not affect what it serves; the size is the digest's, as another zlib may measure it.
IGNORED = {"created", "size"}


@dataclass
class Past:
    """Earlier sessions of a replay: each item's scores without tokens, by variant, start of each session, seconds at
    work in all."""

    entries: dict[Key, dict[str, dict[str, Any]]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Journal:
    """The open journal of a replay, locked for this process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = Lines(path, f"the run {path.parent}")
        self._tokens: dict[Key, Place] = {}

    def __enter__(self) -> Self:
        self._lines.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()

    def begin(self, subjects: Sequence[Subject], started: str) -> Past:
        """Start a session: read the journal, or write its first line. RunError names what has changed.

        ``subjects`` are those of the variants.
        """
        described = _described(subjects)
        lines = self._lines.read()
        first = next(lines, None)
        if first is not None:
            self._check(first[1], described)
            past = self._read(lines, {subject.models.quantized.id for subject in subjects})
        else:
            past = Past()
            self._lines.append({"client": __version__} | described)
        past.started.append(started)
        self._lines.append({"session": started})
        return past

    def _check(self, first: Any, described: dict[str, Any]) -> None:
        """Raise RunError where another version wrote the first line, or where it describes another subject."""
        if not isinstance(first, dict):
            raise self._foreign("another version of qconf")
        if (version := first.pop("client", UNNAMED)) != __version__:
            raise self._foreign(f"qconf {version}")
        if found := list(_changes(first, described)):
            raise RunError(f"{self._path.parent} cannot be resumed: {'; '.join(found)}")

    def _read(self, lines: Iterable[tuple[Place, Any]], variants: set[str]) -> Past:
        try:
            return self._past(lines, variants)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise self._foreign("another version of qconf") from exc

    def _foreign(self, writer: str) -> RunError:
        return RunError(
            f"{self._path.parent} cannot be resumed: {writer} wrote its journal, and this is qconf {__version__}; "
            "resume it with the version that wrote it, or choose another folder"
        )

    def add(self, task: str, doc_id: int, seconds: float, scores: Mapping[str, dict[str, Any]]) -> None:
        """Append an item's scores by variant, which came ``seconds`` after the session's start."""
        place = self._lines.append({"task": task, "doc_id": doc_id, "seconds": round(seconds, 3), "scores": scores})
        if any(each["tokens"] is not None for each in scores.values()):
            self._tokens[task, doc_id] = place

    def has_tokens(self, task: str, doc_id: int) -> bool:
        """Return whether the item is a window of a corpus that was scored."""
        return (task, doc_id) in self._tokens

    def tokens(self, task: str, doc_id: int, variant: str) -> Tokens:
        """Read a variant's tokens of a window back."""
        tokens: Tokens = self._lines.at(self._tokens[task, doc_id])["scores"][variant]["tokens"]
        return tokens

    def expected_counts(self, task: str, doc_id: int, variant: str) -> list[str] | None:
        """Read the expected counts of a window back, base64 under the base and a variant; None where it has none."""
        if not self.has_tokens(task, doc_id):
            return None
        counts: list[str] | None = self._lines.at(self._tokens[task, doc_id])["scores"][variant]["expected_counts"]
        return counts

    def delete(self) -> None:
        """Remove the file: the run is complete."""
        self._path.unlink()

    def _past(self, lines: Iterable[tuple[Place, Any]], variants: set[str]) -> Past:
        past, session = Past(), 0.0
        for place, line in lines:
            if "session" in line:
                past.started.append(line["session"])
                past.seconds += session
                session = 0.0
                continue
            scores, key = line["scores"], (line["task"], line["doc_id"])
            if scores.keys() != variants or any(each.keys() != KEPT for each in scores.values()):
                raise ValueError(f"scores are of {sorted(scores)}, expected {sorted(KEPT)} of {sorted(variants)}")
            answers = [each["answer"] for each in scores.values() if each["answer"] is not None]
            if any(answer.keys() != set(ANSWER_SCORES) for answer in answers):
                raise ValueError(f"an answer lacks one of {', '.join(ANSWER_SCORES)}, or has another field")
            if any([each.pop("tokens") is not None for each in scores.values()]):
                self._tokens[key] = place
            for each in scores.values():
                del each["expected_counts"]
            past.entries[key] = scores
            session = line["seconds"]
        past.seconds += session
        return past


def changes(old: Sequence[Subject], new: Sequence[Subject]) -> list[str]:
    """Return the differences between the variants' subjects in two sessions, in words."""
    return list(_changes(_described(old), _described(new)))


def _described(subjects: Sequence[Subject]) -> dict[str, Any]:
    """Return what the subjects have in common, and the models of all by name."""
    pairs = [subject.models for subject in subjects]
    models = {
        model.id: model.model_dump(mode="json", exclude=IGNORED) for p in pairs for model in (p.base, p.quantized)
    }
    return {"models": models} | subjects[0].model_dump(mode="json", exclude={"models"})


def _changes(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Yield the differences, in words: ``models.base.digest was "a" and is "b"``."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            place = f"{name}.{key}" if name else key
            if key in old and key in new:
                yield from _changes(old[key], new[key], place)
            else:
                yield f"{place} is {'new' if key in new else 'missing'}"
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _changes(before, after, f"{name}[{index}]")
    elif old != new:
        yield f"{name} was {json.dumps(old)} and is {json.dumps(new)}"
