"""The bench from end to end, against a stand-in for the server: what is sent, written, shown, and the exit code."""

import errno
import fcntl
import io
import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from rich.console import Console

from client.bench.display.scoreboard import chosen
from client.bench.items import TaskError
from client.bench.session import Stopped, run_bench
from client.bench.sources.load import BenchOptions
from client.errors import BadReply, ConnectionFailed, Unavailable
from qconf import __version__
from qconf.run.columns import ItemResult
from qconf.run.folder import RunError, read_run
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
        data=[],
        corpora=[],
        include_path=write_task(folder, "sky"),
        num_fewshot=None,
        limit=None,
        delimiter=" ",
        window=None,
        stride=None,
        add_special_tokens=True,
        concurrency=8,
        retries=0,
        timeout=10.0,
        out=tmp_path / "run",
        resume=False,
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
    subject = read.manifest.subject
    assert subject is not None
    assert [task.model_dump(exclude={"digest"}) for task in subject.tasks] == [
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
    first = "1 of 43 items failed, the first of them document 7 of even: InvalidRequest: 'prompt' is too long"
    assert first in " ".join(text.split())


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


def test_a_run_that_stopped_goes_on_where_it_was(options: BenchOptions) -> None:
    whole = replace(options, out=options.out.with_name("whole"))
    run(whole, FakeServer())
    answered = 0

    def gone_after_20(request: httpx.Request) -> httpx.Response | None:
        nonlocal answered
        answered += request.url.path == "/compare"
        if answered > 20:
            raise httpx.ConnectError("refused")
        return None

    with pytest.raises(Stopped, match=r"does not answer any more: .* 20 of 43 items are kept .* --resume to continue"):
        run(replace(options, concurrency=1), FakeServer(gone_after_20))
    assert [path.name for path in options.out.iterdir()] == ["journal.jsonl"]
    with pytest.raises(RunError, match="exists already"):
        run(options, FakeServer())
    fake = FakeServer()
    _, text = run(replace(options, resume=True), fake)
    assert len(fake.bodies("/compare")) == 23
    assert "43 items, 20 of them done before" in text
    one, two = read_run(whole.out), read_run(options.out)
    assert (options.out / "items.parquet").read_bytes() == (whole.out / "items.parquet").read_bytes()
    assert one.results == two.results
    assert one.manifest.counts == two.manifest.counts
    assert two.manifest.timing is not None
    assert two.manifest.timing.sessions == 2
    assert sorted(path.name for path in options.out.iterdir()) == ["items.parquet", "manifest.json", "results.json"]


def test_resume_starts_what_is_not_there_and_leaves_what_is_complete(options: BenchOptions) -> None:
    again = replace(options, resume=True)
    run(again, FakeServer())
    before = (options.out / "items.parquet").read_bytes()
    fake = FakeServer()
    failed, text = run(again, fake)
    assert failed == 0
    assert "is complete: nothing is left to do" in text
    assert fake.bodies("/compare") == []
    assert (options.out / "items.parquet").read_bytes() == before
    with pytest.raises(RunError, match=r"cannot be resumed: settings\.limit was null and is 1; tasks"):
        run(replace(again, limit=1), fake)


def test_items_that_failed_are_tried_again(options: BenchOptions) -> None:
    run(replace(options, tasks=["even"]), FakeServer(lambda r: error(500, "broken") if b"Is 7 " in r.content else None))
    assert (options.out / "journal.jsonl").exists()
    fake = FakeServer()
    failed, _ = run(replace(options, tasks=["even"], resume=True), fake)
    assert failed == 0
    assert len(fake.bodies("/compare")) == 1
    assert read_run(options.out).manifest.counts.model_dump() == {"items": 40, "ok": 40, "failed": 0}
    assert not (options.out / "journal.jsonl").exists()


def stopped(options: BenchOptions, items: int = 5) -> Path:
    """The journal of a run that was stopped after some items."""
    left = items

    def hook(request: httpx.Request) -> httpx.Response | None:
        nonlocal left
        left -= request.url.path == "/compare"
        return error(503, "stopping") if left < 0 else None

    with pytest.raises(Stopped):
        run(replace(options, concurrency=1), FakeServer(hook))
    return options.out / "journal.jsonl"


def test_an_item_that_the_server_cannot_do_fails_alone_and_is_tried_last(options: BenchOptions) -> None:
    """One that is met by time-outs while the server is fine must not end the replay, nor be the first of the next."""

    def poison(request: httpx.Request) -> httpx.Response | None:
        if b"Is 7 " in request.content:
            raise httpx.ReadTimeout("too long")
        return None

    failed, _ = run(replace(options, concurrency=1), FakeServer(poison))
    assert failed == 1
    (row,) = [row for row in read_run(options.out).items() if row.error is not None]
    assert row.error is not None
    assert row.error.startswith("TimedOut: ")


def test_whatever_brings_the_server_down_is_tried_last(options: BenchOptions) -> None:
    first = [b""]

    def down(request: httpx.Request) -> httpx.Response | None:
        if request.url.path == "/compare" and not first[0]:
            first[0] = request.content
        if first[0]:
            raise httpx.ConnectError("refused")
        return None

    with pytest.raises(Stopped, match="0 of 43 items are kept"):
        run(replace(options, concurrency=1), FakeServer(down))
    fake = FakeServer()
    run(replace(options, concurrency=1, resume=True), fake)
    sent = [request.content for request in fake.received if request.url.path == "/compare"]
    assert len(sent) == 43
    assert sent.index(first[0]) == 42


def test_a_full_disk_ends_the_replay_and_it_can_be_resumed(
    options: BenchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def full(fd: int, data: bytes) -> int:
        nonlocal written
        written += 1
        if written > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(fd, data, 0)  # on a file opened for appending, this appends

    with monkeypatch.context() as patch:
        patch.setattr("client.bench.journal.os", SimpleNamespace(**{**vars(os), "write": full}))
        with pytest.raises(RunError, match=r"cannot write to .*journal\.jsonl: No space left on device"):
            run(options, FakeServer())
    fake = FakeServer()
    failed, _ = run(replace(options, resume=True), fake)
    assert failed == 0
    assert len(fake.bodies("/compare")) == 43 - 10


def test_metrics_that_raise_do_not_lose_the_scores(options: BenchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ImportError("no module named 'rouge'")

    monkeypatch.setattr("client.bench.lm_eval_metrics._evaluate", broken)
    failed, text = run(options, FakeServer())
    assert failed == 0
    assert "lm-eval's metrics of even cannot be computed: no module named 'rouge'" in " ".join(text.split())
    read = read_run(options.out)
    assert len(read.items()) == 43
    assert read.results["tasks"]["even"]["metrics_error"] == "no module named 'rouge'"
    assert "metrics" not in read.results["tasks"]["even"]


def test_a_line_that_was_being_written_is_scored_again(options: BenchOptions) -> None:
    journal = stopped(options)
    content = b"".join(journal.read_bytes().splitlines(keepends=True)[:-1])  # without the item that failed
    journal.write_bytes(content[:-7])
    fake = FakeServer()
    run(replace(options, resume=True), fake)
    assert len(fake.bodies("/compare")) == 43 - 4
    assert read_run(options.out).manifest.counts.items == 43


@pytest.mark.parametrize("length", [0, 10])
def test_a_journal_without_a_whole_line_starts_anew(options: BenchOptions, length: int) -> None:
    journal = stopped(options)
    journal.write_bytes(journal.read_bytes()[:length])
    fake = FakeServer()
    run(replace(options, resume=True), fake)
    assert len(fake.bodies("/compare")) == 43


def test_a_damaged_line_is_named(options: BenchOptions) -> None:
    journal = stopped(options)
    lines = journal.read_bytes().split(b"\n")
    lines[3] = lines[3][:20]
    journal.write_bytes(b"\n".join(lines))
    with pytest.raises(RunError, match=r"journal\.jsonl, line 4 is damaged: "):
        run(replace(options, resume=True), FakeServer())


def rewritten(journal: Path, change: Callable[[list[Any]], object]) -> bytes:
    """The content of a journal whose lines were changed in place."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    change(lines)
    journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return journal.read_bytes()


def test_a_journal_that_does_not_name_its_client_is_resumed(options: BenchOptions) -> None:
    rewritten(stopped(options), lambda lines: lines[0].pop("client"))
    fake = FakeServer()
    run(replace(options, resume=True), fake)
    assert len(fake.bodies("/compare")) == 43 - 5


FOREIGN: list[Any] = [
    pytest.param(lambda lines: lines[0].update(client="9"), "qconf 9", id="named"),
    pytest.param(lambda lines: lines.__setitem__(0, []), "another version of qconf", id="first line"),
    pytest.param(lambda lines: lines[3].pop("doc_id"), "another version of qconf", id="entry"),
    pytest.param(lambda lines: lines.append(1), "another version of qconf", id="line"),
    pytest.param(lambda lines: lines[3].update(scores=[]), "another version of qconf", id="scores"),
    pytest.param(lambda lines: lines[3]["scores"].pop("error"), "another version of qconf", id="less"),
    pytest.param(lambda lines: lines[3]["scores"].update(news=1), "another version of qconf", id="more"),
]


@pytest.mark.parametrize(("change", "writer"), FOREIGN)
def test_a_journal_of_another_client_is_not_resumed(
    options: BenchOptions, change: Callable[[list[Any]], object], writer: str
) -> None:
    journal = stopped(options)
    before = rewritten(journal, change)
    with pytest.raises(
        RunError, match=f"cannot be resumed: {writer} wrote its journal, and this is qconf {__version__};"
    ):
        run(replace(options, resume=True), FakeServer())
    assert journal.read_bytes() == before


def test_a_later_client_does_not_resume_a_journal_without_version(
    options: BenchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten(stopped(options), lambda lines: lines[0].pop("client"))
    monkeypatch.setattr("client.bench.journal.__version__", "0.2.0")
    with pytest.raises(RunError, match=r"qconf 0\.1\.0 wrote its journal, and this is qconf 0\.2\.0; resume it with"):
        run(replace(options, resume=True), FakeServer())


def served(**changes: Any) -> FakeServer:
    """A server with another pair or build."""
    models = [MODELS[0], MODELS[1] | {"created": 99} | changes.get("quantized", {})]
    body = {"object": "list", "data": models, "server": SERVER | changes.get("server", {})}
    return FakeServer(lambda request: httpx.Response(200, json=body) if request.url.path == "/v1/models" else None)


CHANGED: list[Any] = [
    pytest.param(
        {},
        served(quantized={"digest": "new"}),
        'models.quantized.digest was "digest of quantized" and is "new"$',
        id="pair",
    ),
    pytest.param({}, served(server={"version": "9"}), 'server.version was "0.1.0" and is "9"$', id="build"),
    pytest.param(
        {"add_special_tokens": False}, FakeServer(), "settings.add_special_tokens was true and is false$", id="setting"
    ),
    pytest.param({"num_fewshot": 1}, FakeServer(), r"tasks\[0\]\.num_fewshot was 0 and is 1", id="examples"),
]


@pytest.mark.parametrize(("changes", "fake", "message"), CHANGED)
def test_another_subject_is_not_resumed(
    options: BenchOptions, changes: dict[str, Any], fake: FakeServer, message: str
) -> None:
    journal = stopped(options)
    before = journal.read_bytes()
    with pytest.raises(RunError, match=f"run cannot be resumed: .*{message}"):
        run(replace(options, resume=True, **changes), fake)
    assert journal.read_bytes() == before


def test_a_changed_task_is_not_resumed(options: BenchOptions) -> None:
    stopped(options)
    assert options.include_path is not None
    write_task(options.include_path, "sky", doc_to_text="{{question}}", metadata={"version": 2.0})
    with pytest.raises(RunError, match=r'tasks\[0\]\.version was "1.5" and is "2.0"; tasks\[0\]\.digest was'):
        run(replace(options, resume=True), FakeServer())


def test_another_process_keeps_out(options: BenchOptions) -> None:
    journal = stopped(options)
    with journal.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process is writing the run"):
            run(replace(options, resume=True), FakeServer())


def test_a_pair_that_changes_while_it_runs_stops_the_run(options: BenchOptions) -> None:
    def hook(request: httpx.Request) -> httpx.Response | None:
        if request.url.path != "/compare":
            return None
        body = json.loads(FakeServer().answer(request).content)
        body["models"]["quantized"]["digest"] = "other"
        return httpx.Response(200, json=body)

    with pytest.raises(Stopped, match="another pair is being served now: fake/base and fake/quantized, or other files"):
        run(options, FakeServer(hook))


def test_a_request_that_the_server_does_not_survive_fails_alone(options: BenchOptions) -> None:
    def hook(request: httpx.Request) -> httpx.Response | None:
        if b"Is 7 even?" in request.content:
            raise httpx.ReadError("gone")
        return None

    failed, _ = run(replace(options, concurrency=8, retries=2), FakeServer(hook))
    assert failed == 1
    (bad,) = [item for item in read_run(options.out).items() if item.error]
    assert str(bad.error).startswith("ConnectionFailed: cannot reach http://fake")


def test_two_things_of_one_name_are_refused(options: BenchOptions, tmp_path: Path) -> None:
    data = tmp_path / "sky.jsonl"
    data.write_text('{"prompt": "?", "choices": ["a", "b"]}')
    with pytest.raises(TaskError, match="two of the tasks and files are named 'sky'"):
        run(replace(options, data=[data]), FakeServer())
