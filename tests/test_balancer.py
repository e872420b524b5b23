"""Envoy as the manifests configure it, in front of stand-ins: what it repeats, leaves out, and passes on."""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from client.routing import CONTEXT_HEADER
from tests.balancer import balancer, needs_envoy

pytestmark = needs_envoy
PATIENCE = 60


class Backend(BaseHTTPRequestHandler):
    """Answers with what is set for its server, and counts what it was asked."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        self._answer(503 if self.server.draining else 200, b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.asked += 1
        if self.server.stream:
            self._stream()
        else:
            self._answer(self.server.status, json.dumps({"server": self.server.server_port}).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", "7")
        self.end_headers()
        self.wfile.write(body)

    def _stream(self) -> None:
        """Send a first event, and the last one only when the client has the first."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"7\r\nfirst\n\n\r\n")
        self.wfile.flush()
        assert self.server.received.wait(PATIENCE)
        self.wfile.write(b"6\r\nlast\n\n\r\n0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A stand-in on a port of its own."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Backend)
        self.asked, self.status = 0, 200
        self.draining = self.stream = False
        self.received = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def servers() -> Iterator[list[Server]]:
    with ExitStack() as stack:
        found = [stack.enter_context(Server()) for _ in range(3)]
        for each in found:
            thread = threading.Thread(target=each.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(each.shutdown)
        yield found


@pytest.fixture
def client(servers: list[Server], tmp_path: Path) -> Iterator[httpx.Client]:
    with (
        balancer(tmp_path, [each.url for each in servers]) as envoy,
        httpx.Client(base_url=envoy.url, timeout=PATIENCE) as http,
    ):
        yield http


def ask(client: httpx.Client, context: int) -> httpx.Response:
    return client.post("/compare", json={}, headers={CONTEXT_HEADER: str(context)})


def chosen(client: httpx.Client, contexts: int = 60) -> list[int]:
    """Return the port of the server that answers each context."""
    return [ask(client, context).json()["server"] for context in range(contexts)]


def until(true: Callable[[], bool]) -> None:
    for _ in range(PATIENCE * 10):
        if true():
            return
        threading.Event().wait(0.1)
    raise AssertionError("it has not become true")


def test_a_server_that_refuses_loses_its_requests_to_others(servers: list[Server], client: httpx.Client) -> None:
    before = chosen(client)
    assert len(Counter(before)) == 3
    assert chosen(client) == before
    servers[0].status = 503
    after = chosen(client)
    assert servers[0].server_port not in after
    assert [now for was, now in zip(before, after, strict=True) if was != servers[0].server_port] == [
        was for was in before if was != servers[0].server_port
    ]


def test_a_server_that_is_not_ready_is_left_out_and_comes_back(servers: list[Server], client: httpx.Client) -> None:
    before = chosen(client)
    servers[0].draining = True
    until(lambda: servers[0].server_port not in chosen(client))
    after = chosen(client)
    # Most of what the others had stays where it was: Maglev moves little besides.
    stayed = [was == now for was, now in zip(before, after, strict=True) if was != servers[0].server_port]
    assert sum(stayed) > 0.8 * len(stayed)
    servers[0].draining = False
    until(lambda: chosen(client) == before)


def test_an_overloaded_servers_answer_goes_to_the_client(servers: list[Server], client: httpx.Client) -> None:
    for each in servers:
        each.status = 429
    reply = ask(client, 0)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "7")
    assert sum(each.asked for each in servers) == 1


def test_where_all_refuse_the_client_gets_the_refusal(servers: list[Server], client: httpx.Client) -> None:
    for each in servers:
        each.status = 503
    reply = ask(client, 0)
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "7")
    assert not any(name.startswith("x-envoy") for name in reply.headers)


def test_a_stream_is_passed_on_as_it_comes(servers: list[Server], client: httpx.Client) -> None:
    for each in servers:
        each.stream = True
    with client.stream("POST", "/compare", json={}) as reply:
        lines = reply.iter_lines()
        assert next(lines) == "first"
        for each in servers:
            each.received.set()
        assert [line for line in lines if line] == ["last"]
