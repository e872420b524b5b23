"""Tokens of a replay's corpora, from its journal to the run folder and to a summary of each corpus."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa  # type: ignore[import-untyped]

from client.bench.display.corpus_summary import COLUMNS, CorpusSummary, summarize, with_traces
from client.bench.items import Item
from client.bench.journal import Journal
from client.bench.outcome import Tokens
from qconf.run.columns import TOKEN_SCHEMA, Kind
from qconf.run.folder import TOKENS, write_tokens
from qconf.run.tokens import read_columns
from qconf.run.traces import read_traces


def write_corpora(folder: Path, items: Sequence[Item], journal: Journal, variant: str) -> dict[str, CorpusSummary]:
    """Write the tokens that were scored under a variant, and return a summary by corpus; write nothing without any."""
    scored = [item for item in items if journal.has_tokens(item.task, item.doc_id)]
    if not scored:
        return {}
    write_tokens(folder, _tables(scored, journal, variant))
    kinds = {item.task: item.kind for item in scored}
    return {name: _summary(folder / TOKENS, name, kind) for name, kind in kinds.items()}


def _summary(path: Path, task: str, kind: Kind) -> CorpusSummary:
    summary = summarize(read_columns(path, task, COLUMNS))
    return with_traces(summary, read_traces(path, task)) if kind == "trace" else summary


def _tables(items: Sequence[Item], journal: Journal, variant: str) -> Iterator[pa.Table]:
    for item in items:
        yield _table(item, journal.tokens(item.task, item.doc_id, variant))


def _table(item: Item, tokens: Tokens) -> pa.Table:
    count = len(tokens["token_id"])
    keys = {"task": [item.task] * count, "doc_id": [item.doc_id] * count}
    return pa.Table.from_pydict(tokens | keys, schema=TOKEN_SCHEMA)
