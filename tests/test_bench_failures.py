"""Replays with items that fail, servers that disappear and metrics that raise."""

import json
from dataclasses import replace

import httpx
import pytest

from client.bench.session import Stopped
from client.bench.sources.load import BenchOptions
from qconf.run.folder import read_run
from tests.fake_server import FakeServer, error
from tests.replays import run


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
    assert bad == "BadReply: continuation 1: its log-probability under 'base' is not finite"


def test_a_reply_to_another_request_fails_its_item(options: BenchOptions) -> None:
    def hook(request: httpx.Request) -> httpx.Response | None:
        if request.url.path != "/compare":
            return None
        body = json.loads(FakeServer().answer(request).content)
        return httpx.Response(200, json=body | {"continuations": body["continuations"][:1]})

    failed, _ = run(replace(options, limit=1), FakeServer(hook))
    assert failed == 2
    assert "expected 2 continuations in order, got [0]" in str(read_run(options.out).items()[0].error)


def test_an_item_that_the_server_cannot_do_fails_alone_and_is_tried_last(options: BenchOptions) -> None:
    """An item that times out while the server is fine must neither end the replay nor come first in the next."""

    def poison(request: httpx.Request) -> httpx.Response | None:
        if b"Is 7 " in request.content:
            raise httpx.ReadTimeout("too long")
        return None

    failed, _ = run(replace(options, concurrency=1), FakeServer(poison))
    assert failed == 1
    (row,) = [row for row in read_run(options.out).items() if row.error is not None]
    assert row.error is not None
    assert row.error.startswith("TimedOut: ")


def test_a_request_that_the_server_does_not_survive_fails_alone(options: BenchOptions) -> None:
    def hook(request: httpx.Request) -> httpx.Response | None:
        if b"Is 7 even?" in request.content:
            raise httpx.ReadError("gone")
        return None

    failed, _ = run(replace(options, concurrency=8, retries=2), FakeServer(hook))
    assert failed == 1
    (bad,) = [item for item in read_run(options.out).items() if item.error]
    assert str(bad.error).startswith("ConnectionFailed: cannot reach http://fake")


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


def test_a_pair_that_changes_while_it_runs_stops_the_run(options: BenchOptions) -> None:
    def hook(request: httpx.Request) -> httpx.Response | None:
        if request.url.path != "/compare":
            return None
        body = json.loads(FakeServer().answer(request).content)
        body["models"]["quantized"]["digest"] = "other"
        return httpx.Response(200, json=body)

    with pytest.raises(Stopped, match="another pair is being served now: fake/base and fake/quantized, or other files"):
        run(options, FakeServer(hook))


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
