"""Real proxies, nginx and Envoy as deploy/shadow has them, in front of a server that notes what it was sent."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx

from demo.local_server import free_port

RECIPES = Path(__file__).parent.parent / "deploy" / "shadow"
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
START_SECONDS = 10
MIRROR = re.compile(r"^\s+(mirror |request_mirror_policies:).*\n", re.MULTILINE)
MIRRORS_ERRORS = re.compile(
    r'^envoy_cluster_upstream_rq_xx{envoy_response_code_class="5",envoy_cluster_name="mirror"} (\d+)', re.MULTILINE
)


def nginx() -> str | None:
    """Return the path of nginx, if it is installed."""
    return shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin")


def envoy() -> str | None:
    """Return the path of Envoy, if it is installed."""
    return shutil.which("envoy", path=str(Path(sys.executable).parent))


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


@dataclass(frozen=True)
class Proxy:
    """A running proxy: its URL, and how many of the mirror's requests it says that qconf did not answer."""

    url: str
    unanswered: Callable[[], int]


@contextmanager
def nginx_proxy(folder: Path, primary_url: str, qconf_url: str, *, mirror: bool = True) -> Iterator[Proxy]:
    """Run nginx with the recipe, with or without its mirror."""
    folder.mkdir()
    port = free_port()
    recipe = _recipe(
        "nginx.conf",
        mirror,
        ("server primary:8000", f"server {_address(primary_url)}"),
        ("server qconf:8000", f"server {_address(qconf_url)}"),
        ("listen 80", f"listen 127.0.0.1:{port}"),
        ("/var/log/nginx", str(folder)),
    )
    paths = "".join(f"{name}_temp_path {folder / name};\n" for name in TEMPORARY)
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off;\nworker_processes 1;\npid {folder / 'pid'};\nerror_log {folder / 'error.log'};\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{paths}{recipe}}}\n",
        encoding="utf-8",
    )
    program = nginx()
    assert program is not None
    url = f"http://127.0.0.1:{port}"
    with _running(url, program, "-p", folder, "-e", folder / "error.log", "-c", config):
        yield Proxy(url, lambda: (folder / "qconf_mirror.log").read_text().count(" 502 "))


@contextmanager
def envoy_proxy(folder: Path, primary_url: str, qconf_url: str, *, mirror: bool = True) -> Iterator[Proxy]:
    """Run Envoy with the recipe, with or without its mirror."""
    folder.mkdir()
    port, mirrors_port, admin_port = free_port(), free_port(), free_port()
    recipe = _recipe(
        "envoy.yaml",
        mirror,
        ("address: 0.0.0.0, port_value: 80}", f"address: 127.0.0.1, port_value: {port}}}"),
        ("address: primary, port_value: 8000", _socket_address(primary_url)),
        ("address: qconf, port_value: 8000", _socket_address(qconf_url)),
        ("port_value: 10001", f"port_value: {mirrors_port}"),
        ("port_value: 9901", f"port_value: {admin_port}"),
    )
    config = folder / "envoy.yaml"
    config.write_text(recipe, encoding="utf-8")
    program = envoy()
    assert program is not None
    url = f"http://127.0.0.1:{port}"

    def unanswered() -> int:
        statistics = httpx.get(f"http://127.0.0.1:{admin_port}/stats/prometheus").text
        return sum(map(int, MIRRORS_ERRORS.findall(statistics)))

    options = ("--log-level", "error", "--concurrency", "1", "--disable-hot-restart")
    with _running(url, program, *options, "--config-path", config):
        yield Proxy(url, unanswered)


def _address(url: str) -> str:
    return url.removeprefix("http://")


def _socket_address(url: str) -> str:
    host, port = _address(url).split(":")
    return f"address: {host}, port_value: {port}"


def _recipe(name: str, mirror: bool, *replaced: tuple[str, str]) -> str:
    """Return a recipe with other addresses, and without its mirror if asked."""
    recipe = (RECIPES / name).read_text(encoding="utf-8")
    for old, new in replaced:
        assert old in recipe
        recipe = recipe.replace(old, new)
    assert MIRROR.search(recipe)
    return recipe if mirror else MIRROR.sub("", recipe)


@contextmanager
def _running(url: str, *command: str | Path) -> Iterator[None]:
    process = subprocess.Popen(command)
    try:
        _wait(url, process)
        yield
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(url)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("the proxy did not start")
