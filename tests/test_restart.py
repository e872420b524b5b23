"""A real server that dies in the middle of a replay and comes back: nothing is lost, nothing is scored twice."""

import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from client.bench.journal import JOURNAL
from demo.local_server import LocalServer, running_server
from qconf.demo import TASKS
from qconf.run.folder import read_run

ITEMS = 1800


def kill(server: LocalServer) -> None:
    """Send SIGKILL to the server and the processes of its engine."""
    parent = psutil.Process(server.process.pid)
    family = [*parent.children(recursive=True), parent]
    for process in family:
        process.kill()
    server.process.wait()
    psutil.wait_procs(family, timeout=30)


def test_a_server_that_is_killed_and_started_again(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with running_server("--demo") as first:
        command = ["client.bench", "--url", first.url, "--tasks", "demo", "--include-path", str(TASKS)]
        bench = subprocess.Popen(
            [sys.executable, "-m", *command, "--out", str(out)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        journal = out / JOURNAL
        while not journal.exists() or journal.read_bytes().count(b"\n") < 200:
            assert bench.poll() is None
            time.sleep(0.05)
        kill(first)
    answered = journal.read_bytes().count(b"\n")
    assert answered < ITEMS
    with running_server("--demo", port=urlsplit(first.url).port or 0):
        stdout, stderr = bench.communicate(timeout=300)
    assert (bench.returncode, stderr) == (0, ""), stdout
    run = read_run(out)
    assert run.manifest.counts.model_dump() == {"items": ITEMS, "ok": ITEMS, "failed": 0}
    assert len({(row.task, row.doc_id) for row in run.items()}) == ITEMS
    assert not journal.exists()
