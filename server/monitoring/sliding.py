"""Sums over the latest part of a stream, and their file."""

import math
import os
from pathlib import Path

import numpy as np

from qconf.statistics.arrays import Floats

PARTS = 100
"""A window slides in steps of a hundredth."""


class Damaged(Exception):
    """A file that cannot be restored."""


class SlidingSums:
    """Sums of vectors over the latest ``most`` entries, none of them older than ``seconds``.

    Entries are kept as sums over parts of the window, and leave it part by part. Times are in seconds of a clock that
    never steps. The file has the age of each part and the time of day at which it was written.
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

    def save(self, path: Path, now: float, time_of_day: float) -> None:
        """Write the window to a file, which is replaced as a whole. One thread at a time."""
        part = path.with_name(f"{path.name}.part")
        with part.open("wb") as stream:
            ages = now - self._starts
            np.savez_compressed(stream, ages=ages, written=time_of_day, counts=self._counts, sums=self._sums)
            stream.flush()
            os.fsync(stream.fileno())  # or a crash of the machine may leave an empty file under the final name
        os.replace(part, path)

    def load(self, path: Path, now: float, time_of_day: float) -> None:
        """Restore the window from a file. Damaged where it cannot be read.

        A clock that was set back in between counts as no time.
        """
        try:
            with path.open("rb") as stream, np.load(stream) as file:
                ages, counts, sums = (np.asarray(file[name], float) for name in ("ages", "counts", "sums"))
                written = float(file["written"])
        except Exception as error:  # whatever zipfile, zlib and numpy raise on bytes that nobody wrote
            raise Damaged(str(error)) from error
        if ages.ndim != 1 or sums.shape != (len(ages), self._width) or counts.shape != ages.shape:
            raise Damaged("it does not contain a window of this server")
        if not (all(np.isfinite(values).all() for values in (ages, counts, sums, written)) and (ages >= 0).all()):
            raise Damaged("it contains numbers that no window has")
        self._starts = now - (ages + max(0.0, time_of_day - written))
        self._counts, self._sums = counts, sums
