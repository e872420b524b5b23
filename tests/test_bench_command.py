"""The bench as a command: a real process, a real socket, exit codes and what a person reads."""

import contextlib
import os
import re
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

from qconf.run.folder import read_run
from tests.fake_server import FakeServer, error
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
    """Serve the stand-in on a real socket."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = self.rfile.read(length)
            if len(body) < length:  # of a client that was killed while it sent
                return
            reply = fake.answer(httpx.Request(self.command, f"http://fake{self.path}", content=body))
            self.send_response(reply.status_code)
            self.send_header("content-length", str(len(reply.content)))
            self.end_headers()
            self.wfile.write(reply.content)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            pass  # a client that was killed leaves broken connections behind

    with Server(("127.0.0.1", 0), Handler) as server:
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
    manifest = read_run(tmp_path / "run").manifest
    assert manifest.subject is not None
    assert manifest.subject.settings.tasks == ["sky", "even"]
    assert (manifest.subject.settings.limit, manifest.concurrency) == (2, 2)
    assert [task.num_fewshot for task in manifest.subject.tasks] == [1, 1]


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
            # Shells have what they start in the background ignore it, and all that this starts would too.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while not fake.bodies("/compare"):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (
        stderr == f"interrupted; 0 of 40 items are kept in {tmp_path / 'run'}: "
        "run the same command with --resume to continue\n"
    )


@pytest.mark.parametrize("kill_after", [1, 11, 25])
def test_a_killed_run_goes_on_to_the_same_files(tasks: Path, tmp_path: Path, kill_after: int) -> None:
    """SIGKILL, which no process can prepare for."""

    def slow(request: httpx.Request) -> None:
        if request.url.path == "/compare":
            time.sleep(0.02)

    fake = FakeServer(slow)
    arguments = ["--tasks", "sky,even", "--include-path", str(tasks), "--concurrency", "3"]
    with listening(fake) as url:
        whole = bench("--url", url, *arguments, "--out", str(tmp_path / "whole"))
        assert whole.returncode == 0
        fake.received.clear()
        journal = tmp_path / "run" / "journal.jsonl"
        process = subprocess.Popen(
            command("--url", url, *arguments, "--out", str(tmp_path / "run")), stdout=subprocess.DEVNULL
        )
        while not journal.exists() or journal.read_bytes().count(b"\n") < 2 + kill_after:
            time.sleep(0.005)
        process.kill()
        process.wait()
        time.sleep(0.5)  # what it sent last may still be on its way
        kept = journal.read_bytes().count(b"\n") - 2
        fake.received.clear()
        done = bench("--url", url, *arguments, "--out", str(tmp_path / "run"), "--resume")
    assert (done.returncode, done.stderr) == (0, "")
    assert kill_after <= kept < 43
    assert len(fake.bodies("/compare")) == 43 - kept
    for name in ("items.parquet", "results.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not journal.exists()


def test_a_server_that_goes_away_ends_the_command_with_what_to_do(tasks: Path, tmp_path: Path) -> None:
    def gone(request: httpx.Request) -> httpx.Response | None:
        asked.append(request.content)
        return error(503, "going") if any(b"Is 7 " in each for each in asked) else None

    asked: list[bytes] = []

    with listening(FakeServer(gone)) as url:
        done = bench(
            "--url", url, "--tasks", "even", "--include-path", str(tasks), "--retries", "0", "--concurrency", "1",
            "--out", str(tmp_path / "run"),
        )  # fmt: skip
    assert done.returncode == 1
    assert re.fullmatch(
        r"error: no server answers any more: going; \d+ of 40 items are kept in .*: run the same command "
        r"with --resume to continue\n",
        done.stderr,
    )


USAGE = [
    pytest.param([], "nothing to replay: expected --tasks, --data, --corpus or --requests", id="nothing"),
    pytest.param(["--tasks", " , "], "nothing to replay", id="no names"),
    pytest.param(["--tasks", "a", "--resume"], "--resume needs --out", id="resume what"),
    pytest.param(["--corpus", "a", "--stride", "512"], "--stride is 512, expected less than a window", id="stride"),
    pytest.param(["--corpus", "a", "--window", "2"], "--window", id="window"),
    pytest.param(["--tasks", "a", "--expected-counts"], "--expected-counts are of corpora", id="counts"),
    pytest.param(["--tasks", "a", "--timeout", "0"], "expected more than 0 seconds, got 0", id="timeout"),
    pytest.param(["--tasks", "a", "--retries", "-1"], "--retries", id="retries"),
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


BAD_DATA = [
    pytest.param('{"prompt": "?"}', "line 1: 'choices': field required", id="no choices"),
    pytest.param('{"prompt": "?", "choices": []}', "line 1: 'choices': list should have at least 2 items", id="empty"),
    pytest.param('{"prompt": "?", "choices": ["a"]}', "at least 2 items", id="one choice"),
    pytest.param('{"prompt": "?", "choices": ["a", ""]}', "'choices[1]': string should have at least 1", id="blank"),
    pytest.param(
        '{"prompt": "?", "choices": ["a", "b"], "label": 2}', "'label' is 2, expected an index below 2", id="label"
    ),
    pytest.param(
        '{"prompt": "?", "choices": ["a", "b"], "label": "b"}', "'label': input should be a valid integer", id="text"
    ),
    pytest.param('{"prompt": "?", "choices": ["a", "b"], "labl": 1}', "'labl': extra inputs", id="misspelt"),
    pytest.param('{"prompt": "?", "choices": ["a", "b"]}\n\n{"prompt":', "line 3: Invalid JSON", id="JSON"),
    pytest.param("[1]", "line 1: the body: input should be an object", id="no object"),
    pytest.param("\n", "has no items: expected one JSON object per line", id="no items"),
    pytest.param(b'{"prompt": "\xff", "choices": ["a", "b"]}', "line 1: Invalid JSON", id="encoding"),
]


@pytest.mark.parametrize(("content", "message"), BAD_DATA)
def test_bad_data_is_told_with_its_line_before_anything_is_sent(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = tmp_path / "items.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    fake = FakeServer()
    with listening(fake) as url:
        done = bench("--url", url, "--data", str(path))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert fake.bodies("/compare") == []


def test_a_task_whose_data_cannot_be_fetched_is_told_before_anything_is_sent() -> None:
    fake = FakeServer()
    with listening(fake) as url:
        done = subprocess.run(
            command("--url", url, "--tasks", "arc_easy"),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: task 'arc_easy' cannot be loaded: Couldn't reach 'allenai/ai2_arc' on the Hub"
    )
    assert done.stderr.count("\n") == 1
    assert fake.bodies("/compare") == []


BAD_CORPUS = [
    pytest.param(b"a" * 100, [], "has 100 tokens: expected at least 512 of them", id="short"),
    pytest.param(b"a" * 100, ["--window", "100", "--stride", "9"], "expected at least 101 of them", id="short stride"),
    pytest.param(b"a" * 100, ["--window", "600"], "longer than the models' context of 512", id="window"),
    pytest.param(b"ab\xff", [], "is not UTF-8 text: byte 2 is 0xff", id="encoding"),
    pytest.param(None, [], "cannot read", id="missing"),
]


@pytest.mark.parametrize(("content", "options", "message"), BAD_CORPUS)
def test_a_bad_corpus_is_told(tmp_path: Path, content: bytes | None, options: list[str], message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with listening(FakeServer()) as url:
        done = bench("--url", url, "--corpus", str(path), *options)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert message in done.stderr


@pytest.mark.parametrize("package", ["rich", "typer", "pyarrow"])
def test_a_missing_package_names_the_extra(package: str) -> None:
    program = f"import sys; sys.modules['{package}'] = None; from client.bench.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: the package {package}")
    assert done.stderr.endswith("is missing: install qconf with its extra 'bench'\n")
