"""Checks of arguments that all statistics share: errors name the argument, the entry, and what was expected."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Booleans = npt.NDArray[np.bool_]


def vector(values: npt.ArrayLike, name: str, *, at_least: int = 1) -> Floats:
    """Return numbers in one dimension, all finite, of at least that length."""
    array = numbers(values, name)
    require(array, name, np.isfinite(array), "a finite number")
    if len(array) < at_least:
        raise ValueError(f"{name} has length {len(array)}, expected {at_least} or more")
    return array


def probabilities(values: npt.ArrayLike, name: str, *, at_least: int = 1) -> Floats:
    """Return numbers from 0 to 1 in one dimension, of at least that length."""
    array = vector(values, name, at_least=at_least)
    require(array, name, (array >= 0) & (array <= 1), "a number from 0 to 1")
    return array


def booleans(values: npt.ArrayLike, name: str, *, at_least: int = 1) -> Booleans:
    """Return booleans from booleans or numbers 0 and 1, in one dimension, of at least that length."""
    array = vector(values, name, at_least=at_least)
    require(array, name, np.isin(array, (0, 1)), "true or false")
    return array.astype(bool)


def numbers(values: npt.ArrayLike, name: str) -> Floats:
    """Return numbers in one dimension, whatever they are."""
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} has shape {array.shape}, expected one dimension")
    # numpy would turn text into numbers and nothing into NaN; without entries it cannot tell what they are.
    if array.size and array.dtype.kind not in "biuf":
        raise ValueError(f"{name} has dtype {array.dtype}, expected numbers")
    return array.astype(np.float64)


def require(array: npt.NDArray[np.generic], name: str, valid: Booleans, expected: str) -> None:
    """Raise ValueError for the first entry that is not valid."""
    if not valid.all():
        at = int(valid.argmin())
        raise ValueError(f"{name}[{at}] is {array[at]}, expected {expected}")


def same_length(array: npt.NDArray[np.generic], name: str, other: npt.NDArray[np.generic], other_name: str) -> None:
    """Raise ValueError for two arrays of different lengths."""
    if len(array) != len(other):
        raise ValueError(f"{name} has length {len(array)}, expected {len(other)}, that of {other_name}")


def mass_edges(values: Floats, n_bins: int) -> Floats:
    """Return the values at the ranks k n / n_bins, 0 < k < n_bins: about as many values are in each (low, high]."""
    ranked = np.sort(values)
    last = np.ceil(np.arange(1, n_bins) * len(ranked) / n_bins).astype(int) - 1
    return np.asarray(ranked[last])


def quotient(above: Floats, below: Floats) -> Floats:
    """Return above / below, and 0 where ``below`` is not above 0, for instance for bins without items."""
    return np.asarray(np.divide(above, below, out=np.zeros(np.shape(above)), where=below > 0))
