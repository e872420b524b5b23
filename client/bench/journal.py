"""Journal of a replay on disk: one line per answered item, appended as soon as it is answered.

The first line holds what is measured (a ``Subject``) and the version of the client: only the same version can resume.
Then come lines that mark the start of a session, and lines of items. A line that was being written when the process
died is incomplete and dropped: its item is scored again.
"""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from qconf import __version__
from qconf.run.columns import SCORES
from qconf.run.folder import RunError, Subject

JOURNAL = "journal.jsonl"
# The last version whose journals do not name it.
UNNAMED = "0.1.0"
KEPT = {*SCORES, "tokens"}
# The server's start time does not affect what it serves.
IGNORED = {"models": {"base": {"created"}, "quantized": {"created"}}}


@dataclass
class Past:
    """Earlier sessions of a run: ``entries`` by task and document, start of each session, seconds at work in all."""

    entries: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Journal:
    """The open journal of a run, locked for this process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def __enter__(self) -> Self:
        with self._failing("open"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._fd)
            raise RunError(f"another process is writing the run {self._path.parent}") from exc
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def begin(self, subject: Subject, started: str) -> Past:
        """Start a session: read the journal, or write its first line. RunError names what has changed."""
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        os.ftruncate(self._fd, len(whole))
        described = _described(subject)
        lines = self._parsed(whole)
        if whole:
            self._check(next(lines), described)
            past = self._read(lines)
        else:
            self._append({"client": __version__} | described)
            past = Past()
        past.started.append(started)
        self._append({"session": started})
        return past

    def _check(self, first: Any, described: dict[str, Any]) -> None:
        """Raise RunError where another version wrote the first line, or where it describes another subject."""
        if not isinstance(first, dict):
            raise self._foreign("another version of qconf")
        if (version := first.pop("client", UNNAMED)) != __version__:
            raise self._foreign(f"qconf {version}")
        if found := list(_changes(first, described)):
            raise RunError(f"{self._path.parent} cannot be resumed: {'; '.join(found)}")

    def _read(self, lines: Iterator[Any]) -> Past:
        try:
            return _past(lines)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise self._foreign("another version of qconf") from exc

    def _foreign(self, writer: str) -> RunError:
        return RunError(
            f"{self._path.parent} cannot be resumed: {writer} wrote its journal, and this is qconf {__version__}; "
            "resume it with the version that wrote it, or choose another folder"
        )

    def add(self, task: str, doc_id: int, seconds: float, scores: dict[str, Any]) -> None:
        """Append an item's scores, which came ``seconds`` after the session's start."""
        self._append({"task": task, "doc_id": doc_id, "seconds": round(seconds, 3), "scores": scores})

    def delete(self) -> None:
        """Remove the file: the run is complete."""
        self._path.unlink()

    def _append(self, line: dict[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        with self._failing("write to"):
            while data:  # a write may be partial, for instance when the disk is full
                data = data[os.write(self._fd, data) :]

    def _parsed(self, content: bytes) -> Iterator[Any]:
        for number, line in enumerate(content.splitlines(), 1):
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as exc:
                raise RunError(f"{self._path}, line {number} is damaged: {exc}") from exc

    @contextmanager
    def _failing(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise RunError(f"cannot {action} {self._path}: {exc.strerror}") from exc


def _past(lines: Iterable[Any]) -> Past:
    past, session = Past(), 0.0
    for line in lines:
        if "session" in line:
            past.started.append(line["session"])
            past.seconds += session
            session = 0.0
        else:
            if line["scores"].keys() != KEPT:
                raise ValueError(f"scores are {sorted(line['scores'])}, expected {sorted(KEPT)}")
            past.entries[line["task"], line["doc_id"]] = line["scores"]
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
