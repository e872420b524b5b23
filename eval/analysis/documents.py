"""Whether two runs are of the same documents, as a noise floor and a comparison of variants need."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc  # type: ignore[import-untyped]

from qconf.run.choices import EvalError
from qconf.run.folder import Run
from qconf.statistics.arrays import Ints

KEYS = ("task", "doc_id")
SAME = ("kind", "doc_hash", "prompt_hash", "label")
"""Columns of items.parquet in which two runs must agree, apart from the texts of the choices."""


def by_document(run: Run) -> Run:
    """Return the run with its items sorted by task and document."""
    return replace(run, table=run.table.sort_by([(name, "ascending") for name in KEYS]))


def check_documents(run: Run, second: Run) -> None:
    """Check that both runs, sorted by ``by_document``, have the same items with the same texts and labels.

    EvalError names the first document that differs, and both runs.
    """
    if not run.table.select(KEYS).equals(second.table.select(KEYS)):
        ours, theirs = (_keys(each) for each in (run, second))
        task, doc_id = min(ours ^ theirs)
        there, missing = (run, second) if (task, doc_id) in ours else (second, run)
        raise EvalError(
            f"document {doc_id} of '{task}' is in {there.path} and not in {missing.path}: "
            "expected the same documents in both"
        )
    for name in SAME:
        _check_column(run, second, name, run.table[name], second.table[name], np.arange(len(run.table)))
    texts, other_texts = (each.table["choices"].combine_chunks() for each in (run, second))
    lengths, other_lengths = (pc.list_value_length(each) for each in (texts, other_texts))
    _check_column(run, second, "number of choices", lengths, other_lengths, np.arange(len(run.table)))
    rows = np.repeat(np.arange(len(run.table)), lengths.to_numpy())
    _check_column(run, second, "choice", texts.flatten(), other_texts.flatten(), rows)


def _check_column(run: Run, second: Run, name: str, ours: Any, theirs: Any, rows: Ints) -> None:
    """Check that two columns are equal; ``rows`` are the values' items, and two missing values are equal."""
    both_missing = pc.and_(pc.is_null(ours), pc.is_null(theirs))
    same = np.asarray(pc.or_(pc.fill_null(pc.equal(ours, theirs), False), both_missing))
    if not same.all():
        at = int(same.argmin())
        row = int(rows[at])
        raise EvalError(
            f"document {run.table['doc_id'][row]} of '{run.table['task'][row]}' has the {name} {theirs[at]} in "
            f"{second.path}, expected {ours[at]} as in {run.path}"
        )


def _keys(run: Run) -> set[tuple[str, int]]:
    return set(zip(*(run.table[name].to_pylist() for name in KEYS), strict=True))
