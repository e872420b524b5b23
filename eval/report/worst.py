"""The items that quantization hurt most, with the question and what each model answered."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc  # type: ignore[import-untyped]

from qconf.run.choices import Choices
from qconf.run.folder import Run

TAIL = 300
"""Characters of a context that are shown at once: the question is at its end."""


@dataclass(frozen=True)
class WorstChoice:
    """A choice with its share under both models, and whether it is the true choice or a model's choice."""

    text: str
    base: float
    quantized: float
    true: bool
    of_base: bool
    of_quantized: bool


@dataclass(frozen=True)
class WorstItem:
    """An item. ``change`` is the change of its true choice's share; ``contexts`` are several where choices differ
    in theirs, ``tail`` is the end of the true choice's context. ``request`` is the body of ``/compare`` that scores it,
    None where one request cannot."""

    task: str
    doc_id: int
    change: float
    kl: float
    tail: str
    cut: bool
    contexts: list[str]
    choices: list[WorstChoice]
    request: dict[str, Any] | None


def worst_items(run: Run, labelled: Choices, count: int) -> list[WorstItem]:
    """Return the items whose true choice lost the largest share, the worst first; fewer where fewer lost any.

    ``labelled`` are the run's labelled items, in their order.
    """
    change = labelled.quantized.true_share - labelled.base.true_share
    kl = labelled.divergence.kl
    places = [int(place) for place in np.argsort(change, kind="stable")[:count] if change[place] < 0]
    table = run.table.filter(pc.and_(pc.equal(run.table["kind"], "multiple_choice"), pc.is_valid(run.table["label"])))
    rows = table.take(places).to_pylist() if places else []
    return [
        _item(row, labelled, place, float(change[place]), float(kl[place]))
        for row, place in zip(rows, places, strict=True)
    ]


def _item(row: dict[str, Any], labelled: Choices, place: int, change: float, kl: float) -> WorstItem:
    base, quantized = labelled.base, labelled.quantized
    context = row["contexts"][row["choice_context"][row["label"]]]
    return WorstItem(
        task=row["task"],
        doc_id=row["doc_id"],
        change=change,
        kl=kl,
        tail=context[-TAIL:],
        cut=len(context) > TAIL,
        contexts=row["contexts"],
        choices=[
            WorstChoice(
                text=text,
                base=float(base.shares[place, number]),
                quantized=float(quantized.shares[place, number]),
                true=number == row["label"],
                of_base=number == base.choice[place],
                of_quantized=number == quantized.choice[place],
            )
            for number, text in enumerate(row["choices"])
        ],
        request=None
        if len(row["contexts"]) > 1
        else {"prompt": context, "continuations": row["choices"], "label": row["label"]},
    )
