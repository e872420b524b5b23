"""``python -m benchmarks.faults``: how long the server takes to notice a fault, to answer, and to be gone.

The figures of docs/explanation/faults.md, on the demo pair; each fault is real. Starting takes most of the run.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from benchmarks.soak_traffic import VOCABULARY
from demo.local_server import STOP_SECONDS, LocalServer, running_server
from qconf.demo import PAIR

STALLED_SECONDS = 5
GRACE_SECONDS = 2
CLIENTS = 100
BATCH = {"requests": [{"prompt": [5 + (i * j) % (VOCABULARY - 5) for j in range(400)]} for i in range(500)]}
"""Seconds of work."""


def main() -> None:
    """Print one line for each fault."""
    with running_server("--demo") as server:
        print(f"{CLIENTS} clients leave: nothing in flight after {left(server):.1f} s")
        print(f"half-closed, and work for longer: closed after {half_closed(server):.1f} s")
        report(server, "engine killed", lambda: engine_of(server).kill())
    with running_server("--demo", "--stalled-seconds", str(STALLED_SECONDS)) as server:
        report(server, f"engine hangs (--stalled-seconds {STALLED_SECONDS})", lambda: hang(server))
    with running_server("--demo", "--grace-seconds", str(GRACE_SECONDS)) as server:
        report(server, f"SIGTERM under load (--grace-seconds {GRACE_SECONDS})", server.process.terminate)
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as taken:
        print(f"address taken: refused after {refused('--port', str(taken.getsockname()[1])):.1f} s")
        truncated = Path(folder) / "model.safetensors"
        for file in (PAIR / "base").iterdir():
            (Path(folder) / file.name).write_bytes(file.read_bytes())
        os.truncate(truncated, truncated.stat().st_size - 1)
        pair = ("--model", folder, "--quantized", str(PAIR / "quantized"))
        print(f"checkpoint truncated: refused after {refused(*pair):.1f} s")


def report(server: LocalServer, name: str, fault: Callable[[], object]) -> None:
    """Bring the fault about while a batch is in flight, and print when its client was answered and the server gone."""
    answered: list[tuple[float, str]] = []

    def ask() -> None:
        reply = httpx.post(f"{server.url}/compare/batch", json=BATCH, timeout=STOP_SECONDS)
        failed = sum("error" in each for each in reply.json().get("results", []))
        answered.append(
            (time.monotonic(), f"{reply.status_code} with {failed} errors" if failed else str(reply.status_code))
        )

    asking = threading.Thread(target=ask)
    asking.start()
    while not in_flight(server):
        time.sleep(0.01)
    started = time.monotonic()
    fault()
    code = server.process.wait(STOP_SECONDS)
    gone = time.monotonic() - started
    asking.join()
    ((when, status),) = answered
    print(f"{name}: {status} after {when - started:.1f} s, exit code {code} after {gone:.1f} s", flush=True)


def left(server: LocalServer) -> float:
    """Return the seconds from the last of many clients that leave to nothing in flight."""
    for _ in range(CLIENTS):
        with connection(server) as client:
            client.sendall(request())
    started = time.monotonic()
    # The last requests may not have been read yet.
    quiet = 0
    while quiet < 10:
        quiet = 0 if in_flight(server) else quiet + 1
        time.sleep(0.02)
    return time.monotonic() - started


def half_closed(server: LocalServer) -> float:
    """Return the seconds that a client which sends no more is kept while its work goes on."""
    with connection(server) as client:
        client.sendall(request())
        client.shutdown(socket.SHUT_WR)
        started = time.monotonic()
        assert client.recv(1) == b"", "the work was too short"
        return time.monotonic() - started


def refused(*options: str) -> float:
    """Return the seconds until the server refuses to start."""
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "server", *options], capture_output=True, check=False)
    assert done.returncode == 2
    return time.monotonic() - started


def hang(server: LocalServer) -> None:
    """Stop the engine's process without ending it."""
    engine_of(server).send_signal(signal.SIGSTOP)


def engine_of(server: LocalServer) -> psutil.Process:
    """Return the process of the engine."""
    children = psutil.Process(server.process.pid).children()
    (engine,) = [child for child in children if child.name().startswith("VLLM::EngineCor")]
    return engine


def in_flight(server: LocalServer) -> float:
    """Return the requests in flight and the tokens in the engine."""
    lines = httpx.get(f"{server.url}/metrics", timeout=STOP_SECONDS).text.splitlines()
    names = ("qconf_requests_in_flight ", "qconf_tokens_in_flight ")
    return sum(float(line.split()[-1]) for line in lines if line.startswith(names))


def connection(server: LocalServer) -> socket.socket:
    """Connect to the server."""
    address = urlsplit(server.url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=STOP_SECONDS)


def request() -> bytes:
    """Return the batch as it is sent."""
    body = json.dumps(BATCH).encode()
    lines = (
        "POST /compare/batch HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "",
        "",
    )
    head = "\r\n".join(lines)
    return head.encode() + body


if __name__ == "__main__":
    main()
