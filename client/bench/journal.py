"""Journal of a replay on disk: one line per answered item, appended as soon as it is answered.

The first line holds what is measured (a ``Subject``) and the version of the client: only the same version can resume.
Then come lines that mark the start of a session, and lines of items. The item of a line that was being written when the
process died is scored again.

Tokens of a corpus are not kept in memory, but read back from their lines when the run is written.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from client.bench.replay import Tokens
from client.lines import Lines, Place
from qconf import __version__
from qconf.run.columns import SCORES
from qconf.run.folder import RunError, Subject

Key = tuple[str, int]
"""Task and document of an item."""

JOURNAL = "journal.jsonl"
# The last version whose journals do not name it.
UNNAMED = "0.1.0"
KEPT = {*SCORES, "tokens"}
# The server's start time does not affect what it serves; the size is the digest's, as another zlib may measure it.
IGNORED = {"models": {"base": {"created", "size"}, "quantized": {"created", "size"}}}


@dataclass
class Past:
    """Earlier sessions of a run: each item's scores without tokens, start of each session, seconds at work in all."""

    entries: dict[Key, dict[str, Any]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Journal:
    """The open journal of a run, locked for this process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = Lines(path, f"the run {path.parent}")
        self._tokens: dict[Key, Place] = {}

    def __enter__(self) -> Self:
        self._lines.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.__exit__()

    def begin(self, subject: Subject, started: str) -> Past:
        """Start a session: read the journal, or write its first line. RunError names what has changed."""
        described = _described(subject)
        lines = self._lines.read()
        first = next(lines, None)
        if first is not None:
            self._check(first[1], described)
            past = self._read(lines)
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

    def _read(self, lines: Iterable[tuple[Place, Any]]) -> Past:
        try:
            return self._past(lines)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise self._foreign("another version of qconf") from exc

    def _foreign(self, writer: str) -> RunError:
        return RunError(
            f"{self._path.parent} cannot be resumed: {writer} wrote its journal, and this is qconf {__version__}; "
            "resume it with the version that wrote it, or choose another folder"
        )

    def add(self, task: str, doc_id: int, seconds: float, scores: dict[str, Any]) -> None:
        """Append an item's scores, which came ``seconds`` after the session's start."""
        place = self._lines.append({"task": task, "doc_id": doc_id, "seconds": round(seconds, 3), "scores": scores})
        if scores["tokens"] is not None:
            self._tokens[task, doc_id] = place

    def has_tokens(self, task: str, doc_id: int) -> bool:
        """Return whether the item is a window of a corpus that was scored."""
        return (task, doc_id) in self._tokens

    def tokens(self, task: str, doc_id: int) -> Tokens:
        """Read the tokens of a window back."""
        tokens: Tokens = self._lines.at(self._tokens[task, doc_id])["scores"]["tokens"]
        return tokens

    def delete(self) -> None:
        """Remove the file: the run is complete."""
        self._path.unlink()

    def _past(self, lines: Iterable[tuple[Place, Any]]) -> Past:
        past, session = Past(), 0.0
        for place, line in lines:
            if "session" in line:
                past.started.append(line["session"])
                past.seconds += session
                session = 0.0
                continue
            scores, key = line["scores"], (line["task"], line["doc_id"])
            if scores.keys() != KEPT:
                raise ValueError(f"scores are {sorted(scores)}, expected {sorted(KEPT)}")
            if scores.pop("tokens") is not None:
                self._tokens[key] = place
            past.entries[key] = scores
            session = line["seconds"]
        past.seconds += session
        return past


def changes(old: Subject, new: Subject) -> list[str]:
    """Return the differences between two sessions' subjects, in words."""
    return list(_changes(_described(old), _described(new)))


def _described(subject: Subject) -> dict[str, Any]:
    return subject.model_dump(mode="json", exclude=IGNORED)


def _changes(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """Yield the differences, in words: ``models.base.digest was "a" and is "b"``."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from _changes(old.get(key), new.get(key), f"{name}.{key}" if name else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from _changes(before, after, f"{name}[{index}]")
    elif old != new:
        yield f"{name} was {json.dumps(old)} and is {json.dumps(new)}"
