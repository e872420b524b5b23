"""A real Ray cluster on this machine, and Serve on it, in processes of their own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml  # type: ignore[import-untyped]

from demo.local_server import free_port

ROOT = Path(__file__).parent.parent
SECONDS = 300
"""To wait for anything: nothing here is timed, and a test on a busy machine must not fail for it."""
AGENTS = ("dashboard-agent-grpc", "dashboard-agent-listen", "runtime-env-agent", "metrics-export")
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT),
    "HF_HUB_OFFLINE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Tests beside this one may need the memory.
    "RAY_memory_monitor_refresh_ms": "0",
    # By default workers run at niceness 15, and on a busy machine not at all.
    "RAY_worker_niceness": "0",
    # All requests come through one proxy: without this, it would send all to the replica on its own node.
    "RAY_SERVE_PROXY_PREFER_LOCAL_NODE_ROUTING": "0",
}


class Node:
    """A node of the cluster."""

    def __init__(self, *options: str) -> None:
        # Of ports that it chooses itself, Ray waits no more than 15 s to learn which ones they are.
        ports = [f"--{name}-port={free_port()}" for name in AGENTS]
        fixed = ["--block", "--num-cpus=1", "--object-store-memory=100000000", "--include-log-monitor=false"]
        self._process = _started(_program("ray"), "start", *options, *ports, *fixed, "--disable-usage-stats")

    @property
    def is_running(self) -> bool:
        """Whether the node has not ended."""
        return self._process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Return all processes of the node, those of replicas and engines included; none of one that has ended."""
        if not self.is_running:
            return []
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def replicas(self) -> list[psutil.Process]:
        """Return the processes of the node that are replicas."""
        return [each for each in self.processes() if _name(each).startswith("ray::ServeReplica")]

    def kill(self) -> None:
        """Take the node's power away."""
        for each in self.processes():
            each.kill()
        self._process.wait()

    def stop(self) -> None:
        """Stop the node."""
        if self.is_running:
            self._process.terminate()
            self._process.wait(SECONDS)


@dataclass(frozen=True)
class Cluster:
    """Two nodes with room for a replica each: one with Serve's only proxy, at ``url``, and another one."""

    head: Node
    other: Node
    url: str

    def targets(self) -> list[str]:
        """Return the addresses of the replicas' metrics; none while no replica can be asked for them."""
        try:
            reply = httpx.get(f"{self.url}/targets", timeout=10)
        except httpx.TransportError:
            return []
        return [target for group in reply.json() for target in group["targets"]] if reply.is_success else []


@contextmanager
def running_cluster(settings: dict[str, Any]) -> Iterator[Cluster]:
    """Start two nodes, and serve a pair with these settings as ``deploy/ray/serve.yaml`` has it, twice."""
    # Ray's sockets are in it, and their paths may not be long.
    with tempfile.TemporaryDirectory(prefix="ray-") as folder, ExitStack() as stack:
        port, gcs = free_port(), free_port()
        ports = f"--port={gcs}", f"--ray-client-server-port={free_port()}"
        head = Node("--head", *ports, f"--temp-dir={folder}/ray", "--include-dashboard=false")
        stack.callback(head.stop)
        wait_until(lambda: _listens(gcs), "the head of the cluster listens", head)
        other = Node(f"--address=127.0.0.1:{gcs}")
        stack.callback(other.stop)
        config = Path(folder) / "serve.yaml"
        config.write_text(yaml.safe_dump(_configured(port, settings)), encoding="utf-8")
        serve = _started(_program("serve"), "run", str(config), f"--address=127.0.0.1:{gcs}")
        stack.callback(_interrupt, serve)
        cluster = Cluster(head, other, f"http://127.0.0.1:{port}/llama")
        wait_until(lambda: len(cluster.targets()) == 2, "two replicas are ready", head, other)
        yield cluster


def wait_until(condition: Callable[[], bool], what: str, *nodes: Node) -> None:
    """Wait until the condition holds, while the nodes run."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not so after {SECONDS} s: {what}"
        assert all(node.is_running for node in nodes), f"a node has ended before: {what}"
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _configured(port: int, settings: dict[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "ray" / "serve.yaml").read_text(encoding="utf-8"))
    config |= {"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1", "port": port}}
    application = config["applications"][0] | {"args": settings}
    (deployment,) = application["deployments"]
    deployment |= {"ray_actor_options": {"num_cpus": 1}}
    deployment["autoscaling_config"] |= {"min_replicas": 2, "max_replicas": 2}
    return config | {"applications": [application]}


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _started(*command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # Shells have what they start in the background ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    process.wait(SECONDS)


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
