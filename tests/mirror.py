"""A real proxy, nginx as deploy/shadow/nginx.conf has it, in front of a server that notes what it was sent."""

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx

from demo.local_server import free_port

RECIPE = Path(__file__).parent.parent / "deploy" / "shadow" / "nginx.conf"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
START_SECONDS = 10
MIRROR = re.compile(r"^\s+mirror .*\n", re.MULTILINE)


def nginx() -> str | None:
    """Return the path of nginx, if it is installed."""
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin")


@dataclass
class Primary:
    """A server that answers every call with the same bytes, and notes each call's path and body."""

    url: str
    calls: list[tuple[str, bytes]] = field(default_factory=list)


@contextmanager
def primary(answer: bytes, seconds: float = 0) -> Iterator[Primary]:
    """Run a primary that takes some time for each answer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            running.calls.append((self.path, body))
            time.sleep(seconds)
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return "Thu, 01 Jan 2026 00:00:00 GMT"

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        running = Primary(f"http://127.0.0.1:{server.server_port}")
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def proxy(folder: Path, primary_url: str, qconf_url: str, *, mirror: bool = True) -> Iterator[str]:
    """Run nginx with the recipe, with or without its mirror, and return its URL."""
    folder.mkdir()
    port = free_port()
    recipe = RECIPE.read_text(encoding="utf-8")
    for old, new in (
        ("server primary:8000", f"server {primary_url.removeprefix('http://')}"),
        ("server qconf:8000", f"server {qconf_url.removeprefix('http://')}"),
        ("listen 80", f"listen 127.0.0.1:{port}"),
        ("/var/log/nginx", str(folder)),
    ):
        assert recipe.count(old) == 1
        recipe = recipe.replace(old, new)
    if not mirror:
        recipe = MIRROR.sub("", recipe)
    paths = "".join(f"{name}_temp_path {folder / name};\n" for name in TEMPORARY)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nworker_processes 1;\npid {folder / 'pid'};\nerror_log {folder / 'error.log'};\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}{recipe}}}\n",
        encoding="utf-8",
    )
    program = nginx()
    assert program is not None
    process = subprocess.Popen([program, "-p", folder, "-e", folder / "error.log", "-c", config])
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(url)
        except httpx.ConnectError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("nginx did not start")
