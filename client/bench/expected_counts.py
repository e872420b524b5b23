"""Expected counts of a replay's corpora, from its journal to the run folder and to the tokens that changed most.

Only ``--expected-counts`` loads this module, and with it scipy.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from client.bench.items import Item
from client.bench.journal import Journal
from qconf.float32 import from_base64
from qconf.run.columns import COUNT_SCHEMA
from qconf.run.folder import write_counts
from qconf.run.token_changes import TokenChange, TokenChanges
from qconf.statistics.arrays import Ints
from qconf.statistics.expected_counts import CountSums

LISTED = 10
"""Most tokens that are listed as likelier, and as rarer."""
Text = Callable[[list[int]], str]
"""From token ids to their text."""


def write_expected_counts(
    folder: Path, items: Sequence[Item], journal: Journal, variant: str, text: Text
) -> dict[str, TokenChanges]:
    """Write the counts under the base and a variant, and return by corpus the tokens that changed."""
    by_corpus: dict[str, CountSums] = {}
    for item in items:
        if counts := journal.expected_counts(item.task, item.doc_id, variant):
            by_corpus.setdefault(item.task, CountSums()).add(*map(from_base64, counts))
    if by_corpus:
        write_counts(folder, [_table(name, sums) for name, sums in by_corpus.items()])
    return {name: _changes(sums, text) for name, sums in by_corpus.items()}


def _table(task: str, sums: CountSums) -> pa.Table:
    vocabulary = len(sums.base)
    columns = {
        "task": [task] * vocabulary,
        "token_id": np.arange(vocabulary),
        "base": sums.base,
        "quantized": sums.quantized,
        "standard_error": pa.array(sums.standard_error, from_pandas=True),  # NaN, of one window, is null
    }
    return pa.Table.from_pydict(columns, schema=COUNT_SCHEMA)


def _changes(sums: CountSums, text: Text) -> TokenChanges:
    difference, margins = sums.difference, sums.margins()
    order = np.argsort(difference, kind="stable")
    risen = order[::-1][(difference > margins)[order[::-1]]]
    fallen = order[(difference < -margins)[order]]

    def listed(ids: Ints) -> list[TokenChange]:
        return [
            TokenChange(
                token_id=i,
                text=text([i]),
                base=sums.base[i],
                quantized=sums.quantized[i],
                low=difference[i] - margins[i],
                high=difference[i] + margins[i],
            )
            for i in ids[:LISTED].tolist()
        ]

    return TokenChanges(
        positions=round(float(sums.base.sum())),
        clusters=sums.clusters,
        vocabulary=len(sums.base),
        changed=len(risen) + len(fallen),
        likelier=listed(risen),
        rarer=listed(fallen),
    )
