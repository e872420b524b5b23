"""Servers that are there for TCP and for nothing else: every wait of the client ends."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client import AsyncClient, Client, ConnectionFailed, TimedOut

TIMEOUT = 0.5
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


@pytest.fixture(params=[b"", b"HTTP/1.1 200", HEAD, HEAD + b'{"object": '], ids=["nothing", "line", "head", "body"])
def silent(request: pytest.FixtureRequest) -> Iterator[str]:
    """A server that reads a request, sends a part of a reply, and then is silent on an open connection."""
    held: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            held.append(connection)
            connection.recv(2**16)
            connection.sendall(request.param)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve, args=(listener,))
        serving.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    serving.join()
    for connection in held:
        connection.close()


async def test_clients_give_up(silent: str) -> None:
    started = time.monotonic()
    with Client(silent, timeout=TIMEOUT, retries=0) as client:
        with pytest.raises(TimedOut, match="did not reply in time"):
            client.compare(prompt="a")
        assert not client.ready()
    async with AsyncClient(silent, timeout=TIMEOUT, retries=0) as asynchronous:
        with pytest.raises(TimedOut, match="did not reply in time"):
            await asynchronous.compare(prompt="a")
    assert 3 * TIMEOUT <= time.monotonic() - started < 20 * TIMEOUT


def test_the_bench_gives_up(silent: str, tmp_path: Path) -> None:
    data = tmp_path / "items.jsonl"
    data.write_text('{"prompt": "?", "choices": ["a", "b"]}\n')
    options = [
        "--url",
        silent,
        "--data",
        str(data),
        "--out",
        str(tmp_path / "run"),
        "--timeout",
        str(TIMEOUT),
        "--retries",
        "0",
    ]
    command = [sys.executable, "-m", "client.bench", *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "did not reply in time" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_backlog_that_is_full_is_no_connection() -> None:
    """The kernel drops what it cannot queue: connecting itself takes too long."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        waiting = [socket.socket() for _ in range(3)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(listener.getsockname())
        with Client(url, timeout=TIMEOUT, retries=0) as client, pytest.raises((TimedOut, ConnectionFailed)):
            client.models()
        for each in waiting:
            each.close()
