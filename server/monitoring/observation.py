"""Both models' confidence in comparisons: the input of live metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from qconf.statistics.arrays import Booleans, Floats
from qconf.statistics.drift import Key, Quantity, Sample
from server.engine.twin.rows import Rows
from server.scoring.scored import Scored

UNLABELLED = -1


@dataclass(frozen=True)
class Item:
    """A comparison with two choices or more. Pairs are of the base model and of the quantized one.

    ``confidence`` is that in the choice made; ``label`` is the true choice, UNLABELLED where none is known, and
    ``brier`` the score sum over choices of (share - [it is the true one])², then 0.
    """

    choices: tuple[int, int]
    confidence: tuple[float, float]
    label: int
    brier: tuple[float, float]

    @staticmethod
    def of(scored: Scored) -> "Item":
        """Return the choices of a comparison of two continuations or more."""
        shares, (base, quantized), label = scored.confidence, scored.choices.tolist(), scored.label
        brier = (0.0, 0.0) if label is None else tuple(((shares - _truth(shares, label)) ** 2).sum(axis=0).tolist())
        return Item(
            choices=(base, quantized),
            confidence=(float(shares[base, 0]), float(shares[quantized, 1])),
            label=UNLABELLED if label is None else label,
            brier=brier,
        )


def _truth(shares: Floats, label: int) -> Floats:
    return np.asarray(np.arange(len(shares))[:, None] == label, dtype=np.float64)


@dataclass(frozen=True)
class Observation:
    """One comparison. ``tokens`` are the rows of all tokens that its summary covers."""

    tokens: Rows
    item: Item | None

    @staticmethod
    def of(scored: Scored) -> "Observation":
        """Return what is observed of a comparison."""
        return Observation(scored.rows, Item.of(scored) if len(scored.continuations) > 1 else None)


class Observations:
    """Several comparisons as columns: one array operation for all is as cheap as for one."""

    def __init__(self, observations: Sequence[Observation]) -> None:
        self.count = len(observations)
        self.tokens = Rows(np.concatenate([each.tokens.values for each in observations]))
        self._lengths = np.array([len(each.tokens.values) for each in observations])
        self._is_item = np.array([each.item is not None for each in observations])
        items = [each.item for each in observations if each.item is not None]
        self.choices = np.array([item.choices for item in items], dtype=np.int64).reshape(-1, 2)
        self.confidence: Floats = np.array([item.confidence for item in items], dtype=np.float64).reshape(-1, 2)
        self.brier: Floats = np.array([item.brier for item in items], dtype=np.float64).reshape(-1, 2)
        self.labels = np.array([item.label for item in items], dtype=np.int64)

    @cached_property
    def labelled(self) -> Booleans:
        """Of items: whether the true choice is known."""
        return np.asarray(self.labels != UNLABELLED)

    @cached_property
    def right(self) -> Booleans:
        """Of items: whether each model's choice is the true one, shape (items, models)."""
        return np.asarray(self.choices == self.labels[:, None])

    @cached_property
    def flips(self) -> dict[str, int]:
        """How many items flipped, by what became of the answer."""
        flip = self.choices[:, 0] != self.choices[:, 1]
        base, quantized = self.right.T
        kinds = {
            "right_to_wrong": base & ~quantized,
            "wrong_to_right": ~base & quantized,
            "wrong_to_other_wrong": flip & self.labelled & ~base & ~quantized,
            "unlabelled": flip & ~self.labelled,
        }
        return {kind: int(items.sum()) for kind, items in kinds.items()}

    @property
    def choice_delta(self) -> Floats:
        """Of items: confidence in the choice, quantized minus base."""
        return np.asarray(self.confidence[:, 1] - self.confidence[:, 0])

    @property
    def token_delta(self) -> npt.NDArray[np.floating[Any]]:
        """Of tokens: largest probability, quantized minus base."""
        return self.tokens["quantized_confidence"] - self.tokens["base_confidence"]

    def samples(self) -> dict[Key, Sample]:
        """Return the values whose drift is watched: one per item, and one per token of texts without choices."""
        place = np.repeat(np.arange(self.count), self._lengths)
        of_text = ~self._is_item[place]
        columns: dict[Quantity, Any] = {
            "kl": self.tokens["kl"],
            "base_confidence": self.tokens["base_confidence"],
            "quantized_confidence": self.tokens["quantized_confidence"],
            "confidence_delta": self.token_delta,
        }
        texts = np.unique(place[of_text], return_inverse=True)[1]
        scored = self._is_item & (self._lengths > 0)
        kl = np.bincount(place, self.tokens["kl"], self.count)[scored] / self._lengths[scored]
        items: dict[Quantity, Floats] = {
            "kl": kl,
            "base_confidence": self.confidence[:, 0],
            "quantized_confidence": self.confidence[:, 1],
            "confidence_delta": self.choice_delta,
        }
        found: dict[Key, Sample] = {("token", name): Sample(all_[of_text], texts) for name, all_ in columns.items()}
        return found | {("item", name): Sample.independent(values) for name, values in items.items()}
