"""Two real servers behind one replay: the run is that of one server, also when one of them is killed."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from client import Client
from client.bench.journal import JOURNAL
from demo.local_server import LocalServer, running_server
from qconf.demo import TASKS
from qconf.run.folder import read_run
from tests.balancer import balancer, needs_envoy
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


def started(out: Path, *urls: str, concurrency: int = 32) -> subprocess.Popen[str]:
    """Start a replay against servers."""
    servers = [argument for url in urls for argument in ("--url", url)]
    command = [sys.executable, "-m", *REPLAY, *servers, "--concurrency", str(concurrency), "--out", str(out)]
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
    out = tmp_path / "run"
    answered = answering(exact, second, lambda: finished(started(out, exact.url, second.url), out))
    assert [(out / name).read_bytes() for name in FILES] == alone
    assert sum(answered) == ITEMS
    assert min(answered) > 0
    assert read_run(out).manifest.url == [exact.url, second.url]


@pytest.fixture(scope="module")
def through(exact: LocalServer, second: LocalServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start Envoy in front of both."""
    with balancer(tmp_path_factory.mktemp("envoy"), [exact.url, second.url]) as envoy:
        yield envoy.url


def answering(exact: LocalServer, second: LocalServer, send: Callable[[], object]) -> list[float]:
    """Return how many comparisons each server answered of those that are sent."""
    before = compared(exact), compared(second)
    send()
    return [compared(exact) - before[0], compared(second) - before[1]]


@needs_envoy
def test_a_balancer_sends_a_context_to_one_server(exact: LocalServer, second: LocalServer, through: str) -> None:
    with Client(through) as client:

        def send(number: int) -> None:
            for answer in (" clay", " wax", " glass"):
                client.compare(prompt=f"Question {number}: What is a cup made of?\nAnswer:", continuations=[answer])

        answered = [answering(exact, second, partial(send, number)) for number in range(16)]
    assert all(sorted(each) == [0, 3] for each in answered)
    assert [0, 3] in answered
    assert [3, 0] in answered


@needs_envoy
def test_a_balancer_spreads_requests_without_a_context(exact: LocalServer, second: LocalServer, through: str) -> None:
    def send() -> None:
        for _ in range(40):
            httpx.post(f"{through}/compare", json={"prompt": "What is a cup made of?"}).raise_for_status()

    answered = answering(exact, second, send)
    assert sum(answered) == 40
    assert min(answered) > 0


@needs_envoy
def test_a_run_through_a_balancer_is_that_of_one_server(
    alone: list[bytes], exact: LocalServer, second: LocalServer, through: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    answered = answering(exact, second, lambda: finished(started(out, through), out))
    assert [(out / name).read_bytes() for name in FILES] == alone
    assert sum(answered) == ITEMS
    assert min(answered) > 0


@needs_envoy
def test_a_server_that_is_killed_loses_nothing(
    alone: list[bytes], exact: LocalServer, second: LocalServer, through: str, tmp_path: Path
) -> None:
    """The servers' own client and the balancer's replay at the same time, so that one kill shows both."""
    runs = {tmp_path / "servers": (exact.url, second.url), tmp_path / "balancer": (through,)}
    # Few at once, so that neither is finished before the other has begun.
    benches = {out: started(out, *urls, concurrency=4) for out, urls in runs.items()}
    for out, bench in benches.items():
        journal = out / JOURNAL
        while not journal.exists() or journal.read_bytes().count(b"\n") < ITEMS // 12:
            assert bench.poll() is None
            time.sleep(0.05)
    kill(second)
    assert all(bench.poll() is None for bench in benches.values())
    for out, bench in benches.items():
        assert finished(bench, out) == alone
