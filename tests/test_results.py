"""The run folder: what is written is what is read, and nothing is ever overwritten."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from qconf import __version__
from qconf.run.columns import ITEM_SCHEMA, SCORES, TOKEN_SCHEMA, ItemResult
from qconf.run.folder import (
    ANSWERS,
    ITEMS,
    MANIFEST,
    RESULTS,
    TOKENS,
    Counts,
    Manifest,
    RunError,
    Settings,
    Subject,
    TaskRecord,
    Timing,
    check_target,
    read_run,
    write_answers,
    write_run,
    write_tokens,
)
from qconf.wire import Both, ModelInfo, ServerInfo
from tests.fake_server import MODELS, SERVER

SCORED = ItemResult(
    task="boolq",
    doc_id=0,
    kind="multiple_choice",
    doc_hash="d0",
    prompt_hash="p0",
    label=1,
    n_choices=2,
    contexts=["Is it?"],
    choices=[" yes", " no"],
    choice_context=[0, 0],
    choice_chars=[3, 2],
    choice_bytes=[4, 2],
    base_logprob=[-1.5, -0.25],
    quantized_logprob=[-1.25, -0.5],
    choice_tokens=[1, 1],
    base_is_greedy=[False, True],
    quantized_is_greedy=[False, True],
    choice_mean_kl=[0.01, None],
    choice_max_kl=[0.02, None],
    base_unconditional=[],
    quantized_unconditional=[],
    mean_kl=0.015,
    max_kl=0.02,
)
FAILED = ItemResult(
    task="boolq",
    doc_id=1,
    kind="multiple_choice",
    doc_hash="d1",
    prompt_hash="p1",
    label=None,
    n_choices=3,
    contexts=["Is it? a", "Is it? b"],
    choices=[" 1", " 2", " 3"],
    choice_context=[0, 1, 1],
    choice_chars=[1, 1, 1],
    choice_bytes=[1, 1, 1],
    base_logprob=[],
    quantized_logprob=[],
    choice_tokens=[],
    base_is_greedy=[],
    quantized_is_greedy=[],
    choice_mean_kl=[],
    choice_max_kl=[],
    base_unconditional=[],
    quantized_unconditional=[],
    error="TimedOut: no reply",
)


# Name, type and whether it may hold nulls, of each column in the order of the files.
ITEM_COLUMNS = [
    ("task", "string", False),
    ("doc_id", "int64", False),
    ("kind", "string", False),
    ("doc_hash", "string", False),
    ("prompt_hash", "string", False),
    ("label", "int64", True),
    ("n_choices", "int64", False),
    ("contexts", "list<element: string not null>", False),
    ("choices", "list<element: string not null>", False),
    ("choice_context", "list<element: int64 not null>", False),
    ("base_logprob", "list<element: double not null>", False),
    ("quantized_logprob", "list<element: double not null>", False),
    ("choice_chars", "list<element: int64 not null>", False),
    ("choice_bytes", "list<element: int64 not null>", False),
    ("choice_tokens", "list<element: int64 not null>", False),
    ("base_is_greedy", "list<element: bool not null>", False),
    ("quantized_is_greedy", "list<element: bool not null>", False),
    ("choice_mean_kl", "list<element: double>", False),
    ("choice_max_kl", "list<element: double>", False),
    ("base_unconditional", "list<element: double not null>", False),
    ("quantized_unconditional", "list<element: double not null>", False),
    ("mean_kl", "double", True),
    ("max_kl", "double", True),
    ("doc", "string", True),
    ("target", "string", True),
    ("cluster", "string", True),
    ("base_metrics", "string", True),
    ("quantized_metrics", "string", True),
    ("error", "string", True),
]
ANSWER_COLUMNS = [
    ("task", "string", False),
    ("doc_id", "int64", False),
    ("base_text", "string", False),
    ("quantized_text", "string", False),
    ("base_tokens", "int64", False),
    ("quantized_tokens", "int64", False),
    ("base_finish_reason", "string", False),
    ("quantized_finish_reason", "string", False),
    ("common_prefix", "int64", False),
    ("acceptance", "double", False),
    ("base_mean_kl", "double", False),
    ("quantized_mean_kl", "double", False),
    ("base_filtered", "string", True),
    ("quantized_filtered", "string", True),
]
TOKEN_COLUMNS = [
    ("task", "string", False),
    ("doc_id", "int64", False),
    ("position", "int64", False),
    ("token_id", "int64", False),
    ("base_logprob", "float", False),
    ("quantized_logprob", "float", False),
    ("kl", "float", False),
    ("reverse_kl", "float", False),
    ("js", "float", False),
    ("total_variation", "float", True),
    ("base_entropy", "float", False),
    ("quantized_entropy", "float", False),
    ("base_confidence", "float", False),
    ("quantized_confidence", "float", False),
    ("base_argmax", "int64", False),
    ("quantized_argmax", "int64", False),
]
RESULT = {"schema_version": 1, "tasks": {"boolq": {"metrics": {"base": {"acc,none": 0.5}}}}, "groups": {}}


def subject() -> Subject:
    return Subject(
        server=ServerInfo.model_validate(SERVER),
        models=Both(base=ModelInfo.model_validate(MODELS[0]), quantized=ModelInfo.model_validate(MODELS[1])),
        tasks=[TaskRecord(name="boolq", version="1.0", num_fewshot=0, items=2, digest="abc")],
        settings=Settings(
            tasks=["boolq"],
            data=[],
            corpora=[],
            num_fewshot=None,
            limit=2,
            add_special_tokens=True,
            delimiter=" ",
            window=None,
            stride=None,
        ),
    )


def manifest() -> Manifest:
    return Manifest(
        created="2025-03-01T12:00:00.000+00:00",
        url="http://fake",
        concurrency=4,
        subject=subject(),
        timing=Timing(started="s", finished="f", seconds=1.5, sessions=1, items_per_second=1.3),
        counts=Counts(items=2, ok=1, failed=1),
        packages={"python": "3.11"},
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = tmp_path / "runs" / "first"
    write_run(path, manifest(), [SCORED, FAILED], RESULT)
    return path


def test_what_is_written_is_read(run: Path) -> None:
    read = read_run(str(run))
    assert read.manifest == manifest()
    assert read.items() == [SCORED, FAILED]
    assert read.tokens is None
    assert read.results == RESULT
    assert sorted(path.name for path in run.iterdir()) == [ITEMS, MANIFEST, RESULTS]


def test_the_columns_on_disk_are_these(tmp_path: Path) -> None:
    tokens = TOKEN_SCHEMA.empty_table()
    write_tokens(tmp_path, [tokens])
    write_answers(tmp_path, [])
    write_run(tmp_path, manifest(), [SCORED], RESULT)
    assert read_run(tmp_path).tokens == tokens
    for file, columns in ((ITEMS, ITEM_COLUMNS), (TOKENS, TOKEN_COLUMNS), (ANSWERS, ANSWER_COLUMNS)):
        stored = pq.read_schema(tmp_path / file)
        assert [(field.name, str(field.type), field.nullable) for field in stored] == columns


def test_every_column_says_what_it_means(run: Path) -> None:
    described = {field.name: field.metadata[b"description"].decode() for field in pq.read_schema(run / ITEMS)}
    assert described["label"] == "index of the true choice; null where the task names none, or several"
    assert described["kind"].endswith("trace: a record that is the base model's own greedy text")
    assert all(described.values())
    assert all(field.metadata[b"description"] for field in TOKEN_SCHEMA)


def test_what_a_replay_measures_is_kept_in_its_journal() -> None:
    assert SCORES == (
        "base_logprob",
        "quantized_logprob",
        "choice_tokens",
        "base_is_greedy",
        "quantized_is_greedy",
        "choice_mean_kl",
        "choice_max_kl",
        "base_unconditional",
        "quantized_unconditional",
        "mean_kl",
        "max_kl",
        "error",
    )


def test_a_run_without_items_can_be_read(tmp_path: Path) -> None:
    write_run(tmp_path / "empty", manifest(), [], RESULT)
    assert read_run(tmp_path / "empty").items() == []


def test_a_run_is_never_overwritten(run: Path) -> None:
    with pytest.raises(RunError, match="first exists already: runs are never overwritten"):
        check_target(run)


def test_neither_is_an_empty_folder_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("empty", "file", "dangling"):
        with pytest.raises(RunError, match="exists already"):
            check_target(tmp_path / name)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is not a writable folder"):
        check_target(tmp_path / "file" / "run")
    with pytest.raises(RunError, match=r"cannot write the run to .*: "):
        write_run(tmp_path / "file" / "run", manifest(), [], RESULT)


def test_a_run_that_cannot_be_written_whole_is_none(tmp_path: Path) -> None:
    broken = dataclasses.replace(SCORED, doc_id=2**70)
    with pytest.raises(OverflowError):
        write_run(tmp_path / "run", manifest(), [broken], RESULT)
    assert not (tmp_path / "run" / MANIFEST).exists()


def test_a_missing_run_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot read .*manifest\.json: No such file or directory"):
        read_run(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON: "),
        ("[]", "is not a manifest of a run: "),
        ("{}", "is not a manifest of a run: 'schema_version'"),
        ('{"schema_version": 1}', "is not a manifest of a run: 'created': field required"),
        ('{"schema_version": "1"}', "is not a manifest of a run: schema_version is '1', expected an integer"),
        (
            '{"schema_version": 2}',
            rf"has schema version 2, and qconf {__version__} reads versions up to 1: upgrade qconf",
        ),
    ],
)
def test_a_manifest_that_is_none_is_refused(run: Path, text: str, message: str) -> None:
    (run / MANIFEST).write_text(text)
    with pytest.raises(RunError, match=message):
        read_run(run)


def test_an_older_run_without_its_nullable_columns_is_read(run: Path) -> None:
    raw = json.loads((run / MANIFEST).read_text())
    (run / MANIFEST).write_text(json.dumps(raw | {"schema_version": 0}))
    table = pq.read_table(run / ITEMS)
    nullable = [field.name for field in table.schema if field.nullable]
    pq.write_table(table.drop_columns(nullable), run / ITEMS)
    unknown: dict[str, Any] = dict.fromkeys(nullable)
    assert read_run(run).items() == [dataclasses.replace(row, **unknown) for row in (SCORED, FAILED)]


def test_items_that_are_none_are_refused(run: Path) -> None:
    table = pq.read_table(run / ITEMS)
    pq.write_table(table.drop_columns(["doc_hash", "choices"]), run / ITEMS)
    with pytest.raises(RunError, match="lacks the columns doc_hash, choices"):
        read_run(run)
    (run / ITEMS).write_bytes(b"not parquet")
    with pytest.raises(RunError, match=r"cannot read .*items\.parquet"):
        read_run(run)


def test_tokens_that_are_none_are_refused(run: Path) -> None:
    pq.write_table(TOKEN_SCHEMA.empty_table().drop_columns(["kl"]), run / TOKENS)
    with pytest.raises(RunError, match=r"tokens\.parquet lacks the columns kl"):
        read_run(run)
    (run / TOKENS).write_bytes(b"not parquet")
    with pytest.raises(RunError, match=r"cannot read .*tokens\.parquet"):
        read_run(run)


def test_newer_columns_and_manifest_fields_are_ignored(run: Path) -> None:
    table = pq.read_table(run / ITEMS)
    pq.write_table(table.append_column("news", [[1, 2]]), run / ITEMS)
    raw = json.loads((run / MANIFEST).read_text())
    (run / MANIFEST).write_text(json.dumps(raw | {"news": 1}))
    read = read_run(run)
    assert read.manifest == manifest()
    assert read.table.column_names == ITEM_SCHEMA.names
