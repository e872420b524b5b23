r"""Tokens whose expected count differs between two models, judged over a whole vocabulary.

The expected count of a token is its probability summed over the positions of a corpus. Of cluster c (a window, a
record), let d[c] be the quantized model's count minus the base model's. The difference in all, D = sum(d), has the
variance n/(n - 1) sum((d - mean(d))^2) over n clusters (Cameron and Miller, "A Practitioner's Guide to Cluster-Robust
Inference", Journal of Human Resources 2015, section II), and its interval is D +- t sqrt(variance) with n - 1 degrees
of freedom. Whoever looks at the largest differences of a vocabulary of V tokens has looked at all of them: t is the
quantile for 5 % / V (Bonferroni), so that with a probability of about 95 % all V intervals contain the true value. A
bootstrap would need many more resamples than V for such a quantile.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats  # type: ignore[import-untyped]

from qconf.statistics.arrays import Floats
from qconf.statistics.intervals import LEVEL


class CountSums:
    """Sums over clusters of a corpus, in float64: a few numbers for each token of the vocabulary."""

    def __init__(self) -> None:
        self.clusters = 0
        self.base: Floats = np.zeros(1)
        self.quantized: Floats = np.zeros(1)
        self._squares: Floats = np.zeros(1)

    def add(self, base: npt.NDArray[Any], quantized: npt.NDArray[Any]) -> None:
        """Add the expected counts of a cluster, each of shape (vocabulary,)."""
        base, quantized = base.astype(np.float64), quantized.astype(np.float64)
        self.clusters += 1
        self.base = self.base + base
        self.quantized = self.quantized + quantized
        self._squares = self._squares + (quantized - base) ** 2

    @property
    def difference(self) -> Floats:
        """Return quantized minus base of each token."""
        return self.quantized - self.base

    @property
    def standard_error(self) -> Floats:
        """Return the standard error of each token's difference; NaN with one cluster."""
        n = self.clusters
        if n < 2:
            return np.full_like(self.base, np.nan)
        around_mean = (self._squares - self.difference**2 / n).clip(min=0)
        return np.sqrt(n / (n - 1) * around_mean)

    def margins(self) -> Floats:
        """Return half the width of the interval of each token's difference, adjusted to the vocabulary."""
        tail = (1 - LEVEL) / 2 / len(self.base)
        return np.asarray(stats.t.isf(tail, max(self.clusters - 1, 1)) * self.standard_error)
