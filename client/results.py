"""The run folder: ``manifest.json`` says what ran, ``items.parquet`` holds one row per item.

``COLUMNS`` documents the columns of ``items.parquet``, and the file carries the same words as metadata. "Per choice"
means a list with one entry per choice, in the order of the task. Log-probabilities and divergences are in nats.
Confidences are not stored: they are the softmax of an item's log-probabilities. Where an item failed, ``error`` says
why, its lists of scores are empty and its divergences null.
"""

import json
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, ValidationError

from server.schema import Both, ModelInfo, ServerInfo

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ITEMS = "items.parquet"


class RunError(Exception):
    """A run folder that cannot be written or read, and why."""


class Column(NamedTuple):
    """One column of ``items.parquet``."""

    name: str
    type: pa.DataType
    nullable: bool
    meaning: str


def _per_choice(type_: pa.DataType, nullable: bool = False) -> pa.DataType:
    return pa.list_(pa.field("element", type_, nullable))


COLUMNS = (
    Column("task", pa.string(), False, "name of the task in lm-eval"),
    Column("doc_id", pa.int64(), False, "position of the document in the task's split"),
    Column("doc_hash", pa.string(), False, "SHA-256 of the document, as in lm-eval's sample logs"),
    Column("prompt_hash", pa.string(), False, "SHA-256 of the context, few-shot examples included, as in lm-eval"),
    Column("label", pa.int64(), True, "index of the true choice; null where the task names none"),
    Column("n_choices", pa.int64(), False, "number of choices"),
    Column("base_logprob", _per_choice(pa.float64()), False, "per choice: summed log-probability, base model"),
    Column("quantized_logprob", _per_choice(pa.float64()), False, "per choice: the same, quantized model"),
    Column("choice_chars", _per_choice(pa.int64()), False, "per choice: characters, without lm-eval's delimiter"),
    Column("choice_bytes", _per_choice(pa.int64()), False, "per choice: bytes of UTF-8, without lm-eval's delimiter"),
    Column(
        "choice_tokens",
        _per_choice(pa.int64()),
        False,
        "per choice: tokens that were scored; one without any has null divergences",
    ),
    Column("base_is_greedy", _per_choice(pa.bool_()), False, "per choice: every token was the base model's likeliest"),
    Column("quantized_is_greedy", _per_choice(pa.bool_()), False, "per choice: the same, quantized model"),
    Column(
        "choice_mean_kl", _per_choice(pa.float64(), True), False, "per choice: mean KL(base || quantized) of tokens"
    ),
    Column("choice_max_kl", _per_choice(pa.float64(), True), False, "per choice: largest KL(base || quantized)"),
    Column("mean_kl", pa.float64(), True, "mean KL(base || quantized) over the tokens of all choices"),
    Column("max_kl", pa.float64(), True, "largest KL(base || quantized) over the tokens of all choices"),
    Column("error", pa.string(), True, "why the item failed; null where it did not"),
)
SCHEMA = pa.schema([pa.field(c.name, c.type, c.nullable, {"description": c.meaning}) for c in COLUMNS])


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One row of ``items.parquet``; ``COLUMNS`` says what each field means."""

    task: str
    doc_id: int
    doc_hash: str
    prompt_hash: str
    label: int | None
    n_choices: int
    choice_chars: Sequence[int]
    choice_bytes: Sequence[int]
    base_logprob: Sequence[float] = ()
    quantized_logprob: Sequence[float] = ()
    choice_tokens: Sequence[int] = ()
    base_is_greedy: Sequence[bool] = ()
    quantized_is_greedy: Sequence[bool] = ()
    choice_mean_kl: Sequence[float | None] = ()
    choice_max_kl: Sequence[float | None] = ()
    mean_kl: float | None = None
    max_kl: float | None = None
    error: str | None = None


class _Part(BaseModel):
    """Part of the manifest. Newer writers may add fields; a reader ignores those that it does not know."""

    model_config = ConfigDict(frozen=True)


class TaskRecord(_Part):
    """A task that ran, in the version that lm-eval gives it."""

    name: str
    version: str
    num_fewshot: int
    items: int


class Settings(_Part):
    """What the user chose."""

    tasks: list[str]
    include_path: str | None
    num_fewshot: int | None
    limit: int | None
    concurrency: int
    add_special_tokens: bool


class Timing(_Part):
    """When the replay ran; times are ISO 8601 in UTC."""

    started: str
    finished: str
    seconds: float
    items_per_second: float


class Counts(_Part):
    """How many items ran, and how many of them failed."""

    items: int
    ok: int
    failed: int


class Manifest(_Part):
    """``manifest.json``: all that one must know to understand or repeat the run."""

    schema_version: int = SCHEMA_VERSION
    created: str
    url: str
    server: ServerInfo
    models: Both[ModelInfo]
    tasks: list[TaskRecord]
    settings: Settings
    timing: Timing
    counts: Counts
    packages: dict[str, str]


@dataclass(frozen=True)
class Run:
    """A run folder that was read. ``table`` has the columns of ``COLUMNS``."""

    path: Path
    manifest: Manifest
    table: pa.Table

    def items(self) -> list[ItemResult]:
        """The rows, one by one. Work on columns should take ``table``."""
        return [ItemResult(**row) for row in self.table.to_pylist()]


def check_target(path: Path) -> None:
    """Refuses a folder that cannot become a run. Called before a replay: nobody should wait an hour for that answer."""
    if path.exists() or path.is_symlink():
        raise RunError(f"{path} exists already: runs are never overwritten, choose another folder")
    there = next(parent for parent in path.absolute().parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise RunError(f"cannot write the run to {path}: {there} is no folder that can be written to")


def write_run(path: Path, manifest: Manifest, items: Sequence[ItemResult]) -> None:
    """Writes a run folder: all of it, or nothing under that name."""
    check_target(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        _write_files(temporary, manifest, items)
    except OSError as exc:
        raise RunError(f"cannot write the run to {path}: {exc.strerror or exc}") from exc
    try:
        os.rename(temporary, path)
    except OSError as exc:  # somebody else took the name meanwhile; what was measured is not thrown away
        raise RunError(f"cannot name the run {path} ({exc.strerror}): it is in {temporary}") from exc


def _write_files(folder: Path, manifest: Manifest, items: Sequence[ItemResult]) -> None:
    folder.mkdir(parents=True)
    with ExitStack() as undo:
        undo.callback(shutil.rmtree, folder, ignore_errors=True)
        table = pa.Table.from_pylist([asdict(item) for item in items], schema=SCHEMA)
        pq.write_table(table, folder / ITEMS, compression="zstd")
        (folder / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        undo.pop_all()


def read_run(path: Path | str) -> Run:
    """Reads a run folder that ``write_run`` wrote."""
    folder = Path(path)
    return Run(folder, _read_manifest(folder / MANIFEST), _read_items(folder / ITEMS))


def _read_manifest(path: Path) -> Manifest:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        version = raw["schema_version"]
        if version != SCHEMA_VERSION:
            raise RunError(f"{path} has schema version {version}, this program reads version {SCHEMA_VERSION}")
        return Manifest.model_validate(raw)
    except OSError as exc:
        raise RunError(f"cannot read {path}: {exc.strerror}") from exc
    except (ValueError, TypeError, KeyError) as exc:  # pydantic's and json's errors are ValueErrors
        problem = exc.errors()[0]["loc"] if isinstance(exc, ValidationError) else exc
        raise RunError(f"{path} is no manifest of a run: {problem}") from exc


def _read_items(path: Path) -> Any:
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as exc:
        raise RunError(f"cannot read {path}: {exc}") from exc
    missing = [column.name for column in COLUMNS if column.name not in table.column_names]
    if missing:
        raise RunError(f"{path} lacks the columns {', '.join(missing)}")
    return table.select([column.name for column in COLUMNS]).cast(SCHEMA)
