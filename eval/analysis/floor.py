"""The noise floor: what differs when the same pair is measured twice in another way.

In one engine, a model compared with itself differs by exactly 0. What another batch size, cache, kernel, dtype or
server changes is seen between two runs of the same pair: each model's second answers compared with its first. A
difference between base and quantized that is no larger than that says nothing about quantization.

The excess is what base and quantized differ by in the run, less the floor, item by item: its interval has the variance
of both and what they have in common. The floor that is subtracted is the smaller of the two models', statistic by
statistic: an unstable model must not make quantization look better. Signed changes (accuracy, confidence) have a floor
to look at but no excess: noise has no direction, so there is nothing to subtract.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from eval.analysis.documents import by_document, check_documents
from eval.analysis.null import item_changes
from eval.analysis.token_floor import TokenFloor, token_floor
from qconf.run.choices import Choices, EvalError, read_choices
from qconf.run.folder import Manifest, Run, read_run
from qconf.run.quantities import OF_A_MODEL, OF_THE_PAIR, Quantity, difference, mean_within, within
from qconf.statistics.arrays import Floats, Ints
from qconf.statistics.intervals import Interval

SIGNED = ("accuracy", "confidence", "true_confidence")
"""Statistics whose changes have a direction."""
QUANTITIES: dict[str, Quantity[[Choices]]] = {
    **{name: difference(OF_A_MODEL[name]) for name in SIGNED},
    "confidence_shift": Quantity(lambda choices: item_changes(choices).confidence_shift, within(0.0, 1.0)),
    # The same as a change of accuracy.
    **{name: quantity for name, quantity in OF_THE_PAIR.items() if name != "net_loss"},
}
"""Differences between the two sides of an item: signed changes, flips by kind, and divergences."""


@dataclass(frozen=True)
class ItemFloor:
    """Floors of labelled items by statistic: ``base`` and ``quantized`` are what each model's second measurement
    differs by from its first, ``excess`` is what base and quantized differ by beyond the floor of ``taken``."""

    base: dict[str, Interval]
    quantized: dict[str, Interval]
    excess: dict[str, Interval]
    taken: dict[str, Literal["base", "quantized"]]


@dataclass(frozen=True)
class Floor:
    """A run compared with a second run of the same pair, at ``path``.

    ``ways`` says what the manifests know of how the two were measured differently. ``same_models`` is False where it
    could not be checked, because runs that were imported have no digests. ``overall`` is None without labelled items.
    """

    path: str
    ways: list[str]
    same_models: bool
    overall: ItemFloor | None
    tasks: dict[str, ItemFloor]
    corpora: dict[str, TokenFloor]


def measure_floor(run: Run, path: Path) -> Floor:
    """Compare a run with a second run of its pair. EvalError names what keeps the second from being a floor."""
    second = read_run(path)
    _check_other_run(run, second)
    same_models = _check_models(run.manifest, second.manifest, path)
    run, second = by_document(run), by_document(second)
    check_documents(run, second)
    ours, theirs = read_choices(run).labelled, read_choices(second).labelled
    tasks = {}
    for name in ours.tasks:
        if (ours.task == ours.tasks.index(name)).any():
            tasks[name] = item_floor(ours.of_task(name), theirs.of_task(name))
    return Floor(
        path=str(path),
        ways=_ways(run.manifest, second.manifest),
        same_models=same_models,
        overall=item_floor(ours, theirs) if len(ours) else None,
        tasks=tasks,
        corpora={name: token_floor(run.path, path, name) for name in run.corpora},
    )


def item_floor(run: Choices, second: Choices) -> ItemFloor:
    """Return floors and excesses of the same labelled items in two runs, with intervals; clusters are the run's."""
    pair = differences(run)
    base = differences(replace(run, quantized_logprobs=second.base_logprobs))
    quantized = differences(
        replace(run, base_logprobs=run.quantized_logprobs, quantized_logprobs=second.quantized_logprobs)
    )
    excess: dict[str, Floats] = {}
    taken: dict[str, Literal["base", "quantized"]] = {}
    for name in pair:
        if name not in SIGNED:
            taken[name] = "base" if base[name].mean() <= quantized[name].mean() else "quantized"
            excess[name] = pair[name] - (base if taken[name] == "base" else quantized)[name]
    clusters = run.cluster_numbers
    return ItemFloor(
        base={name: _interval(name, values, clusters) for name, values in base.items()},
        quantized={name: _interval(name, values, clusters) for name, values in quantized.items()},
        excess={name: _interval(name, values, clusters, excess=True) for name, values in excess.items()},
        taken=taken,
    )


def differences(choices: Choices) -> dict[str, Floats]:
    """Return what the two sides of labelled items differ by, item by item, by statistic."""
    return {name: quantity.values(choices).astype(np.float64) for name, quantity in QUANTITIES.items()}


def _interval(name: str, values: Floats, clusters: Ints | None, *, excess: bool = False) -> Interval:
    low, high = QUANTITIES[name].bounds(math.inf)
    return mean_within(values, *((low - high, high - low) if excess else (low, high))).interval(clusters)


def _check_other_run(run: Run, second: Run) -> None:
    """Refuse as a floor the run itself, a copy of its folder, and a run imported from the same files."""
    ours, theirs = run.manifest, second.manifest
    if run.path.resolve() == second.path.resolve():
        raise EvalError(f"the floor {second.path} is the run itself, expected a second run of the same pair")
    if (ours.created, ours.timing) == (theirs.created, theirs.timing):
        raise EvalError(
            f"the floor {second.path} is a copy of {run.path}, created at the same time, {ours.created}: expected a "
            "second run of the same pair"
        )
    if ours.imported and ours.imported == theirs.imported:
        raise EvalError(
            f"the floor {second.path} was imported from the same files as {run.path}, such as "
            f"{ours.imported.base[0]}: expected files of a second run"
        )


def _check_models(ours: Manifest, theirs: Manifest, path: Path) -> bool:
    """Return whether both runs have digests; EvalError where digests or add_special_tokens differ."""
    if ours.subject is None or theirs.subject is None:
        return False
    for role in ("base", "quantized"):
        first, second = getattr(ours.subject.models, role), getattr(theirs.subject.models, role)
        if first.digest != second.digest:
            raise EvalError(
                f"the {role} model of the floor {path} is another one: {second.root} with digest {second.digest}, "
                f"expected the run's, {first.root} with digest {first.digest}"
            )
    special, other = (each.settings.add_special_tokens for each in (ours.subject, theirs.subject))
    if special != other:
        raise EvalError(f"the floor {path} has add_special_tokens {other}, expected the run's, {special}")
    return True


def _ways(ours: Manifest, theirs: Manifest) -> list[str]:
    """List from the manifests how the second run was measured differently."""
    first, second = (_measured(each) for each in (ours, theirs))
    return [
        f"{name} {second[name]} instead of {first[name]}"
        for name in first
        if name in second and second[name] != first[name]
    ]


def _measured(manifest: Manifest) -> dict[str, object]:
    if manifest.subject is None:
        return {}
    server, base = manifest.subject.server, manifest.subject.models.base
    return {
        "dtype": base.dtype,
        "device": server.device,
        "vLLM": server.vllm,
        "qconf": server.version,
        "requests in flight": manifest.concurrency,
    }
