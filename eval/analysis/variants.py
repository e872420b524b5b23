"""Quantized variants of one base on the same items: which runs are of such, and how the variants differ.

An analysis compares a quantized model with its base. Two variants are compared with each other here, item by item, so
that what they have in common cancels in their difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from eval.analysis.documents import by_document, check_documents
from eval.analysis.items import pair_estimates
from eval.analysis.model_metrics import Estimate
from qconf.run.choices import Choices, EvalError, read_choices
from qconf.run.folder import Run, Subject
from qconf.run.quantities import OF_A_MODEL
from qconf.statistics.intervals import Interval

SAME = ("num_fewshot", "items", "digest")
"""Fields of a task's record in which two runs must agree."""


@dataclass(frozen=True)
class Difference:
    """A quantized model's accuracy, flips and KL less another's, over the same items: 95 % intervals. ``one`` and
    ``other`` are places in the list of runs."""

    one: int
    other: int
    statistics: dict[str, Interval]


def check_variants(runs: Sequence[Run]) -> None:
    """Check that runs are of one base model and the same items. EvalError names two runs and what differs."""
    first, *others = runs
    for place, other in enumerate(others, start=1):
        if any(other.path.resolve() == each.path.resolve() for each in runs[:place]):
            raise EvalError(f"{other.path} is given twice, expected a run of each variant")
        ours, theirs = subject_of(first), subject_of(other)
        _check_base(first, other, ours, theirs)
        _check_tasks(first, other, ours, theirs)
        check_documents(by_document(first), by_document(other))


def subject_of(run: Run) -> Subject:
    """Return what the run was of. EvalError for an imported run, whose manifest does not say it."""
    if run.manifest.subject is None:
        raise EvalError(f"{run.path} was imported and has no digests of its models, expected a run of the bench")
    return run.manifest.subject


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Compare the quantized models of runs that ``check_variants`` accepts, pair by pair; none without labels.

    Intervals are those of means over items (``qconf.statistics.intervals``), of each item's difference.
    """
    choices = [read_choices(by_document(run)).labelled for run in runs]
    if not len(choices[0]):
        return []
    estimates = [_estimates(each) for each in choices]
    clusters = choices[0].cluster_numbers
    return [
        Difference(one, other, {name: each.less(estimates[other][name], clusters) for name, each in mine.items()})
        for (one, mine), (other, _) in combinations(enumerate(estimates), 2)
    ]


def undominated(sizes: Sequence[float], losses: Sequence[float]) -> list[bool]:
    """Return which are Pareto-optimal: no other is both no larger and no worse, and smaller or better."""
    both = list(zip(sizes, losses, strict=True))
    return [not any(other != each and other[0] <= each[0] and other[1] <= each[1] for other in both) for each in both]


def _estimates(choices: Choices) -> dict[str, Estimate]:
    most, pair = int(choices.sizes.max()), pair_estimates(choices)
    return {
        "accuracy": OF_A_MODEL["accuracy"].estimate(most, choices, choices.quantized),
        "flips": pair["flips"],
        "kl": pair["kl"],
    }


def _check_base(first: Run, other: Run, ours: Subject, theirs: Subject) -> None:
    base, second = ours.models.base, theirs.models.base
    if base.digest != second.digest:
        raise EvalError(
            f"{first.path} and {other.path} are not of one base model: {base.root} has digest {base.digest}, "
            f"{second.root} has digest {second.digest}"
        )
    special, second_special = ours.settings.add_special_tokens, theirs.settings.add_special_tokens
    if special != second_special:
        raise EvalError(f"{other.path} has add_special_tokens {second_special}, expected {special} as in {first.path}")


def _check_tasks(first: Run, other: Run, ours: Subject, theirs: Subject) -> None:
    records, others = ({task.name: task for task in each.tasks} for each in (ours, theirs))
    for name in sorted(records.keys() ^ others.keys()):
        there, missing = (first, other) if name in records else (other, first)
        raise EvalError(f"'{name}' is in {there.path} and not in {missing.path}: expected the same tasks in both")
    for name, record in records.items():
        for field in SAME:
            expected, found = getattr(record, field), getattr(others[name], field)
            if found != expected:
                raise EvalError(
                    f"'{name}' has the {field} {found} in {other.path}, expected {expected} as in {first.path}"
                )
