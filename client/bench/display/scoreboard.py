"""Both models' results on a run: running sums over its items, and means at any time.

Confidence of a choice is the softmax over the item's summed log-likelihoods, as in Proskurina et al. (2024). The live
display and the final table use the same sums. ``eval`` has its own: the client does not import it.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from qconf.run.columns import ItemResult


def softmax(logprobs: Sequence[float]) -> list[float]:
    """Return the shares of exp(logprobs), without overflow. Raise ValueError where a number is infinite or missing."""
    if not logprobs or not all(math.isfinite(value) for value in logprobs):
        raise ValueError(f"logprobs: expected one finite number or more, got {list(logprobs)}")
    top = max(logprobs)
    weights = [math.exp(value - top) for value in logprobs]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def chosen(logprobs: Sequence[float]) -> int:
    """Return the index of the likeliest choice; ties go to the first, as in lm-eval and on the server."""
    return max(range(len(logprobs)), key=logprobs.__getitem__)


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """One model on one task: its mean ``confidence`` in the choice it made, ``true_confidence`` in the true choice.

    ``accuracy`` and ``true_confidence`` are means over the items that have a label. An item with a single continuation
    (lm-eval's "loglikelihood") is right where every token was the model's likeliest; its confidence is the probability
    of the continuation. NaN stands for a mean over nothing.
    """

    accuracy: float
    confidence: float
    true_confidence: float


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """Both models on one task. ``mean_kl`` is the mean over items of the items' mean KL(base || quantized).

    ``flips`` counts among the ``choosing`` items, those with choices.
    """

    scored: int
    failed: int
    choosing: int
    base: ModelSummary
    quantized: ModelSummary
    flips: int
    mean_kl: float


@dataclass(slots=True)
class _ModelSums:
    correct: int = 0
    confidence: float = 0.0
    true_confidence: float = 0.0

    def choose(self, logprobs: Sequence[float], label: int | None) -> None:
        confidences = softmax(logprobs)
        self.confidence += max(confidences)
        if label is not None:
            self.correct += chosen(logprobs) == label
            self.true_confidence += confidences[label]

    def predict(self, logprob: float, is_greedy: bool) -> None:
        self.correct += is_greedy
        self.true_confidence += math.exp(logprob)

    def summary(self, choosing: int, labelled: int) -> ModelSummary:
        return ModelSummary(
            accuracy=_mean(self.correct, labelled),
            confidence=_mean(self.confidence, choosing),
            true_confidence=_mean(self.true_confidence, labelled),
        )


@dataclass(slots=True)
class Tally:
    """Running sums over items."""

    scored: int = 0
    failed: int = 0
    _choosing: int = 0
    _labelled: int = 0
    _flips: int = 0
    _kl: float = 0.0
    _kl_items: int = 0
    _base: _ModelSums = field(default_factory=_ModelSums)
    _quantized: _ModelSums = field(default_factory=_ModelSums)

    @property
    def done(self) -> int:
        return self.scored + self.failed

    def add(self, item: ItemResult) -> None:
        """Add an item. Raise ``ValueError``, which names it, where its numbers are not log-probabilities."""
        if item.error is not None:
            self.failed += 1
            return
        if item.kind == "multiple_choice":
            self._choose(item)
        elif item.kind == "loglikelihood":
            self._base.predict(item.base_logprob[0], item.base_is_greedy[0])
            self._quantized.predict(item.quantized_logprob[0], item.quantized_is_greedy[0])
            self._labelled += 1
        self.scored += 1
        if item.mean_kl is not None:
            self._kl += item.mean_kl
            self._kl_items += 1

    def _choose(self, item: ItemResult) -> None:
        try:
            self._base.choose(item.base_logprob, item.label)
            self._quantized.choose(item.quantized_logprob, item.label)
        except ValueError as exc:
            raise ValueError(f"{item.task}, document {item.doc_id}: {exc}") from exc
        self._choosing += 1
        self._labelled += item.label is not None
        self._flips += chosen(item.base_logprob) != chosen(item.quantized_logprob)

    def summary(self) -> TaskSummary:
        """Return the means over the items added so far."""
        return TaskSummary(
            scored=self.scored,
            failed=self.failed,
            choosing=self._choosing,
            base=self._base.summary(self._choosing, self._labelled),
            quantized=self._quantized.summary(self._choosing, self._labelled),
            flips=self._flips,
            mean_kl=_mean(self._kl, self._kl_items),
        )


def _mean(total: float, count: int) -> float:
    return total / count if count else math.nan


class Scoreboard:
    """Tallies per task, in the order of the tasks, and one over all items."""

    def __init__(self, tasks: Iterable[str]) -> None:
        self.tasks = {name: Tally() for name in tasks}
        self.overall = Tally()

    def add(self, item: ItemResult) -> None:
        self.tasks[item.task].add(item)
        self.overall.add(item)
