"""Sums over the latest part of a stream, and their file."""

import math
import os
import zipfile
from pathlib import Path

import numpy as np

from qconf.statistics.arrays import Floats

PARTS = 100
"""A window slides in steps of a hundredth."""


class Damaged(Exception):
    """A file that cannot be restored."""


class SlidingSums:
    """Sums of vectors over the latest ``most`` entries, none of them older than ``seconds``.

    Entries are kept as sums over parts of the window, and leave it part by part.
    """

    def __init__(self, width: int, most: int, seconds: float) -> None:
        self._width = width
        self._most, self._seconds = most, seconds
        self._starts: Floats = np.zeros(0)
        self._counts: Floats = np.zeros(0)
        self._sums: Floats = np.zeros((0, width))

    @property
    def step(self) -> int:
        """How many entries a part has."""
        return math.ceil(self._most / PARTS)

    def add(self, vector: Floats, count: int, now: float) -> None:
        """Add a vector that is the sum over some entries at that time, in seconds."""
        if not len(self._counts) or self._counts[-1] >= self.step or now - self._starts[-1] >= self._seconds / PARTS:
            self._starts = np.append(self._starts, now)
            self._counts = np.append(self._counts, 0)
            self._sums = np.concatenate([self._sums, np.zeros((1, self._width))])
        self._counts[-1] += count
        self._sums[-1] += vector
        self._drop(now)

    def total(self, now: float) -> tuple[int, Floats]:
        """Return the number of entries in the window at that time, and their sum."""
        self._drop(now)
        return int(self._counts.sum()), self._sums.sum(axis=0)

    def _drop(self, now: float) -> None:
        beyond = np.cumsum(self._counts[::-1])[::-1] > self._most
        kept = ~beyond & (self._starts >= now - self._seconds)
        if not kept.all():
            self._starts, self._counts, self._sums = self._starts[kept], self._counts[kept], self._sums[kept]

    def save(self, path: Path) -> None:
        """Write the window to a file, which is replaced as a whole. One thread at a time."""
        part = path.with_name(f"{path.name}.part")
        with part.open("wb") as stream:
            np.savez_compressed(stream, starts=self._starts, counts=self._counts, sums=self._sums)
            stream.flush()
            os.fsync(stream.fileno())  # or a crash of the machine may leave an empty file under the final name
        os.replace(part, path)

    def load(self, path: Path) -> None:
        """Restore the window from a file. Damaged where it cannot be read."""
        try:
            with path.open("rb") as stream, np.load(stream) as file:
                starts, counts, sums = file["starts"], file["counts"], file["sums"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise Damaged(str(error)) from error
        if sums.shape != (len(starts), self._width) or counts.shape != starts.shape:
            raise Damaged("it does not contain a window of this server")
        self._starts, self._counts, self._sums = starts, counts, sums
