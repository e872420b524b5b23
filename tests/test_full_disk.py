"""Files that cannot be written to their end: a limit on the size of files stands for a full disk.

The kernel writes what fits and refuses the rest, as it does on a disk; only the error's name differs.
"""

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from client.bench.sources.load import BenchOptions
from qconf.run.folder import RunError, read_run
from server.monitoring.sliding import SlidingSums
from tests.fake_server import FakeServer
from tests.replays import run
from tests.synthetic_run import items, write

LIMIT = 5_000


@contextmanager
def full(limit: int = LIMIT) -> Iterator[None]:
    """Let no file grow beyond a number of bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN, "Python ignores it, so that writing raises"
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("before", [None, "an older page"])
def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path, before: str | None) -> None:
    folder = write(tmp_path / "run", items("piqa", 60, 1, noise=1))
    page = tmp_path / "report.html"
    if before:
        page.write_text(before)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))

    command = [sys.executable, "-m", "eval", "report", str(folder), "--out", str(page), "--resamples", "100"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, preexec_fn=limit)
    assert (done.returncode, done.stdout) == (64, "")
    assert done.stderr == f"error: cannot write {page}: File too large\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == (["report.html"] if before else []) + ["run"]
    assert not before or page.read_text() == before


def test_verdicts_go_to_a_device(tmp_path: Path) -> None:
    folder = write(tmp_path / "run", items("piqa", 60, 1, noise=1))
    config = tmp_path / "gate.toml"
    config.write_text('[[rule]]\nstatistic = "accuracy"\nat_least = -1.0\n')
    command = [
        sys.executable,
        "-m",
        "eval",
        "gate",
        str(folder),
        "--config",
        str(config),
        "--resamples",
        "100",
        "--junit",
    ]
    done = subprocess.run([*command, "/dev/full"], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (64, "error: cannot write /dev/full: No space left on device\n")
    done = subprocess.run([*command, "/dev/stdout"], capture_output=True, text=True, timeout=120, check=False)
    assert "<testsuite" in done.stdout
    assert Path("/dev/full").is_char_device()


def test_a_journal_that_cannot_grow_ends_the_replay_and_it_can_be_resumed(options: BenchOptions) -> None:
    with full(), pytest.raises(RunError, match=r"cannot write to .*journal\.jsonl: File too large"):
        run(options, FakeServer())
    journal = options.out / "journal.jsonl"
    assert journal.stat().st_size == LIMIT
    fake = FakeServer()
    assert run(replace(options, resume=True), fake)[0] == 0
    assert 0 < len(fake.bodies("/compare")) < 43
    assert read_run(options.out).manifest.counts.model_dump() == {"items": 43, "ok": 43, "failed": 0}


def test_a_window_that_cannot_be_saved_leaves_the_last_one(tmp_path: Path) -> None:
    window = SlidingSums(2, most=1000, seconds=1000)
    window.add(np.ones(2), 10, now=0)
    file = tmp_path / "window.npz"
    window.save(file, now=0, time_of_day=0)
    window.add(np.ones(2), 10, now=1)
    with full(100), pytest.raises(OSError, match="File too large"):
        window.save(file, now=1, time_of_day=1)
    restored = SlidingSums(2, most=1000, seconds=1000)
    restored.load(file, now=1, time_of_day=1)
    assert restored.total(1)[0] == 10
