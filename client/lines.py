"""A file of JSON lines that is only appended to, by one process at a time.

A line that was being written when its process died is incomplete; it is dropped.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

from qconf.run.folder import RunError


class Place(NamedTuple):
    """Bytes of a line in the file."""

    start: int
    length: int


class Lines:
    """The open file, locked for this process. ``subject`` says in errors what is being written."""

    def __init__(self, path: Path, subject: str) -> None:
        self._path = path
        self._subject = subject
        self._fd = -1
        self._end = 0

    def __enter__(self) -> Self:
        with self._failing("open"):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._fd)
            raise RunError(f"another process is writing {self._subject}") from exc
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def read(self) -> Iterator[tuple[Place, Any]]:
        """Yield what the whole lines hold and where they are, one at a time: the file may not fit into memory.

        To be read to the end before anything is appended.
        """
        with self._failing("read"), self._path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    break
                place = Place(self._end, len(line))
                self._end += len(line)
                try:
                    parsed = json.loads(line)
                except (ValueError, RecursionError) as exc:
                    raise RunError(f"{self._path}, line {number} is damaged: {exc}") from exc
                yield place, parsed
        with self._failing("write to"):
            os.ftruncate(self._fd, self._end)

    def append(self, line: dict[str, Any]) -> Place:
        """Append a line, and return where it is."""
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        place = Place(self._end, len(data))
        with self._failing("write to"):
            while data:  # a write may be partial, for instance when the disk is full
                data = data[os.write(self._fd, data) :]
        self._end += place.length
        return place

    def at(self, place: Place) -> Any:
        """Read a line back."""
        with self._failing("read"):
            return json.loads(os.pread(self._fd, place.length, place.start))

    @contextmanager
    def _failing(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise RunError(f"cannot {action} {self._path}: {exc.strerror}") from exc
