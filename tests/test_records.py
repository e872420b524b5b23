"""Corpora of token ids: what is sent for a record, how long ones are cut, and which files are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client.bench.items import TaskError, Window
from client.bench.sources.corpus import cut
from client.bench.sources.load import BenchOptions
from client.bench.sources.records import load_records
from qconf.run.folder import Run, RunError, read_run
from qconf.wire import ModelInfo
from tests.fake_server import MODELS, FakeServer
from tests.replays import run, stopped

BASE = ModelInfo.model_validate(MODELS[0])
SHORT: dict[str, Any] = {"prompt_token_ids": [0, 7, 8], "token_ids": [9, 10, 1]}
LONG: dict[str, Any] = {"prompt_token_ids": [0, 5], "token_ids": list(range(20, 41))}


def write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def columns(read: Run, *names: str) -> list[tuple[Any, ...]]:
    assert read.tokens is not None
    return list(zip(*(read.tokens[name].to_pylist() for name in names), strict=True))


def test_a_record_is_sent_as_it_is(options: BenchOptions, tmp_path: Path) -> None:
    corpus = write(tmp_path / "answers.jsonl", SHORT, {"prompt_token_ids": [3], "token_ids": [4]})
    fake = FakeServer()
    failed, text = run(replace(options, tasks=[], corpora=[corpus]), fake)
    assert failed == 0
    assert "tokens scored" in text
    assert fake.bodies("/tokenize") == []
    sent = sorted((body["prompt"], body["continuations"]) for body in fake.bodies("/compare"))
    assert sent == [([0, 7, 8], [[9, 10, 1]]), ([3], [[4]])]
    read = read_run(options.out)
    assert [(item.task, item.kind, list(item.choice_tokens)) for item in read.items()] == [
        ("answers", "record", [3]),
        ("answers", "record", [1]),
    ]
    assert columns(read, "doc_id", "position", "token_id") == [(0, 0, 9), (0, 1, 10), (0, 2, 1), (1, 0, 4)]
    assert read.corpora == ["answers"]


def test_a_long_record_is_scored_in_windows(options: BenchOptions, tmp_path: Path) -> None:
    corpus = write(tmp_path / "answers.jsonl", LONG)
    fake = FakeServer()
    run(replace(options, tasks=[], corpora=[corpus], window=10), fake)
    bodies = fake.bodies("/compare")
    assert len(bodies) == 4
    assert all(len(body["prompt"]) + len(body["continuations"][0]) <= 10 for body in bodies)
    read = read_run(options.out)
    assert columns(read, "position", "token_id") == [(place, 20 + place) for place in range(21)]
    (item,) = read.items()
    assert list(item.choice_tokens) == [21]
    summary = read.results["tasks"]["answers"]["corpus"]
    assert summary["tokens"] == 21


def test_cut_windows_score_each_token_once() -> None:
    whole = Window(LONG["prompt_token_ids"], LONG["token_ids"], 0)
    assert cut(whole, 23, None) == [whole]
    assert cut(whole, 10, None) == [
        Window([0, 5], range(20, 28), 0),
        Window([0, *range(24, 28)], range(28, 33), 8),
        Window([0, *range(29, 33)], range(33, 38), 13),
        Window([0, *range(34, 38)], range(38, 41), 18),
    ]
    strided = cut(whole, 10, 2)
    assert [len(window.scored) for window in strided] == [8, 2, 2, 2, 2, 2, 2, 1]
    assert [token for window in strided for token in window.scored] == LONG["token_ids"]
    assert all(len(window.context) == 8 and window.context[0] == 0 for window in strided[1:])
    # A prompt that fills a window loses its beginning, but for the first token.
    assert cut(Window(range(12), [50, 51], 0), 8, None) == [Window([0, 9, 10, 11], [50, 51], 0)]


def test_greedy_texts_of_the_base_are_traces(tmp_path: Path) -> None:
    records = [SHORT | {"greedy_of": BASE.digest}, LONG | {"greedy_of": BASE.digest}]
    task = load_records(write(tmp_path / "answers.jsonl", *records), BASE, limit=1)
    assert [item.kind for item in task.items] == ["trace"]


BAD = [
    ([], "has no items: expected one JSON object per line"),
    ([SHORT, {"token_ids": [1]}], "line 2: 'prompt_token_ids': field required"),
    ([SHORT | {"token_ids": []}], "line 1: 'token_ids': list should have at least 1 item"),
    ([SHORT | {"token_ids": [1, "a"]}], "line 1: 'token_ids[1]': input should be a valid integer, got 'a'"),
    ([SHORT | {"token_ids": [-1]}], "line 1: 'token_ids[0]': input should be greater than or equal to 0, got -1"),
    ([SHORT | {"text": "a"}], "line 1: 'text': extra inputs are not permitted"),
    (
        [SHORT | {"greedy_of": "another"}],
        "line 1: 'greedy_of' is 'another', expected the base model's digest 'digest of base'",
    ),
    (
        [SHORT | {"greedy_of": BASE.digest}, SHORT],
        "line 2: 'greedy_of' is None, expected the base model's digest 'digest of base'",
    ),
    (
        [SHORT, SHORT | {"greedy_of": BASE.digest}],
        "line 2: 'greedy_of' is 'digest of base', expected none, as in the first record",
    ),
]


@pytest.mark.parametrize(("records", "message"), BAD)
def test_bad_records_are_refused(tmp_path: Path, records: list[dict[str, Any]], message: str) -> None:
    path = write(tmp_path / "answers.jsonl", *records)
    with pytest.raises(TaskError) as caught:
        load_records(path, BASE)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_windows_beyond_the_context_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "answers.jsonl", SHORT)
    with pytest.raises(TaskError, match="a window of 600 tokens is longer than the models' context of 512"):
        load_records(path, BASE, window=600)
    with pytest.raises(TaskError, match="a stride of 512 tokens is not shorter than a window of 512"):
        load_records(path, BASE, stride=512)


def test_a_replay_of_records_resumes_only_with_the_same_ones(options: BenchOptions, tmp_path: Path) -> None:
    corpus = write(tmp_path / "answers.jsonl", *(SHORT | {"token_ids": [place]} for place in range(9)))
    options = replace(options, tasks=[], corpora=[corpus])
    stopped(options)
    write(corpus, *(SHORT | {"token_ids": [place + 1]} for place in range(9)))
    with pytest.raises(RunError, match=r"cannot be resumed: tasks\[0\]\.version was"):
        run(replace(options, resume=True), FakeServer())
    write(corpus, *(SHORT | {"token_ids": [place]} for place in range(9)))
    fake = FakeServer()
    run(replace(options, resume=True), fake)
    assert len(fake.bodies("/compare")) == 4
    assert columns(read_run(options.out), "token_id") == [(place,) for place in range(9)]
