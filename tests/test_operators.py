"""What operators get of a real server: traces, structured logs, quotas of keys, and a port of their own."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from playwright.sync_api import expect

from client import Client, Comparison, QuotaExceeded
from demo.local_server import LocalServer, running_server
from tests.browser import browsing, needs_chromium

KEY, FEW, SHORT = "sk-0123456789abcdef", "sk-few-requests-0123", "sk-short-texts-0123"
SECRET = "xyzzy plugh"


@dataclass
class Collector:
    """Receives traces by OTLP over HTTP, as a collector does."""

    url: str
    spans: list[tuple[str, Span]] = field(default_factory=list)
    """With the name of the service that each comes from."""

    def of(self, service: str, trace_id: bytes | None = None) -> dict[str, Span]:
        found = [span for name, span in self.spans if name == service]
        return {span.name: span for span in found if trace_id in (None, span.trace_id)}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    received = Collector("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            export = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            for resource in export.resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    received.spans.extend((names["service.name"], span) for span in scope.spans)
            body = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        received.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        try:
            yield received
        finally:
            listening.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(
        f"tests = {KEY}\nfew = {FEW} requests-per-minute=2\n"
        f"short = {SHORT} tokens-per-minute=10 requests-per-minute=9\n"
    )
    options = ("--api-key-file", str(file), "--operations-port", "0", "--log-format", "json", "--log-level", "INFO")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        environment.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        with running_server("--demo", *options) as live:
            yield live


def log_lines(server: LocalServer) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.log.read_text(encoding="utf-8").splitlines()]


def request_lines(server: LocalServer, request_id: str, count: int) -> list[dict[str, object]]:
    """The log's lines of a request, waited for: a line is written after the reply has gone."""
    found: list[dict[str, object]] = []
    for _ in range(100):
        found = [line for line in log_lines(server) if line.get("request_id") == request_id]
        if len(found) >= count:
            break
        threading.Event().wait(0.1)
    return found


def tokens(reply: Comparison) -> int:
    return reply.usage.prompt_tokens + reply.usage.continuation_tokens


def operations(server: LocalServer) -> str:
    (ready,) = [str(line["message"]) for line in log_lines(server) if "ready on" in str(line["message"])]
    return ready.split()[4]


def test_every_line_of_the_log_is_json_vllms_too(server: LocalServer) -> None:
    lines = log_lines(server)
    assert {"server.serve", "vllm"} <= {".".join(str(line["logger"]).split(".")[:2]) for line in lines} | {
        str(line["logger"]).partition(".")[0] for line in lines
    }
    assert all({"level", "message", "time"} <= line.keys() for line in lines)


def test_a_request_has_a_line_with_its_ids(server: LocalServer) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"authorization": f"Bearer {KEY}", "x-request-id": "order-7", "traceparent": parent}
    body: dict[str, object] = {"prompt": SECRET, "continuations": [" a", " b"]}
    assert httpx.post(f"{server.url}/compare", json=body, headers=headers, timeout=60).status_code == 200
    body = {"prompt": SECRET, "top_logprobs": -1}
    assert httpx.post(f"{server.url}/compare", json=body, headers=headers, timeout=60).status_code == 400
    found = request_lines(server, "order-7", 2)
    assert [(line["logger"], line["method"], line["route"], line["status"]) for line in found] == [
        ("server.access", "POST", "/compare", 200),
        ("server.access", "POST", "/compare", 400),
    ]
    assert [line["trace_id"] for line in found] == ["0af7651916cd43dd8448eb211c80319c"] * 2
    assert [line.get("error") for line in found] == [None, "invalid_request_error"]
    assert all(float(str(line["ms"])) > 0 for line in found)
    log = server.log.read_text(encoding="utf-8")
    assert SECRET not in log
    assert "tests" not in [line.get("principal") for line in found]
    assert KEY not in log


def test_a_trace_goes_from_the_bench_to_the_engine(server: LocalServer, collector: Collector, tmp_path: Path) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text(json.dumps({"prompt": "the stone", "choices": ["is red", "is blue"], "label": 0}) + "\n")
    command = ["client.bench", "--data", str(items), "--url", server.url, "--out", str(tmp_path / "run"), "--quiet"]
    environment = os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "QCONF_API_KEY": KEY}
    subprocess.run([sys.executable, "-m", *command], env=environment, check=True, timeout=120, capture_output=True)
    # The bench has sent its spans when it ends; the server sends its own after the time set above.
    with Client(server.url, api_key=KEY) as qconf:
        qconf.models()
    sent = collector.of("qconf-bench")["POST /compare"]
    for _ in range(100):
        served = collector.of("qconf-server", sent.trace_id)
        if "POST /compare" in served:
            break
        threading.Event().wait(0.1)
    request = served["POST /compare"]
    assert (sent.kind, request.kind) == (Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER)
    assert request.parent_span_id == sent.span_id
    assert [event.name for event in request.events] == ["admitted"]
    assert {"tokenize", "score", "reply"} <= served.keys()
    for name in ("tokenize", "score", "reply"):
        span = served[name]
        assert span.parent_span_id == request.span_id
        assert request.start_time_unix_nano <= span.start_time_unix_nano
        assert span.start_time_unix_nano < span.end_time_unix_nano <= request.end_time_unix_nano
    order = [served[name].start_time_unix_nano for name in ("tokenize", "score", "reply")]
    assert order == sorted(order)
    scored = {each.key: each.value for each in served["score"].attributes}
    assert scored["qconf.computed_tokens"].int_value > 0
    assert scored["qconf.queue_ms"].double_value >= 0
    ids = {each.key: each.value.string_value for each in request.attributes}
    assert len(ids["qconf.request_id"]) == 32


def test_traces_hold_no_texts_and_no_keys(server: LocalServer, collector: Collector) -> None:
    for body in ({"prompt": SECRET}, {"prompt": SECRET, "continuations": [[10**7]]}, {SECRET: 1}):
        httpx.post(f"{server.url}/compare", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=60)
    threading.Event().wait(1)
    spans = [span for name, span in collector.spans if name == "qconf-server"]
    errors = {each.value.string_value for span in spans for each in span.attributes if each.key == "error.type"}
    assert "invalid_request_error" in errors
    assert SECRET not in str(spans)
    assert KEY not in str(spans)


def test_operators_have_a_port_of_their_own(server: LocalServer) -> None:
    theirs = operations(server)
    for path in ("/metrics", "/docs", "/openapi.json", "/health", "/ready", "/version"):
        assert httpx.get(theirs + path, timeout=60).status_code == 200, path
    with httpx.Client(base_url=server.url, headers={"authorization": f"Bearer {KEY}"}, timeout=60) as http:
        for path in ("/metrics", "/docs", "/openapi.json"):
            reply = http.get(path)
            assert (reply.status_code, reply.json()["error"]["type"]) == (404, "not_found")
            assert "on the operators' port alone" in reply.json()["error"]["message"]
        for path in ("/health", "/ready", "/version", "/v1/models"):
            assert http.get(path).status_code == 200
    # Whoever reaches that port needs no key, and so must not get what needs one, whatever host the request names.
    stranger = httpx.post(f"{theirs}/compare", json={"prompt": "a"}, headers={"host": server.url[7:]}, timeout=60)
    assert stranger.status_code == 404
    assert httpx.get(f"{server.url}/metrics", headers={"host": theirs[7:]}, timeout=60).status_code == 404


def test_quotas_of_requests_and_tokens(server: LocalServer) -> None:
    assert httpx.post(f"{server.url}/compare", json={"prompt": "a"}, timeout=60).status_code == 401
    with Client(server.url, api_key=FEW, retries=0) as few:
        for _ in range(2):
            few.compare(prompt="the stone")
        with pytest.raises(QuotaExceeded, match="2 requests per minute, is used up") as refused:
            few.compare(prompt="the stone")
    assert refused.value.retry_after is not None
    assert 1 <= refused.value.retry_after <= 30
    assert refused.value.request_id is not None
    assert refused.value.request_id in server.log.read_text(encoding="utf-8")
    with Client(server.url, api_key=SHORT, retries=0) as short:
        used = tokens(short.compare(prompt="the stone is red", continuations=[" and blue", " and green"]))
        while used < 10:
            used += tokens(short.compare(prompt="the stone is red"))
        with pytest.raises(QuotaExceeded, match="10 tokens per minute, is used up"):
            short.compare(prompt="the stone")
    with Client(server.url, api_key=KEY, retries=0) as other:
        other.compare(prompt="the stone")
    metrics = httpx.get(f"{operations(server)}/metrics", timeout=60).text.splitlines()
    # Refused before they came to their route, and counted under it all the same.
    assert 'qconf_requests_total{route="/compare",status="401"} 1.0' in metrics
    assert 'qconf_requests_total{route="/compare",status="429"} 2.0' in metrics
    assert 'qconf_principal_requests_total{principal="few",status="429"} 1.0' in metrics
    assert 'qconf_principal_requests_total{principal="few",status="200"} 2.0' in metrics
    (counted,) = [line for line in metrics if line.startswith('qconf_principal_tokens_total{principal="short"}')]
    assert float(counted.split()[-1]) == used


@needs_chromium
def test_the_page_asks_for_a_key_and_keeps_it_in_its_tab(server: LocalServer) -> None:
    for path in ("/v1/models", "/page/recent"):
        assert httpx.get(server.url + path, timeout=60).status_code == 401
    with browsing() as browser:
        page = browser.new_page()
        page.goto(server.url)
        page.fill("#key", "a wrong key of mine")
        page.click("#key-form button")
        expect(page.locator("#key-error")).to_have_text("The server does not accept this key.")
        page.fill("#key", KEY)
        page.click("#key-form button")
        expect(page.locator("#base-model")).to_contain_text("pair/base")
        page.fill("#prompt", "Question: What is a cup made of?")
        page.click("#compare")
        expect(page.locator("#prompt-tokens .token").first).to_be_visible()
        expect(page.locator("#recent")).to_contain_text("mean KL")
        assert '-H "authorization: Bearer $QCONF_API_KEY"' in (page.text_content("#curl") or "")
        assert KEY not in page.content() + page.url
        page.reload()
        expect(page.locator("#prompt-tokens .token").first).to_be_visible()
        other = browser.new_page()
        other.goto(server.url)
        expect(other.locator("#key-dialog")).to_be_visible()


def test_the_page_is_not_on_the_operators_port(server: LocalServer) -> None:
    assert httpx.get(server.url, timeout=60).status_code == 200
    assert httpx.get(operations(server), timeout=60).status_code == 404
