"""The end of a server: on request, or because its engine died."""

import socket
import subprocess
import sys
import threading
import time

import httpx
import psutil

from benchmarks.faults import engine_of
from demo.local_server import STOP_SECONDS, running_server
from tests.conftest import FIXTURES

PAIR = (
    "--model",
    str(FIXTURES / "autogptq-0.7.1-base"),
    "--quantized",
    str(FIXTURES / "autogptq-0.7.1-quantized"),
)


def test_sigterm_finishes_running_work_and_exits_with_zero() -> None:
    entries = [{"prompt": [2 + (i + j) % 900 for j in range(200)], "detail": "summary"} for i in range(200)]
    replies: list[httpx.Response] = []
    with running_server(*PAIR) as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        worker = threading.Thread(
            target=lambda: replies.append(
                httpx.post(f"{server.url}/compare/batch", json={"requests": entries}, timeout=STOP_SECONDS)
            )
        )
        worker.start()
        time.sleep(0.5)
        assert server.stop() == 0
        worker.join()
        assert not psutil.wait_procs(children, timeout=5)[1]
    assert replies[0].status_code == 200
    assert all("error" not in result for result in replies[0].json()["results"])


def test_a_dead_engine_ends_the_server_with_an_error() -> None:
    with running_server(*PAIR) as server:
        engine_of(server).kill()
        assert server.process.wait(STOP_SECONDS) == 1
        assert "the engine has died" in server.log.read_text()


def test_an_address_that_is_taken_is_refused_before_weights_load() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "server", "--demo", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=STOP_SECONDS)
    assert done.returncode == 2
    assert done.stderr == (f"qconf-server: error: cannot listen on 127.0.0.1 port {port}: Address already in use\n")
    assert done.stdout == ""
