"""The bench from end to end, against a stand-in for the server: what is sent, written, shown, and the exit code."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from client.bench.display.scoreboard import chosen
from client.bench.items import TaskError
from client.bench.sources.load import BenchOptions
from client.errors import BadReply, ConnectionFailed, Unavailable
from qconf.run.columns import ItemResult
from qconf.run.folder import RunError, read_run
from tests.fake_server import MODELS, SERVER, FakeServer, error
from tests.fake_task import write_task
from tests.replays import run


def test_a_run_holds_what_the_server_said(options: BenchOptions) -> None:
    fake = FakeServer()
    failed, text = run(options, fake)
    assert failed == 0
    read = read_run(options.out)
    subject = read.manifest.subject
    assert subject is not None
    assert [task.model_dump(exclude={"digest"}, exclude_none=True) for task in subject.tasks] == [
        {"name": "sky", "version": "1.5", "num_fewshot": 0, "items": 3},
        {"name": "even", "version": "1.5", "num_fewshot": 0, "items": 40},
    ]
    assert read.manifest.counts.model_dump() == {"items": 43, "ok": 43, "failed": 0}
    assert subject.models.quantized.root == "fake/quantized"
    assert set(read.manifest.packages) == {"python", "qconf", "httpx", "lm_eval", "pyarrow", "pydantic"}
    items = read.items()
    assert [(item.task, item.doc_id) for item in items] == [("sky", n) for n in range(3)] + [
        ("even", n) for n in range(40)
    ]
    assert (items[1].n_choices, list(items[1].choice_tokens), items[1].contexts) == (
        3,
        [1, 2, 3],
        ["Question: Is coal white?\nAnswer:"],
    )
    assert list(items[1].choice_mean_kl) == [0.01, 0.02, 0.03]
    assert items[1].mean_kl == pytest.approx((0.01 * 1 + 0.02 * 2 + 0.03 * 3) / 6)
    assert items[1].max_kl == 0.06
    flips = sum(chosen(item.base_logprob) != chosen(item.quantized_logprob) for item in items)
    overall = next(line.split() for line in text.splitlines() if line.startswith("overall"))
    assert (overall[1], overall[-2], overall[-1]) == ("43", str(flips), f"{mean(read.items()):.4f}")
    assert "fake/base (not quantized, bfloat16)" in text
    assert "tasks      2, 43 items" in text
    assert f"Run written to {options.out}" in text


def mean(items: list[ItemResult]) -> float:
    return sum(item.mean_kl or 0.0 for item in items) / len(items)


def test_each_item_is_one_request_for_all_its_choices(options: BenchOptions) -> None:
    fake = FakeServer()
    run(replace(options, tasks=["sky"], add_special_tokens=False), fake)
    assert [request.url.path for request in fake.received] == ["/v1/models"] + 3 * ["/compare"]
    sent = sorted(fake.bodies("/compare"), key=lambda body: str(body["prompt"]))
    assert sent[0] == {
        "prompt": "Question: Is coal white?\nAnswer:",
        "continuations": [" yes", " no", " maybe"],
        "label": 1,
        "detail": "summary",
        "add_special_tokens": False,
    }


def test_long_items_go_first_and_no_more_are_in_flight_than_allowed(options: BenchOptions) -> None:
    fake = FakeServer()
    run(replace(options, concurrency=1), fake)
    lengths = [
        len(body["prompt"]) + sum(len(choice) + 64 for choice in body["continuations"])
        for body in fake.bodies("/compare")
    ]
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) == 43


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def one_model(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"data": MODELS[:1], "server": SERVER})


REFUSED: list[Any] = [
    pytest.param(FakeServer(refuse), ConnectionFailed, "cannot reach http://fake: refused", id="no server"),
    pytest.param(FakeServer(lambda _: error(503, "the pair is loading")), Unavailable, "loading", id="not ready"),
    pytest.param(FakeServer(one_model), BadReply, r"'base' and one .* or more, .* got \['base'\]", id="another server"),
]


@pytest.mark.parametrize(("fake", "expected", "message"), REFUSED)
def test_without_a_server_nothing_starts(
    options: BenchOptions, fake: FakeServer, expected: type[Exception], message: str
) -> None:
    with pytest.raises(expected, match=message):
        run(options, fake)
    assert len(fake.received) == 1
    assert not options.out.exists()


def test_a_broken_task_and_a_taken_folder_are_refused_before_any_item_is_sent(options: BenchOptions) -> None:
    fake = FakeServer()
    assert options.include_path is not None
    write_task(options.include_path, "broken", doc_to_choice="{{nothing}}")
    with pytest.raises(TaskError, match="task 'broken' cannot be loaded"):
        run(replace(options, tasks=["sky", "broken"]), fake)
    options.out.mkdir()
    with pytest.raises(RunError, match="exists already"):
        run(options, fake)
    assert fake.bodies("/compare") == []


def test_two_things_of_one_name_are_refused(options: BenchOptions, tmp_path: Path) -> None:
    data = tmp_path / "sky.jsonl"
    data.write_text('{"prompt": "?", "choices": ["a", "b"]}')
    with pytest.raises(TaskError, match="two of the tasks and files are named 'sky'"):
        run(replace(options, data=[data]), FakeServer())


def test_quiet_shows_the_table_and_where_the_run_is(options: BenchOptions) -> None:
    _, text = run(replace(options, quiet=True), FakeServer())
    lines = text.split("\n")
    assert lines[0].split() == ["accuracy", "confidence", "in", "truth", "mean"]
    assert "fake/base" not in text
    assert "Run written to" in lines[-2]


def test_lm_evals_metrics_come_with_every_item_and_task(options: BenchOptions) -> None:
    run(options, FakeServer())
    read = read_run(options.out)
    right = {
        model: [
            chosen(item.base_logprob if model == "base" else item.quantized_logprob) == item.label
            for item in read.items()
            if item.task == "even"
        ]
        for model in ("base", "quantized")
    }
    metrics = read.results["tasks"]["even"]["metrics"]
    assert metrics == {model: {"acc,none": sum(each) / 40} for model, each in right.items()}
    items = [item for item in read.items() if item.task == "even"]
    assert [item.base_metrics for item in items] == [f'{{"none": {{"acc": {float(each)}}}}}' for each in right["base"]]


def test_files_of_ones_own_and_corpora(options: BenchOptions, tmp_path: Path) -> None:
    data, corpus = tmp_path / "mine.jsonl", tmp_path / "text.txt"
    data.write_text(
        '{"prompt": "One is", "choices": ["odd", "even"], "label": 0}\n\n{"prompt": "?", "choices": ["a", "b"]}\n'
    )
    corpus.write_text("abcdefghij" * 3)
    fake = FakeServer()
    failed, text = run(replace(options, tasks=[], data=[data], corpora=[corpus], window=10), fake)
    assert failed == 0
    read = read_run(options.out)
    assert [(item.task, item.kind, item.label) for item in read.items()] == [
        ("mine", "multiple_choice", 0),
        ("mine", "multiple_choice", None),
        *[("text", "window", None)] * 3,
    ]
    assert [" odd", " even"] in [body["continuations"] for body in fake.bodies("/compare")]
    assert read.tokens is not None
    assert read.tokens["position"].to_pylist() == [6, 7, 8, 9, 16, 17, 18, 19, 26, 27, 28, 29]
    assert read.tokens["token_id"].to_pylist()[:4] == [ord(letter) for letter in "ghij"]
    corpus_results = read.results["tasks"]["text"]["corpus"]
    assert corpus_results["tokens"] == 12
    assert corpus_results["same_top"] == 1.0
    assert "tokens scored" in text


def test_whole_texts_are_scored_window_by_window(options: BenchOptions) -> None:
    assert options.include_path is not None
    write_task(
        options.include_path,
        "text",
        output_type="loglikelihood_rolling",
        doc_to_text="",
        doc_to_target="{{question}}",
        metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    )
    fake = FakeServer()
    failed, _ = run(replace(options, tasks=["text"], window=10), fake)
    assert failed == 0
    sent = fake.bodies("/compare")
    texts = ["Is the sky blue?", "Is coal white?", "Wie heißt es?"]
    assert sum(len(body["continuations"][0]) for body in sent) == sum(map(len, texts))
    assert all(len(body["prompt"]) + len(body["continuations"][0]) <= 9 for body in sent)
    assert sum(body["prompt"] == [ord("$")] for body in sent) == 3
    read = read_run(options.out)
    assert [sum(item.choice_tokens) for item in read.items()] == [len(text) for text in texts]
    total = sum(item.base_logprob[0] for item in read.items())
    size = sum(len(text.encode()) for text in texts)
    assert read.results["tasks"]["text"]["metrics"]["base"]["bits_per_byte,none"] == pytest.approx(
        -total / size / math.log(2)
    )
