"""Multiple-choice items of runs as arrays, with each model's answers.

Rows of items with fewer choices than the widest are padded at the end: with -inf where there are log-likelihoods, which
gives the padding no share.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from qconf.run.folder import Run
from qconf.statistics.arrays import Booleans, Floats, Ints
from qconf.statistics.divergence import ChoiceDivergence, choice_divergence
from qconf.statistics.forecasts import brier

NO_LABEL = -1


class EvalError(Exception):
    """A run cannot be evaluated; the message says why in one sentence."""


@dataclass(frozen=True)
class Answers:
    """One model's log-likelihoods of choices, shape (items, choices), and what follows, each of shape (items,)."""

    logprobs: Floats
    labels: Ints

    @cached_property
    def shares(self) -> Floats:
        """The softmax of the log-likelihoods over an item's choices: the confidence in each, shape (items, choices)."""
        top = self.logprobs.max(axis=1, keepdims=True)
        weights = np.exp(self.logprobs - top)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    @cached_property
    def choice(self) -> Ints:
        """The likeliest choice; ties go to the first, as in lm-eval."""
        return np.asarray(self.logprobs.argmax(axis=1), dtype=np.int64)

    @cached_property
    def confidence(self) -> Floats:
        """Share of the likeliest choice."""
        return np.asarray(self.shares.max(axis=1))

    @cached_property
    def margin(self) -> Floats:
        """Share of the likeliest choice less the second's share; the share itself where there is a single choice."""
        if self.shares.shape[1] == 1:
            return self.confidence
        two = np.partition(self.shares, -2, axis=1)[:, -2:]
        return np.asarray(two[:, 1] - two[:, 0])

    @cached_property
    def entropy(self) -> Floats:
        """Entropy of the shares in nats: -sum(p log p)."""
        shares = self.shares
        logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
        # Adding zero turns the -0 of a certain answer into 0.
        return np.asarray(-(shares * logs).sum(axis=1) + 0.0)

    @cached_property
    def correct(self) -> Booleans:
        """Whether the likeliest choice is the true one; every item must have a label."""
        return np.asarray(self.choice == self._labels)

    @cached_property
    def true_share(self) -> Floats:
        """Share of the true choice; every item must have a label."""
        return np.asarray(np.take_along_axis(self.shares, self._labels[:, None], axis=1)[:, 0])

    @cached_property
    def nll(self) -> Floats:
        """Negative log of the share of the true choice, nats; every item must have a label."""
        true = np.take_along_axis(self.logprobs, self._labels[:, None], axis=1)[:, 0]
        return np.asarray(np.logaddexp.reduce(self.logprobs, axis=1) - true)

    @cached_property
    def brier(self) -> Floats:
        """Squared distance of the shares from the true choice's 1 and the others' 0; every item must have a label."""
        return brier(self.shares, self._labels)

    @property
    def _labels(self) -> Ints:
        if (self.labels == NO_LABEL).any():
            at = int((self.labels == NO_LABEL).argmax())
            raise ValueError(f"labels[{at}] is missing, expected the index of the true choice")
        return self.labels


@dataclass(frozen=True)
class Choices:
    """Items of one or several tasks. ``task`` indexes ``tasks``; ``labels`` has NO_LABEL where none is known.

    ``sizes`` are the numbers of choices, ``chars`` the lengths that lm-eval's acc_norm divides by, 1 in padding.
    ``cluster`` has the same number for items that belong together, such as questions about one passage; None where
    nothing is known of that.
    """

    tasks: tuple[str, ...]
    task: Ints
    doc_id: Ints
    labels: Ints
    sizes: Ints
    base_logprobs: Floats
    quantized_logprobs: Floats
    chars: Ints
    cluster: Ints | None = None

    def __len__(self) -> int:
        return len(self.task)

    @cached_property
    def base(self) -> Answers:
        """The base model's answers."""
        return Answers(self.base_logprobs, self.labels)

    @cached_property
    def quantized(self) -> Answers:
        """The quantized model's answers."""
        return Answers(self.quantized_logprobs, self.labels)

    @cached_property
    def divergence(self) -> ChoiceDivergence:
        """The divergences between the two models' shares."""
        return choice_divergence(self.base_logprobs, self.quantized_logprobs)

    @property
    def cluster_numbers(self) -> Ints | None:
        """The items' clusters as numbers from 0 on without gaps; None where each is on its own."""
        return None if self.cluster is None else without_gaps(self.cluster)

    def normalized_correct(self, answers: Answers) -> Booleans:
        """Return whether lm-eval's acc_norm counts the answer as right: log-likelihoods are divided by lengths."""
        return np.asarray((answers.logprobs / self.chars).argmax(axis=1) == self.labels)

    @property
    def labelled(self) -> "Choices":
        """The items with a label."""
        return self.where(self.labels != NO_LABEL)

    def of_task(self, name: str) -> "Choices":
        """Return the items of one task."""
        return self.where(self.task == self.tasks.index(name))

    def where(self, chosen: Booleans) -> "Choices":
        """Return the items that are marked, without columns that none of them needs."""
        width = int(self.sizes[chosen].max(initial=1))
        return Choices(
            tasks=self.tasks,
            task=self.task[chosen],
            doc_id=self.doc_id[chosen],
            labels=self.labels[chosen],
            sizes=self.sizes[chosen],
            base_logprobs=self.base_logprobs[chosen, :width],
            quantized_logprobs=self.quantized_logprobs[chosen, :width],
            chars=self.chars[chosen, :width],
            cluster=None if self.cluster is None else self.cluster[chosen],
        )


def flip_kinds(choices: Choices) -> dict[str, Booleans]:
    """Return which items flipped, by kind: from and to a right or a wrong answer."""
    base, quantized = choices.base, choices.quantized
    flip = base.choice != quantized.choice
    return {
        "flips": flip,
        "right_to_wrong": base.correct & ~quantized.correct,
        "wrong_to_right": ~base.correct & quantized.correct,
        "wrong_to_other_wrong": flip & ~base.correct & ~quantized.correct,
    }


def read_choices(run: Run) -> Choices:
    """Return the multiple-choice items of a run. EvalError names the first row that failed or is not finite."""
    table = run.table
    failed = table.filter(pc.is_valid(table["error"]))
    if failed.num_rows:
        first = failed.slice(0, 1).to_pylist()[0]
        raise EvalError(
            f"{failed.num_rows} items of {run.path} failed, the first of them document {first['doc_id']} of "
            f"{first['task']}: resume the run to complete it"
        )
    table = table.filter(pc.equal(table["kind"], "multiple_choice"))
    tasks = tuple(dict.fromkeys(table["task"].to_pylist()))
    count = table["n_choices"].to_numpy()
    labels = pc.fill_null(table["label"], NO_LABEL).to_numpy()
    _check_labels(run, table, labels, count)
    return Choices(
        tasks=tasks,
        task=pc.index_in(table["task"], pa.array(tasks, pa.string())).to_numpy().astype(np.int64),
        doc_id=table["doc_id"].to_numpy(),
        labels=labels,
        sizes=count,
        base_logprobs=_padded(run, table, "base_logprob", count, -np.inf),
        quantized_logprobs=_padded(run, table, "quantized_logprob", count, -np.inf),
        chars=_padded(run, table, "choice_chars", count, 1).astype(np.int64),
        cluster=read_clusters(table),
    )


def without_gaps(clusters: Ints) -> Ints | None:
    """Return the same clusters as numbers from 0 on without gaps; None where each item is on its own."""
    found, numbers = np.unique(clusters, return_inverse=True)
    return None if len(found) == len(clusters) else np.asarray(numbers)


def read_clusters(table: pa.Table) -> Ints | None:
    """Number each task's clusters; items without one have numbers of their own. None where no item has any."""
    names = table["cluster"]
    if names.null_count == len(names):
        return None
    tasks, labels = table["task"].to_pylist(), names.to_pylist()
    keys = [
        (task, label) if label is not None else row for row, (task, label) in enumerate(zip(tasks, labels, strict=True))
    ]
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _check_labels(run: Run, table: pa.Table, labels: Ints, count: Ints) -> None:
    wrong = (labels != NO_LABEL) & ((labels < 0) | (labels >= count))
    if wrong.any():
        at = int(wrong.argmax())
        raise EvalError(f"{_place(run, table, at)}: label is {labels[at]}, expected an index below {count[at]}")


def _padded(run: Run, table: pa.Table, name: str, count: Ints, fill: float) -> Floats:
    """Return a list column as (items, choices); every list must have a finite number for each of the item's choices."""
    column = table[name].combine_chunks()
    lengths = pc.list_value_length(column).to_numpy()
    if (lengths != count).any():
        at = int((lengths != count).argmax())
        raise EvalError(f"{_place(run, table, at)}: {name} has {lengths[at]} numbers, expected {count[at]}")
    values = column.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    rows = np.repeat(np.arange(len(count)), count)
    finite = np.isfinite(values)
    if not finite.all():
        bad = int(finite.argmin())
        raise EvalError(f"{_place(run, table, int(rows[bad]))}: {name} is {values[bad]}, expected a finite number")
    columns = np.arange(len(values)) - np.repeat(np.cumsum(count) - count, count)
    padded = np.full((len(count), int(count.max(initial=1))), fill)
    padded[rows, columns] = values
    return padded


def _place(run: Run, table: pa.Table, row: int) -> str:
    return f"{run.path}, task {table['task'][row]}, document {table['doc_id'][row]}"
