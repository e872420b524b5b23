"""The run folder: description and results of a replay.

``manifest.json`` describes the run; ``items.parquet`` has one row per item, ``tokens.parquet`` one row per scored token
of corpora (only where there were any), ``answers.parquet`` one row per item whose answers were generated (only where
there were any), ``expected_counts.parquet`` one row per corpus and token of the vocabulary (only where they were asked
for), ``results.json`` the metrics of each task under both models.

``qconf.run.columns`` documents the columns, and the files have its descriptions as metadata.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, ValidationError

from qconf import __version__
from qconf.run.columns import (
    ANSWER_SCHEMA,
    COUNT_SCHEMA,
    ITEM_SCHEMA,
    OF_CORPORA,
    TOKEN_SCHEMA,
    AnswerResult,
    ItemResult,
)
from qconf.wire import Both, ModelInfo, ServerInfo, problem

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ITEMS = "items.parquet"
TOKENS = "tokens.parquet"
ANSWERS = "answers.parquet"
COUNTS = "expected_counts.parquet"
RESULTS = "results.json"
TOKENS_AT_ONCE = 100_000
"""Tokens in memory, and in a row group of their file."""


class RunError(Exception):
    """A run folder that cannot be written or read, and why."""


class _Part(BaseModel):
    """Part of the manifest. Newer writers may add fields; a reader ignores those that it does not know."""

    model_config = ConfigDict(frozen=True)


class TaskRecord(_Part):
    """A task that ran, with lm-eval's version; the version of a file is the beginning of its SHA-256.

    ``digest`` is a SHA-256 over all contexts and choices. ``calls`` are of a log of calls (``--requests``): their
    number by what is scored of them ("answer_ids", "answer_text", "prompt"), or by why they are left out.
    ``refusal`` is the first reason that the server had to refuse one.
    """

    name: str
    version: str
    num_fewshot: int
    items: int
    digest: str
    calls: dict[str, int] | None = None
    refusal: str | None = None


class UntilSettings(_Part):
    """Rules of ``--until``, and the seed of the order in which items are drawn."""

    seed: int
    rules: list[dict[str, Any]]


class Settings(_Part):
    """The user's options that affect the numbers. Without ``until``, all items are replayed."""

    tasks: list[str]
    data: list[str]
    corpora: list[str]
    num_fewshot: int | None
    limit: int | None
    add_special_tokens: bool
    delimiter: str
    window: int | None
    stride: int | None
    until: UntilSettings | None = None
    cluster: str | None = None
    expected_counts: bool = False
    requests: list[str] = []


class Subject(_Part):
    """Server, models, settings and tasks of a run: it may only be resumed where all of these are the same."""

    server: ServerInfo
    models: Both[ModelInfo]
    settings: Settings
    tasks: list[TaskRecord]

    @property
    def logs(self) -> dict[str, dict[str, int]]:
        """The ``calls`` of each log of calls, by the log's name."""
        return {task.name: task.calls for task in self.tasks if task.calls}


class Import(_Part):
    """Sample files of lm-eval that a run was made from."""

    base: list[str]
    quantized: list[str]


class Timing(_Part):
    """When the replay ran, in ISO 8601 and UTC; ``seconds`` is the time at work in all ``sessions`` of a run."""

    started: str
    finished: str
    seconds: float
    sessions: int
    items_per_second: float


class Counts(_Part):
    """Numbers of items that ran, succeeded and failed."""

    items: int
    ok: int
    failed: int


class Drawn(_Part):
    """A replay that stopped when its rules were settled: it has ``items`` of ``of`` items, in random order."""

    items: int
    of: int


class Manifest(_Part):
    """``manifest.json``: everything needed to understand or repeat the run.

    ``url`` is a list where there were several servers. An imported run has ``imported`` instead of ``url``,
    ``subject`` and ``timing``. Only a replay with ``--until`` has ``drawn``.
    """

    schema_version: int = SCHEMA_VERSION
    created: str
    url: str | list[str] | None = None
    concurrency: int | None = None
    include_path: str | None = None
    subject: Subject | None = None
    timing: Timing | None = None
    imported: Import | None = None
    counts: Counts
    drawn: Drawn | None = None
    packages: dict[str, str]


@dataclass(frozen=True)
class Run:
    """A run folder that was read; ``table`` has ``ITEM_SCHEMA``."""

    path: Path
    manifest: Manifest
    table: pa.Table
    results: dict[str, Any]

    @cached_property
    def tokens(self) -> pa.Table | None:
        """All rows of ``tokens.parquet``, which may be many, read on first access; None where there is no such file."""
        path = self.path / TOKENS
        return _read_table(path, TOKEN_SCHEMA) if path.exists() else None

    @cached_property
    def answers(self) -> pa.Table:
        """All rows of ``answers.parquet``, read on first access; none where there is no such file."""
        path = self.path / ANSWERS
        return _read_table(path, ANSWER_SCHEMA) if path.exists() else ANSWER_SCHEMA.empty_table()

    @cached_property
    def corpora(self) -> list[str]:
        """Names of the corpora, sorted."""
        rows = self.table.filter(pc.is_in(self.table["kind"], pa.array(OF_CORPORA)))
        return sorted(rows["task"].unique().to_pylist())

    def is_trace(self, corpus: str) -> bool:
        """Return whether the texts of a corpus are the base model's own greedy texts."""
        kinds = self.table.filter(pc.equal(self.table["task"], corpus))["kind"]
        return bool(pc.all(pc.equal(kinds, "trace")).as_py())

    def items(self) -> list[ItemResult]:
        """Return the rows, one by one. Code that works on columns should use ``table``."""
        return [ItemResult(**row) for row in self.table.to_pylist()]


def check_target(path: Path) -> None:
    """Raise RunError for a folder that cannot become a run: before a replay, not an hour later."""
    if path.exists() or path.is_symlink():
        raise RunError(f"{path} exists already: runs are never overwritten, choose another folder")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"cannot write the run to {path}: {there} is not a writable folder")


def write_run(
    folder: Path,
    manifest: Manifest,
    items: Sequence[ItemResult],
    results: Mapping[str, Any],
) -> None:
    """Write a run's files, after its tokens. The manifest is last: a folder without one is not a complete run."""
    with _writing(folder):
        _write_tables(folder / ITEMS, ITEM_SCHEMA, [_table(ITEM_SCHEMA, items)])
        _write_text(folder / RESULTS, json.dumps(results, indent=2, allow_nan=False))
        _write_text(folder / MANIFEST, manifest.model_dump_json(indent=2))


def write_tokens(folder: Path, tables: Iterable[pa.Table]) -> None:
    """Write the tokens of corpora, from tables of any size, which are not all in memory at once."""
    with _writing(folder):
        _write_tables(folder / TOKENS, TOKEN_SCHEMA, _in_groups(tables))


def write_answers(folder: Path, answers: Sequence[AnswerResult]) -> None:
    """Write the answers that the models generated."""
    with _writing(folder):
        _write_tables(folder / ANSWERS, ANSWER_SCHEMA, [_table(ANSWER_SCHEMA, answers)])


def write_counts(folder: Path, tables: Iterable[pa.Table]) -> None:
    """Write the expected counts of corpora."""
    with _writing(folder):
        _write_tables(folder / COUNTS, COUNT_SCHEMA, tables)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as exc:
        raise RunError(f"cannot write the run to {folder}: {exc.strerror or exc}") from exc


def _table(schema: pa.Schema, rows: Sequence[ItemResult | AnswerResult]) -> pa.Table:
    return pa.Table.from_pydict({name: [getattr(row, name) for row in rows] for name in schema.names}, schema=schema)


def _in_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in tables of TOKENS_AT_ONCE rows or a little more."""
    group: list[pa.Table] = []
    rows = 0
    for table in tables:
        group.append(table)
        rows += table.num_rows
        if rows >= TOKENS_AT_ONCE:
            yield pa.concat_tables(group)
            group, rows = [], 0
    if group:
        yield pa.concat_tables(group)


def _write_tables(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    part = path.with_name(f"{path.name}.part")
    with pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for table in tables:
            writer.write_table(table)
    os.replace(part, path)


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


def read_run(path: Path | str) -> Run:
    """Read a run folder."""
    folder = Path(path)
    manifest = read_manifest(folder)
    if (folder / TOKENS).exists():
        _check_columns(folder / TOKENS, TOKEN_SCHEMA)
    return Run(folder, manifest, _read_table(folder / ITEMS, ITEM_SCHEMA), _read_json(folder / RESULTS))


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise RunError(f"cannot read {path}: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise RunError(f"{path} is not JSON: {exc}") from exc


def read_manifest(folder: Path) -> Manifest:
    """Read only the manifest of a run folder."""
    path = folder / MANIFEST
    raw = _read_json(path)
    try:
        version = raw["schema_version"]
        if not isinstance(version, int):
            raise ValueError(f"schema_version is {version!r}, expected an integer")
        if version > SCHEMA_VERSION:
            raise RunError(
                f"{path} has schema version {version}, and qconf {__version__} reads versions up to {SCHEMA_VERSION}: "
                "upgrade qconf to read this run"
            )
        return Manifest.model_validate(raw)
    except (ValueError, TypeError, KeyError) as exc:  # pydantic's errors are ValueErrors
        reason = problem(exc.errors()).message if isinstance(exc, ValidationError) else exc
        raise RunError(f"{path} is not a manifest of a run: {reason}") from exc


def _check_columns(path: Path, schema: pa.Schema) -> None:
    try:
        names = pq.read_schema(path).names
    except (OSError, pa.ArrowException) as exc:
        raise RunError(f"cannot read {path}: {exc}") from exc
    missing = [field.name for field in schema if field.name not in names and not field.nullable]
    if missing:
        raise RunError(f"{path} lacks the columns {', '.join(missing)}")


def _read_table(path: Path, schema: pa.Schema) -> Any:
    _check_columns(path, schema)
    try:
        written = set(pq.read_schema(path).names)
        table = pq.read_table(path, columns=[name for name in schema.names if name in written])
    except (OSError, pa.ArrowException) as exc:
        raise RunError(f"cannot read {path}: {exc}") from exc
    for field in schema:
        # Earlier versions wrote fewer columns.
        if field.name not in written:
            table = table.append_column(field, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).cast(schema)
