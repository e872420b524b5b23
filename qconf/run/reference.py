"""Samples of a run folder, the reference for drift."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.compute as pc  # type: ignore[import-untyped]

from qconf.run.choices import EvalError, read_choices
from qconf.run.folder import TOKENS, Run, RunError, read_run
from qconf.run.tokens import read_columns
from qconf.statistics.arrays import Floats
from qconf.statistics.drift import Key, Quantity, Reference, Sample

TOKEN_COLUMNS: tuple[Quantity, ...] = ("kl", "base_confidence", "quantized_confidence")

CORPUS = 2**40
"""More windows than any corpus has."""


def run_samples(run: Run) -> dict[Key, Sample]:
    """Return values per item with choices and per token of corpora, by unit and quantity; EvalError if none."""
    found = _items(run) | (_tokens(run) if (run.path / TOKENS).exists() else {})
    if not any(len(sample.values) for sample in found.values()):
        raise EvalError(f"{run.path} has no items with choices and no corpus: there is nothing to compare")
    return found


@dataclass(frozen=True)
class ReferenceRun:
    """A run's reference, and the digests of its models, which are unknown for imported runs."""

    path: Path
    reference: Reference
    digests: tuple[str, str] | None


def read_reference(path: Path) -> ReferenceRun:
    """Read a run folder as a reference. EvalError has the reason where it cannot be one."""
    try:
        run = read_run(path)
    except RunError as exc:
        raise EvalError(str(exc)) from exc
    subject = run.manifest.subject
    digests = None if subject is None else (subject.models.base.digest, subject.models.quantized.digest)
    return ReferenceRun(path, Reference.of(run_samples(run)), digests)


def _items(run: Run) -> dict[Key, Sample]:
    choices = read_choices(run)
    kl = run.table.filter(pc.equal(run.table["kind"], "multiple_choice"))["mean_kl"].drop_null().to_numpy()
    base, quantized = choices.base.confidence, choices.quantized.confidence
    return {
        ("item", "kl"): Sample.independent(kl),
        ("item", "base_confidence"): Sample.independent(base),
        ("item", "quantized_confidence"): Sample.independent(quantized),
        ("item", "confidence_delta"): Sample.independent(quantized - base),
    }


def _tokens(run: Run) -> dict[Key, Sample]:
    columns: dict[str, list[Floats]] = {name: [] for name in ("cluster", *TOKEN_COLUMNS)}
    for number, task in enumerate(run.corpora):
        for batch in read_columns(run.path / TOKENS, task, ("doc_id", *TOKEN_COLUMNS)):
            for column in TOKEN_COLUMNS:
                columns[column].append(batch[column])
            columns["cluster"].append(batch["doc_id"] + number * CORPUS)
    whole = {name: np.concatenate(parts) if parts else np.zeros(0) for name, parts in columns.items()}
    cluster = np.unique(whole.pop("cluster"), return_inverse=True)[1]
    for name, values in whole.items():
        if not np.isfinite(values).all():
            raise EvalError(f"{run.path / TOKENS}, token {int(np.isfinite(values).argmin())}: {name} is not finite")
    base, quantized = whole["base_confidence"], whole["quantized_confidence"]
    found: dict[Key, Sample] = {("token", name): Sample(whole[name], cluster) for name in TOKEN_COLUMNS}
    return found | {("token", "confidence_delta"): Sample(quantized - base, cluster)}
