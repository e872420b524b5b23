"""The bench from end to end, against a stand-in for the server: what is sent, written, shown, and the exit code."""

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from client.bench_run import BenchOptions, run_bench
from client.errors import BadReply, ConnectionFailed, Unavailable
from client.results import RunError, read_run
from client.summary import chosen
from client.tasks import TaskError
from tests.fake_server import MODELS, SERVER, FakeServer, error
from tests.fake_task import write_task


@pytest.fixture
def options(tmp_path: Path) -> BenchOptions:
    folder = tmp_path / "tasks"
    folder.mkdir()
    docs = [{"question": f"Is {n} even?", "choices": ["yes", "no"], "label": n % 2} for n in range(40)]
    write_task(folder, "even", docs)
    return BenchOptions(
        url="http://fake",
        tasks=["sky", "even"],
        include_path=write_task(folder, "sky"),
        num_fewshot=None,
        limit=None,
        concurrency=8,
        add_special_tokens=True,
        out=tmp_path / "run",
        quiet=False,
    )


def run(options: BenchOptions, fake: FakeServer) -> tuple[int, str]:
    output = io.StringIO()
    failed = run_bench(options, Console(file=output, width=160), fake.transport)
    return failed, output.getvalue()


def test_a_run_holds_what_the_server_said(options: BenchOptions) -> None:
    fake = FakeServer()
    failed, text = run(options, fake)
    assert failed == 0
    read = read_run(options.out)
    assert [task.model_dump() for task in read.manifest.tasks] == [
        {"name": "sky", "version": "1.5", "num_fewshot": 0, "items": 3},
        {"name": "even", "version": "1.5", "num_fewshot": 0, "items": 40},
    ]
    assert read.manifest.counts.model_dump() == {"items": 43, "ok": 43, "failed": 0}
    assert read.manifest.models.quantized.root == "fake/quantized"
    assert set(read.manifest.packages) == {"python", "qconf", "httpx", "lm_eval", "pyarrow", "pydantic"}
    items = read.items()
    assert [(item.task, item.doc_id) for item in items] == [("sky", n) for n in range(3)] + [
        ("even", n) for n in range(40)
    ]
    assert (items[1].n_choices, list(items[1].choice_tokens), items[1].mean_kl) == (3, [1, 2, 3], 0.02)
    assert list(items[1].choice_mean_kl) == [0.01, 0.02, 0.03]
    flips = sum(chosen(item.base_logprob) != chosen(item.quantized_logprob) for item in items)
    overall = next(line.split() for line in text.splitlines() if line.startswith("overall"))
    assert (overall[1], overall[-2], overall[-1]) == ("43", str(flips), "0.0200")
    assert "fake/base (not quantized, bfloat16)" in text
    assert "tasks      2, 43 items" in text
    assert f"Run written to {options.out}" in text


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
    lengths = [len(body["prompt"]) + len("".join(body["continuations"])) for body in fake.bodies("/compare")]
    assert lengths == sorted(lengths, reverse=True)
    assert len(lengths) == 43


def test_items_that_fail_are_recorded_and_the_others_kept(options: BenchOptions) -> None:
    def hook(request: httpx.Request) -> httpx.Response | None:
        return error(400, "'prompt' is too long", "prompt") if b"Is 7 even?" in request.content else None

    failed, text = run(options, FakeServer(hook))
    assert failed == 1
    read = read_run(options.out)
    assert read.manifest.counts.model_dump() == {"items": 43, "ok": 42, "failed": 1}
    (bad,) = [item for item in read.items() if item.error]
    assert (bad.task, bad.doc_id, bad.error) == ("even", 7, "InvalidRequest: 'prompt' is too long")
    assert list(bad.base_logprob) == []
    assert "1 of 43 items failed, the first of them document 7 of even: InvalidRequest: 'prompt' is too long" in text


@pytest.mark.parametrize("logprob", ["NaN", "Infinity"])
def test_numbers_that_are_none_fail_their_item(options: BenchOptions, logprob: str) -> None:
    def hook(request: httpx.Request) -> httpx.Response | None:
        if b"coal" not in request.content:
            return None
        text = FakeServer().answer(request).text
        value = json.dumps(json.loads(text)["continuations"][1]["base"]["logprob"])
        return httpx.Response(200, text=text.replace(value, logprob))

    failed, _ = run(options, FakeServer(hook))
    assert failed == 1
    (bad,) = [item.error for item in read_run(options.out).items() if item.error]
    assert bad == "BadReply: continuation 1 has a log-probability that is not finite"


def test_a_reply_to_another_request_fails_its_item(options: BenchOptions) -> None:
    def hook(request: httpx.Request) -> httpx.Response | None:
        if request.url.path != "/compare":
            return None
        body = json.loads(FakeServer().answer(request).content)
        return httpx.Response(200, json=body | {"continuations": body["continuations"][:1]})

    failed, _ = run(replace(options, limit=1), FakeServer(hook))
    assert failed == 2
    assert "expected 2 continuations in order, got [0]" in str(read_run(options.out).items()[0].error)


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError("refused")


def one_model(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"data": MODELS[:1], "server": SERVER})


REFUSED: list[Any] = [
    pytest.param(FakeServer(refuse), ConnectionFailed, "cannot reach http://fake: refused", id="no server"),
    pytest.param(FakeServer(lambda _: error(503, "the pair is loading")), Unavailable, "loading", id="not ready"),
    pytest.param(FakeServer(one_model), BadReply, r"a base and a quantized model, got \['base'\]", id="another server"),
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


def test_quiet_shows_the_table_and_where_the_run_is(options: BenchOptions) -> None:
    _, text = run(replace(options, quiet=True), FakeServer())
    lines = text.split("\n")
    assert lines[0].split() == ["accuracy", "confidence", "in", "truth", "mean"]
    assert "fake/base" not in text
    assert "Run written to" in lines[-2]
