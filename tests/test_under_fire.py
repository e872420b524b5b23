"""A real server with API keys: who is admitted, what is logged, clients that leave, and a stop under load."""

import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from client import Client, Unauthorized
from demo.local_server import STOP_SECONDS, LocalServer, running_server

KEY, SECRET = "sk-0123456789abcdef", "xyzzy plugh"
AUTHORIZED = {"authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    file = tmp_path_factory.mktemp("keys") / "keys"
    file.write_text(f"tests = {KEY}\n")
    options = ("--api-key-file", str(file), "--grace-seconds", "1", "--log-level", "INFO")
    with running_server("--demo", *options) as live:
        yield live


def in_flight(url: str) -> dict[str, float]:
    lines = httpx.get(f"{url}/metrics", headers=AUTHORIZED, timeout=60).text.splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if "_in_flight " in line and line.startswith("qconf_"))
    return {name: float(value) for name, value in found.items()}


def test_a_key_is_asked_for_and_probes_need_none(guarded: LocalServer) -> None:
    for path in ("/v1/models", "/metrics", "/docs", "/openapi.json", "/nothing"):
        assert httpx.get(guarded.url + path).status_code == 401
    assert httpx.get(f"{guarded.url}/health").json() == {"status": "ok"}
    with Client(guarded.url, retries=0) as stranger, pytest.raises(Unauthorized, match="'Authorization' is missing"):
        stranger.models()
    with Client(guarded.url, api_key=KEY) as qconf:
        assert qconf.compare(prompt="the stone").summary.tokens > 0
    assert (
        'qconf_rejections_total{reason="authentication_error"}'
        in httpx.get(f"{guarded.url}/metrics", headers=AUTHORIZED).text
    )


def test_openais_package_works_unchanged(guarded: LocalServer) -> None:
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=KEY, max_retries=0) as client:
        assert client.completions.create(model="base", prompt="the stone", max_tokens=1).choices[0].text
    with (
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_every_reply_has_its_requests_id_and_headers_for_browsers(guarded: LocalServer) -> None:
    for path, status in (("/health", 200), ("/v1/models", 401)):
        reply = httpx.get(guarded.url + path, headers={"x-request-id": "trace-7"})
        assert (reply.status_code, reply.headers["x-request-id"]) == (status, "trace-7")
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "server" not in reply.headers
    odd = httpx.get(f"{guarded.url}/health", headers={"x-request-id": "a b"}).headers["x-request-id"]
    assert len(odd) == 32


def test_a_connection_outlives_what_clients_keep_it_for(guarded: LocalServer) -> None:
    """Five seconds is the default of httpx, and so of the openai package."""
    with contextlib.closing(http.client.HTTPConnection(urlsplit(guarded.url).netloc, timeout=10)) as connection:
        for pause in (0, 7):
            time.sleep(pause)
            connection.request("GET", "/health")
            assert connection.getresponse().read() == b'{"status":"ok"}'


def test_the_log_holds_neither_prompts_nor_keys(guarded: LocalServer) -> None:
    for body in (
        {"prompt": SECRET, "continuations": [SECRET]},
        {"prompt": SECRET, "continuations": [[10**7]]},
        {"prompt": SECRET, SECRET: 1},
        {"messages": [{"role": SECRET, "content": SECRET}]},
    ):
        httpx.post(f"{guarded.url}/compare", json=body, headers=AUTHORIZED, timeout=60)
    httpx.post(f"{guarded.url}/compare", content=SECRET.encode(), headers=AUTHORIZED)
    httpx.get(f"{guarded.url}/v1/models", headers={"authorization": f"Bearer {SECRET}"})
    log = guarded.log.read_text()
    assert "/compare" in log
    assert SECRET not in log
    assert KEY not in log


def test_clients_that_leave_leave_nothing_behind(guarded: LocalServer) -> None:
    entries = [{"prompt": [2 + (i + j) % 300 for j in range(200)], "detail": "summary"} for i in range(20)]
    body = json.dumps({"requests": entries}).encode()
    head = (
        "POST /compare/batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    address = urlsplit(guarded.url)
    for number in range(100):
        with socket.create_connection((address.hostname, address.port)) as connection:
            connection.sendall(head.encode() + body[: len(body) // (1 + number % 3)])
            if number % 10 == 0:
                time.sleep(0.05)
    deadline = time.monotonic() + 60
    while any(in_flight(guarded.url).values()):
        assert time.monotonic() < deadline, in_flight(guarded.url)
        time.sleep(0.2)
    assert len(in_flight(guarded.url)) == 3


def test_what_is_not_done_when_the_server_stops_is_told_to_come_back(guarded: LocalServer) -> None:
    entries = [{"prompt": [2 + (i * j) % 300 for j in range(400)], "detail": "summary"} for i in range(1000)]
    replies: list[httpx.Response] = []

    def ask() -> None:
        replies.append(
            httpx.post(
                f"{guarded.url}/compare/batch", json={"requests": entries}, headers=AUTHORIZED, timeout=STOP_SECONDS
            )
        )

    workers = [threading.Thread(target=ask) for _ in range(3)]
    for worker in workers:
        worker.start()
    deadline = time.monotonic() + 60
    while in_flight(guarded.url)["qconf_requests_in_flight"] < 3:
        assert time.monotonic() < deadline
    assert guarded.stop() == 0
    for worker in workers:
        worker.join()
    assert [reply.status_code for reply in replies] == [503] * 3
    for reply in replies:
        assert reply.json()["error"]["type"] == "unavailable"
        assert int(reply.headers["retry-after"]) > 0
    assert "Traceback" not in guarded.log.read_text()
