"""Two real servers behind one replay: the run is that of one server, also when one of them is killed."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.bench.journal import JOURNAL
from demo.local_server import LocalServer, running_server
from qconf.demo import TASKS
from qconf.run.folder import read_run
from tests.conftest import EXACT
from tests.test_restart import kill
from tests.test_shadow_live import total

ITEMS = 6 * 60
FILES = ("items.parquet", "results.json")
REPLAY = ("client.bench", "--tasks", "demo", "--include-path", str(TASKS), "--limit", "60", "--quiet")


@pytest.fixture(scope="module")
def second() -> Iterator[LocalServer]:
    """Start another server like ``exact``; the last test kills it."""
    with running_server(*EXACT) as live:
        yield live


def started(out: Path, *urls: str) -> subprocess.Popen[str]:
    """Start a replay against servers."""
    servers = [argument for url in urls for argument in ("--url", url)]
    command = [sys.executable, "-m", *REPLAY, *servers, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(bench: subprocess.Popen[str], out: Path) -> list[bytes]:
    """Wait for a replay without failed items, and return its files."""
    stdout, stderr = bench.communicate(timeout=600)
    assert (bench.returncode, stderr) == (0, ""), stdout
    run = read_run(out)
    assert run.manifest.counts.model_dump() == {"items": ITEMS, "ok": ITEMS, "failed": 0}
    assert len({(row.task, row.doc_id) for row in run.items()}) == ITEMS
    return [(out / name).read_bytes() for name in FILES]


def compared(server: LocalServer) -> float:
    """Return how many comparisons a server has answered."""
    return total(server.url, "qconf_comparisons_total")


@pytest.fixture(scope="module")
def alone(exact: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Return the files of a run on one server."""
    out = tmp_path_factory.mktemp("alone") / "run"
    return finished(started(out, exact.url), out)


def test_a_run_on_two_servers_is_that_of_one(
    alone: list[bytes], exact: LocalServer, second: LocalServer, tmp_path: Path
) -> None:
    before = [compared(each) for each in (exact, second)]
    out = tmp_path / "run"
    assert finished(started(out, exact.url, second.url), out) == alone
    shares = [compared(each) - was for each, was in zip((exact, second), before, strict=True)]
    assert sum(shares) == ITEMS
    assert min(shares) > 0
    assert read_run(out).manifest.url == [exact.url, second.url]


def test_a_server_that_is_killed_loses_nothing(
    alone: list[bytes], exact: LocalServer, second: LocalServer, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    bench = started(out, exact.url, second.url)
    journal = out / JOURNAL
    while not journal.exists() or journal.read_bytes().count(b"\n") < ITEMS // 6:
        assert bench.poll() is None
        time.sleep(0.05)
    kill(second)
    assert finished(bench, out) == alone
