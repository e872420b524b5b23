"""How far the two models' distributions are apart: over the choices of an item, and over the tokens of a corpus."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from qconf.statistics.arrays import Floats


@dataclass(frozen=True)
class ChoiceDivergence:
    """Divergences of the distributions over an item's choices, each of shape (items,), nats.

    ``js_distance`` is the square root of ``js``, which the paper plots; ``total_variation`` is the largest change of
    the share of any set of choices.
    """

    kl: Floats
    reverse_kl: Floats
    js: Floats
    total_variation: Floats

    @property
    def js_distance(self) -> Floats:
        """Square root of the Jensen-Shannon divergence: a metric. Endres & Schindelin 2003."""
        return np.asarray(np.sqrt(self.js))


def choice_divergence(base: npt.ArrayLike, quantized: npt.ArrayLike) -> ChoiceDivergence:
    """Return divergences of softmax(base) and softmax(quantized).

    Both are log-likelihoods of shape (items, choices), padded with -inf.

    KL(p || q) = sum p (log p - log q); JS = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, from 0 to log 2;
    total variation = sum |p - q| / 2, from 0 to 1. Computed from log-probabilities, so that shares too small for a
    float do no harm.
    """
    log_p, log_q = (_log_softmax(values, name) for values, name in ((base, "base"), (quantized, "quantized")))
    if log_p.shape != log_q.shape:
        raise ValueError(f"quantized has shape {log_q.shape}, expected {log_p.shape}")
    padding = np.isneginf(log_p)
    if (padding != np.isneginf(log_q)).any():
        row = int((padding != np.isneginf(log_q)).any(axis=1).argmax())
        raise ValueError(f"quantized[{row}] is {np.asarray(quantized)[row]}, expected -inf where base[{row}] has it")
    log_p, log_q = np.where(padding, 0.0, log_p), np.where(padding, 0.0, log_q)
    p, q = np.where(padding, 0.0, np.exp(log_p)), np.where(padding, 0.0, np.exp(log_q))
    ratio = log_q - log_p
    # log(m / p) and log(m / q), from the ratio alone: equal models are apart by exactly 0.
    over_p, over_q = (np.logaddexp(0.0, each) - np.log(2) for each in (ratio, -ratio))

    def total(terms: Floats) -> Floats:
        # Rounding may leave a sum that is 0 slightly below it.
        return np.asarray(np.maximum(terms.sum(axis=1), 0.0))

    return ChoiceDivergence(
        kl=total(-p * ratio),
        reverse_kl=total(q * ratio),
        js=total(-(p * over_p + q * over_q) / 2),
        total_variation=total(np.abs(p - q) / 2),
    )


def _log_softmax(values: npt.ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"{name} has shape {array.shape}, expected (items, choices) with one item or more")
    top = array.max(axis=1, keepdims=True)
    bad = np.isnan(array).any(axis=1) | ~np.isfinite(top[:, 0])
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"{name}[{row}] is {array[row]}, expected finite numbers, and -inf as padding")
    shifted = array - top
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
