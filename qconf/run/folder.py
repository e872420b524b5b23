"""The run folder: what ran, and what came of it.

``manifest.json`` says what ran; ``items.parquet`` holds one row per item, ``tokens.parquet`` one row per scored token
of corpora (only where there were any), ``results.json`` the metrics of each task under both models.

``ITEM_COLUMNS`` and ``TOKEN_COLUMNS`` document the columns, and the files carry the same words as metadata. "Per
choice" means a list with one entry per choice, in the order of the task. Log-probabilities and divergences are in nats.
Confidences of choices are not stored: they are the softmax of an item's log-probabilities. Where an item failed,
``error`` says why, its lists of scores are empty and its divergences null.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]
from pydantic import BaseModel, ConfigDict, ValidationError

from qconf.wire import Both, ModelInfo, ServerInfo

Kind = Literal["multiple_choice", "loglikelihood", "loglikelihood_rolling", "window"]
"""What an item asks for."""
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ITEMS = "items.parquet"
TOKENS = "tokens.parquet"
RESULTS = "results.json"


class RunError(Exception):
    """A run folder that cannot be written or read, and why."""


class Column(NamedTuple):
    """One column of a table."""

    name: str
    type: pa.DataType
    nullable: bool
    meaning: str


def _per_choice(type_: pa.DataType, nullable: bool = False) -> pa.DataType:
    return pa.list_(pa.field("element", type_, nullable))


ITEM_COLUMNS = (
    Column("task", pa.string(), False, "name of the task, or of the file it was made from"),
    Column("doc_id", pa.int64(), False, "position of the document in the task's split, of the item in the file"),
    Column(
        "kind",
        pa.string(),
        False,
        "multiple_choice; loglikelihood: one continuation; loglikelihood_rolling: a whole text; window: of a corpus",
    ),
    Column("doc_hash", pa.string(), False, "SHA-256 of the document, as in lm-eval's sample logs"),
    Column("prompt_hash", pa.string(), False, "SHA-256 of the context, few-shot examples included, as in lm-eval"),
    Column("label", pa.int64(), True, "index of the true choice; null where the task names none, or several"),
    Column("n_choices", pa.int64(), False, "number of choices; 1 but for multiple_choice"),
    Column("contexts", _per_choice(pa.string()), False, "the different contexts of the choices, mostly only one"),
    Column("choices", _per_choice(pa.string()), False, "per choice: the text that was scored after its context"),
    Column("choice_context", _per_choice(pa.int64()), False, "per choice: index of its context"),
    Column("base_logprob", _per_choice(pa.float64()), False, "per choice: summed log-probability, base model"),
    Column("quantized_logprob", _per_choice(pa.float64()), False, "per choice: the same, quantized model"),
    Column(
        "choice_chars",
        _per_choice(pa.int64()),
        False,
        "per choice: characters, as lm-eval's acc_norm counts them: no delimiter",
    ),
    Column("choice_bytes", _per_choice(pa.int64()), False, "per choice: bytes of UTF-8, no delimiter"),
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
    Column(
        "base_unconditional",
        _per_choice(pa.float64()),
        False,
        "per choice: summed log-probability without the context, base model; empty but for lm-eval's acc_mutual_info",
    ),
    Column("quantized_unconditional", _per_choice(pa.float64()), False, "per choice: the same, quantized model"),
    Column("mean_kl", pa.float64(), True, "mean KL(base || quantized) over the tokens of all choices"),
    Column("max_kl", pa.float64(), True, "largest KL(base || quantized) over the tokens of all choices"),
    Column("doc", pa.string(), True, "the document as the task has it, JSON; null for corpora"),
    Column("target", pa.string(), True, "its answer as the task has it"),
    Column("cluster", pa.string(), True, "what items that belong together share, such as a passage; null if unknown"),
    Column("base_metrics", pa.string(), True, "lm-eval's metrics of the item by filter, base model, JSON"),
    Column("quantized_metrics", pa.string(), True, "the same, quantized model"),
    Column("error", pa.string(), True, "why the item failed; null where it did not"),
)
TOKEN_COLUMNS = (
    Column("task", pa.string(), False, "name of the file that holds the corpus"),
    Column("doc_id", pa.int64(), False, "number of the window that the token was scored in"),
    Column("position", pa.int64(), False, "position of the token in the corpus"),
    Column("token_id", pa.int64(), False, "the token"),
    Column("base_logprob", pa.float32(), False, "log-probability of the token, base model"),
    Column("quantized_logprob", pa.float32(), False, "the same, quantized model"),
    Column("kl", pa.float32(), False, "KL(base || quantized) of the distributions that predict the token"),
    Column("reverse_kl", pa.float32(), False, "KL(quantized || base)"),
    Column("js", pa.float32(), False, "Jensen-Shannon divergence"),
    Column("base_entropy", pa.float32(), False, "entropy of the base model's distribution"),
    Column("quantized_entropy", pa.float32(), False, "the same, quantized model"),
    Column("base_confidence", pa.float32(), False, "largest probability, base model"),
    Column("quantized_confidence", pa.float32(), False, "the same, quantized model"),
    Column("base_argmax", pa.int64(), False, "the token that has it, base model"),
    Column("quantized_argmax", pa.int64(), False, "the same, quantized model"),
)


def _schema(columns: Iterable[Column]) -> pa.Schema:
    return pa.schema([pa.field(c.name, c.type, c.nullable, {"description": c.meaning}) for c in columns])


ITEM_SCHEMA = _schema(ITEM_COLUMNS)
TOKEN_SCHEMA = _schema(TOKEN_COLUMNS)


@dataclass(frozen=True, slots=True)
class ItemResult:
    """One row of ``items.parquet``; ``ITEM_COLUMNS`` says what each field means."""

    task: str
    doc_id: int
    kind: Kind
    doc_hash: str
    prompt_hash: str
    label: int | None
    n_choices: int
    contexts: Sequence[str]
    choices: Sequence[str]
    choice_context: Sequence[int]
    choice_chars: Sequence[int]
    choice_bytes: Sequence[int]
    base_logprob: Sequence[float] = ()
    quantized_logprob: Sequence[float] = ()
    choice_tokens: Sequence[int] = ()
    base_is_greedy: Sequence[bool] = ()
    quantized_is_greedy: Sequence[bool] = ()
    choice_mean_kl: Sequence[float | None] = ()
    choice_max_kl: Sequence[float | None] = ()
    base_unconditional: Sequence[float] = ()
    quantized_unconditional: Sequence[float] = ()
    mean_kl: float | None = None
    max_kl: float | None = None
    doc: str | None = None
    target: str | None = None
    cluster: str | None = None
    base_metrics: str | None = None
    quantized_metrics: str | None = None
    error: str | None = None


class _Part(BaseModel):
    """Part of the manifest. Newer writers may add fields; a reader ignores those that it does not know."""

    model_config = ConfigDict(frozen=True)


class TaskRecord(_Part):
    """A task that ran, in the version that lm-eval gives it; files have the beginning of their SHA-256 as version.

    ``digest`` is a SHA-256 over all contexts and choices.
    """

    name: str
    version: str
    num_fewshot: int
    items: int
    digest: str


class UntilSettings(_Part):
    """What ``--until`` judges, and the seed of the order in which items are drawn."""

    seed: int
    rules: list[dict[str, Any]]


class Settings(_Part):
    """What the user chose and what makes a difference to the numbers. Without ``until``, all items are replayed."""

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


class Subject(_Part):
    """What was measured, and with what: a run may only be resumed where all of this is the same."""

    server: ServerInfo
    models: Both[ModelInfo]
    settings: Settings
    tasks: list[TaskRecord]


class Import(_Part):
    """Sample files of lm-eval that a run was made of."""

    base: list[str]
    quantized: list[str]


class Timing(_Part):
    """When the replay ran, in ISO 8601 and UTC; ``seconds`` are those at work, over all ``sessions`` of a run."""

    started: str
    finished: str
    seconds: float
    sessions: int
    items_per_second: float


class Counts(_Part):
    """How many items ran, and how many of them failed."""

    items: int
    ok: int
    failed: int


class Drawn(_Part):
    """A replay that stopped when its rules were settled: it has so many of so many items, in random order."""

    items: int
    of: int


class Manifest(_Part):
    """``manifest.json``: all that one must know to understand or repeat the run.

    A run that was imported has ``imported`` in place of ``url``, ``subject`` and ``timing``. Only a replay with
    ``--until`` has ``drawn``.
    """

    schema_version: int = SCHEMA_VERSION
    created: str
    url: str | None = None
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
    """A run folder that was read; ``table`` has ``ITEM_COLUMNS``."""

    path: Path
    manifest: Manifest
    table: pa.Table
    results: dict[str, Any]

    @cached_property
    def tokens(self) -> pa.Table | None:
        """All rows of ``tokens.parquet``, read when first asked for: there may be many. None where there are none."""
        path = self.path / TOKENS
        return _read_table(path, TOKEN_SCHEMA) if path.exists() else None

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


def write_run(
    folder: Path,
    manifest: Manifest,
    items: Sequence[ItemResult],
    results: Mapping[str, Any],
    tokens: pa.Table | None = None,
) -> None:
    """Write a run's files. The manifest is written last: a folder without one is not a complete run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_table(folder / ITEMS, pa.Table.from_pylist([asdict(item) for item in items], schema=ITEM_SCHEMA))
        if tokens is not None:
            _write_table(folder / TOKENS, tokens)
        _write_text(folder / RESULTS, json.dumps(results, indent=2, allow_nan=False))
        _write_text(folder / MANIFEST, manifest.model_dump_json(indent=2))
    except OSError as exc:
        raise RunError(f"cannot write the run to {folder}: {exc.strerror or exc}") from exc


def _write_table(path: Path, table: pa.Table) -> None:
    part = path.with_name(f"{path.name}.part")
    pq.write_table(table, part, compression="zstd")
    os.replace(part, path)


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text + "\n", encoding="utf-8")
    os.replace(part, path)


def read_run(path: Path | str) -> Run:
    """Reads a run folder."""
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
    except ValueError as exc:
        raise RunError(f"{path} is no JSON: {exc}") from exc


def read_manifest(folder: Path) -> Manifest:
    """Reads only the manifest of a run folder."""
    path = folder / MANIFEST
    raw = _read_json(path)
    try:
        version = raw["schema_version"]
        if version != SCHEMA_VERSION:
            raise RunError(f"{path} has schema version {version}, this program reads version {SCHEMA_VERSION}")
        return Manifest.model_validate(raw)
    except (ValueError, TypeError, KeyError) as exc:  # pydantic's errors are ValueErrors
        problem = exc.errors()[0]["loc"] if isinstance(exc, ValidationError) else exc
        raise RunError(f"{path} is no manifest of a run: {problem}") from exc


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
