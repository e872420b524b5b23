"""The bench as a command: a real process, a real socket, exit codes and what a person reads."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from client.results import read_run
from tests.fake_server import FakeServer
from tests.fake_task import write_task


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    docs = [{"question": f"Is {n} even?", "choices": ["yes", "no"], "label": n % 2} for n in range(40)]
    write_task(folder, "even", docs)
    return write_task(folder, "sky")


@contextlib.contextmanager
def listening(fake: FakeServer) -> Iterator[str]:
    """The stand-in on a real socket."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            reply = fake.answer(httpx.Request(self.command, f"http://fake{self.path}", content=body))
            self.send_response(reply.status_code)
            self.send_header("content-length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "client.bench", *arguments]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, timeout=120)


def test_the_command_writes_a_run_and_says_so_line_by_line(tasks: Path, tmp_path: Path) -> None:
    with listening(FakeServer()) as url:
        done = bench(
            "--url", url, "--tasks", "sky, even,sky", "--include-path", str(tasks),
            "--limit", "2", "--num-fewshot", "1", "--concurrency", "2", "--out", str(tmp_path / "run"),
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "\n4/4 items, " in done.stdout
    read = read_run(tmp_path / "run")
    assert read.manifest.settings.tasks == ["sky", "even"]
    assert (read.manifest.settings.limit, read.manifest.settings.concurrency) == (2, 2)
    assert [task.num_fewshot for task in read.manifest.tasks] == [1, 1]


def test_ctrl_c_ends_the_command_cleanly(tasks: Path, tmp_path: Path) -> None:
    def slow(request: httpx.Request) -> None:
        if request.url.path == "/compare":
            time.sleep(0.5)

    fake = FakeServer(slow)
    with listening(fake) as url:
        arguments = ["--url", url, "--tasks", "even", "--concurrency", "1", "--out", str(tmp_path / "run")]
        process = subprocess.Popen(
            command(*arguments, "--include-path", str(tasks)),
            stdout=subprocess.PIPE,
            text=True,
            stderr=-1,
        )
        while not fake.bodies("/compare"):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert stderr == "interrupted after 0 of 40 items; nothing was written\n"
    assert not (tmp_path / "run").exists()


USAGE = [
    pytest.param([], "Missing option '--tasks'", id="no tasks"),
    pytest.param(["--tasks", " , "], "expected task names, separated by commas", id="no names"),
    pytest.param(["--tasks", "a", "--limit", "0"], "--limit", id="limit"),
    pytest.param(["--tasks", "a", "--concurrency", "0"], "--concurrency", id="concurrency"),
    pytest.param(["--tasks", "a", "--include-path", "/nowhere"], "'/nowhere' does not exist", id="folder"),
    pytest.param(["--tasks", "a", "--url", "localhost"], "error: base_url: expected http://host:port", id="url"),
    pytest.param(
        ["--tasks", "a", "--url", "http://127.0.0.1:9"], "error: cannot reach http://127.0.0.1:9", id="closed"
    ),
    pytest.param(["--tasks", "a", "--out", __file__ + "/run"], "error: cannot write the run to ", id="out"),
]


@pytest.mark.parametrize(("arguments", "message"), USAGE)
def test_wrong_usage_is_told_in_a_sentence(arguments: list[str], message: str) -> None:
    done = bench(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("package", ["rich", "typer", "pyarrow"])
def test_a_missing_package_names_the_extra(package: str) -> None:
    program = f"import sys; sys.modules['{package}'] = None; from client.bench import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the package {package}")
    assert done.stderr.endswith("is missing: install qconf with its extra 'bench'\n")
