"""Verdicts on the mean of a finite population while its items are drawn at random without replacement.

Both tests here stay valid however often one looks at them: the probability that a test is ever wrong, at any number of
items, is at most its level. Of ``size`` items with sum N mu, after t of them with sum S, the remaining ones have
the mean (N mu - S) / (N - t): this is where the known size helps.

Bounded values are bet on (Waudby-Smith & Ramdas 2020, arXiv 2010.09686, section 5): a gambler who cannot borrow does
not win on average while the limit is right, so 40 times the stake are evidence at 2.5 % (Ville 1939). Without
bounds, the asymptotic confidence sequence is used (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2021,
arXiv 2103.06476), whose guarantee holds for many items only.
"""

import math
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np

from qconf.statistics.arrays import Booleans, Floats, require

LEVEL = 0.05
"""The level of a two-sided sequence, as of the gate's 95 % intervals; each side has half of it."""
STAKES = np.arange(1, 25) / 25
"""Shares of the capital that 24 gamblers stake on every item; the evidence is their mean."""
FIRST = 100
"""Items before which an asymptotic sequence is unbounded."""
SKEWED = 50
"""Times the squared skewness: the items that it needs."""
HALVINGS = 40
SMALLEST = 1e-12
"""Stands for an expectation that rounding has made nothing or less."""
ROUNDING = 1e-9
"""By how much a value may lie beyond its bounds."""

Outcome = Literal["pass", "fail"]


class Limits(ABC):
    """A test of whether the mean of ``size`` values, each from ``low`` to ``high``, keeps limits.

    ``outcome`` is the result, for good, after ``settled_at`` items; None before. ``lost`` means that no further item
    can lead to an outcome.
    """

    def __init__(
        self,
        size: int,
        low: float,
        high: float,
        *,
        at_least: float | None = None,
        at_most: float | None = None,
        level: float = LEVEL,
    ) -> None:
        self.outcome: Outcome | None = None
        self.settled_at: int | None = None
        self.lost = False
        self._size, self._low, self._high, self._level = size, low, high, level
        self._begin(at_least, at_most)

    @abstractmethod
    def _begin(self, at_least: float | None, at_most: float | None) -> None:
        """Set up the state before the first item."""

    @abstractmethod
    def update(self, lowest: Floats, highest: Floats) -> None:
        """Add the next items: the lowest and the highest value that each can have, equal where the value is known."""

    @abstractmethod
    def interval(self) -> tuple[float, float]:
        """Return the mean's confidence sequence after all items so far; the mean itself once all are known."""


class Above:
    """Evidence that the mean of ``size`` items, each at least ``low``, is above a limit: a test martingale.

    A gambler with share c of the capital at stake multiplies it by 1 + c ((x - low) / (m - low) - 1) at each item x,
    where m is what the mean of those left would be if the limit were the mean of all. With ``strictly``, a mean that
    equals the limit is not above it, which matters once the items are exhausted.
    """

    def __init__(self, size: int, limit: float, low: float, *, strictly: bool, level: float = LEVEL / 2) -> None:
        self.proven_at: int | None = None
        self._size, self._limit, self._low, self._strictly = size, limit, low, strictly
        self._needed = math.log(1 / level) + math.log(len(STAKES))
        self._count, self._sum = 0, 0.0
        self._capital: Floats = np.zeros(len(STAKES))

    def update(self, values: Floats) -> None:
        """Add the next items, in the order in which they were drawn."""
        if not len(values) or self.proven_at is not None:
            return
        _check_room(self._size, self._count + len(values))
        sums = self._sum + np.cumsum(values)
        left = self._size - self._count - np.arange(len(values), dtype=np.float64)
        proven = self._certain(sums, left - 1)
        before = np.concatenate([[self._sum], sums[:-1]])
        expected = (self._size * self._limit - before) / left - self._low
        odds = (values - self._low) / np.maximum(expected, SMALLEST) - 1
        logs = self._capital + np.cumsum(np.log1p(STAKES * odds[:, None]), axis=0)
        proven |= np.logaddexp.reduce(logs, axis=1) >= self._needed
        if proven.any():
            self.proven_at = self._count + int(proven.argmax()) + 1
        self._count, self._sum, self._capital = self._count + len(values), float(sums[-1]), logs[-1]

    def _certain(self, sums: Floats, left: Floats) -> Booleans:
        """Return whether the mean is above the limit whatever the remaining items are."""
        least = (sums + left * self._low) / self._size
        return np.asarray(least > self._limit if self._strictly else least >= self._limit)


class Betting(Limits):
    """``Limits`` on the mean of bounded values, by betting."""

    def _begin(self, at_least: float | None, at_most: float | None) -> None:
        self._lowest: list[Floats] = []
        self._highest: list[Floats] = []
        size, low, high, half = self._size, self._low, self._high, self._level / 2
        # That a mean is below a limit is that its negative is above the limit's.
        self._above, self._below = [], []
        if at_least is not None:
            self._above.append((Above(size, at_least, low, strictly=False, level=half), "pass"))
            self._below.append((Above(size, -at_least, -high, strictly=True, level=half), "fail"))
        if at_most is not None:
            self._above.append((Above(size, at_most, low, strictly=True, level=half), "fail"))
            self._below.append((Above(size, -at_most, -high, strictly=False, level=half), "pass"))

    def update(self, lowest: Floats, highest: Floats) -> None:
        """Add the next items. An unknown item counts with its worst value for each direction, which keeps both tests
        valid whatever the reason why it is unknown."""
        bounds = f"from {self._low:g} to {self._high:g}"
        require(lowest, "lowest", (lowest >= self._low - ROUNDING) & (lowest <= highest), f"a number {bounds}")
        require(highest, "highest", highest <= self._high + ROUNDING, f"a number {bounds}")
        self._lowest.append(lowest)
        self._highest.append(highest)
        for test, _ in self._above:
            test.update(lowest)
        for test, _ in self._below:
            test.update(-highest)
        if self.outcome is None:
            self._settle()

    def _settle(self) -> None:
        tests = self._above + self._below
        passed = [test.proven_at for test, says in tests if says == "pass"]
        failed = [test.proven_at for test, says in tests if says == "fail" and test.proven_at is not None]
        candidates: list[tuple[int, Outcome]] = [(at, "fail") for at in failed]
        if proven := [at for at in passed if at is not None]:
            candidates += [(max(proven), "pass")] if len(proven) == len(passed) else []
        if candidates:
            self.settled_at, self.outcome = min(candidates)

    def interval(self) -> tuple[float, float]:
        """Return the limits that are not refuted."""
        lowest, highest = np.concatenate([[], *self._lowest]), np.concatenate([[], *self._highest])
        half = self._level / 2
        return (
            largest_refuted(lowest, self._size, self._low, self._high, half),
            -largest_refuted(-highest, self._size, -self._high, -self._low, half),
        )


def largest_refuted(values: Floats, size: int, low: float, high: float, level: float = LEVEL / 2) -> float:
    """Return the largest limit that the values so far prove the mean to be above: the end of its one-sided sequence.

    ``Above`` proves a limit sooner the smaller it is, so that halving finds the largest.
    """
    left = size - len(values)
    proven, open_ = (values.sum() + left * low) / size, (values.sum() + left * high) / size
    for _ in range(HALVINGS if left else 0):
        middle = (proven + open_) / 2
        test = Above(size, middle, low, strictly=False, level=level)
        test.update(values)
        proven, open_ = (proven, middle) if test.proven_at is None else (middle, open_)
    return float(proven)


class Asymptotic(Limits):
    """``Limits`` on the mean of values without bounds: the asymptotic confidence sequence.

    M_t = sum of (x_i - what is expected of item i if the mean is m) is a - b m. For the true mean it is a martingale
    with variance about t sigma^2, and with probability 1 - level, |M_t| stays below z sigma sqrt(t) for all t, where
    z^2 = (1 + 1 / (r t)) log((r t + 1) / level^2) (Robbins' normal mixture); r makes that narrowest after a quarter of
    the items. Divergences are skewed, and their means are not normal before there are many: the ends are moved out by
    G sigma (1 + 2 z^2) / 6 of M_t, G being the skewness (Johnson 1978, J. Am. Stat. Assoc. 73), and nothing is said
    before ``FIRST`` items, while they do not vary, or while there are fewer than 28 + ``SKEWED`` G^2, twice what
    Sugden, Smith & Jones 2000 (J. R. Stat. Soc. B 62) ask for a single look. ``low`` and ``high`` are bounds where
    there are any, which only cut the sequence. An item that is not known leaves no outcome.
    """

    def _begin(self, at_least: float | None, at_most: float | None) -> None:
        self._least = -math.inf if at_least is None else at_least
        self._most = math.inf if at_most is None else at_most
        self._count = 0
        # Sums of the values, of what they have above the first, its squares and cubes, and a and b.
        self._sums: Floats = np.zeros(6)
        self._first = 0.0
        self._interval = (self._low, self._high)
        spent = -2 * math.log(self._level)
        self._rate = (spent + math.log(1 + spent)) / max(FIRST, self._size / 4)

    def update(self, lowest: Floats, highest: Floats) -> None:
        self.lost |= bool((lowest != highest).any())
        if self.lost or not len(lowest):
            self._interval = (self._low, self._high)
            return
        _check_room(self._size, self._count + len(lowest))
        low, high = self._sequence(lowest)
        passes, fails = (low >= self._least) & (high <= self._most), (high < self._least) | (low > self._most)
        settled = passes | fails
        if self.outcome is None and settled.any():
            at = int(settled.argmax())
            self.settled_at, self.outcome = self._count + at + 1, "pass" if passes[at] else "fail"
        self._count += len(lowest)
        self._interval = (float(low[-1]), float(high[-1]))

    def interval(self) -> tuple[float, float]:
        """Return the sequence, cut to what is still possible."""
        return self._interval

    def _sequence(self, values: Floats) -> tuple[Floats, Floats]:
        """Return the two ends of the sequence after each of the next items."""
        count = self._count + np.arange(1.0, len(values) + 1)
        left = self._size - count
        before = self._sums[0] + np.concatenate([[0.0], np.cumsum(values)[:-1]])
        self._first = self._first if self._count else float(values[0])
        # Sums of powers lose less to rounding around a value than around 0.
        above = values - self._first
        parts = [values, above, above**2, above**3, values + before / (left + 1), self._size / (left + 1)]
        sums = self._sums[:, None] + np.cumsum(parts, axis=1)
        self._sums = sums[:, -1]
        total, first, second, third, a, b = sums
        mean, first, second, third = (each / count for each in (total, first, second, third))
        deviation = np.sqrt(np.maximum(second - first**2, 0.0))
        varied = deviation > 0
        skewness = np.divide(
            third - 3 * first * second + 2 * first**3, deviation**3, out=np.zeros_like(mean), where=varied
        )
        grown = self._rate * count + 1
        z2 = grown / (self._rate * count) * np.log(grown / self._level**2)
        radius, shift = deviation * np.sqrt(z2 * count) / b, skewness * deviation * (1 + 2 * z2) / (6 * b)
        radius[~varied | (count < FIRST) | (count < 28 + SKEWED * skewness**2)] = math.inf
        low, high = a / b - radius + np.minimum(shift, 0.0), a / b + radius + np.maximum(shift, 0.0)
        # After the last item nothing is left to have a bound, which may be infinite.
        some = left > 0
        low[some] = np.maximum(low[some], (total[some] + left[some] * self._low) / self._size)
        high[some] = np.minimum(high[some], (total[some] + left[some] * self._high) / self._size)
        return np.where(some, low, mean), np.where(some, high, mean)


def _check_room(size: int, count: int) -> None:
    if count > size:
        raise ValueError(f"{count} items were added, expected no more than size, {size}")
