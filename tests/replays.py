"""Replays of small tasks against a stand-in for the server."""

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from client.bench.session import Stopped, run_bench
from client.bench.sources.load import BenchOptions
from tests.fake_server import VARIANTS, FakeServer, error
from tests.fake_task import write_task


def replay_options(tmp_path: Path) -> BenchOptions:
    """Return the options of a replay of two small tasks."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    docs = [{"question": f"Is {n} even?", "choices": ["yes", "no"], "label": n % 2} for n in range(40)]
    write_task(folder, "even", docs)
    return BenchOptions(
        urls=["http://fake"],
        tasks=["sky", "even"],
        data=[],
        corpora=[],
        include_path=write_task(folder, "sky"),
        num_fewshot=None,
        limit=None,
        delimiter=" ",
        window=None,
        stride=None,
        add_special_tokens=True,
        concurrency=8,
        retries=0,
        timeout=10.0,
        out=tmp_path / "run",
        resume=False,
        quiet=False,
    )


def run(options: BenchOptions, fake: FakeServer) -> tuple[int, str]:
    """Run the bench, and return the number of failed items and what was printed."""
    output = io.StringIO()
    failed = run_bench(options, Console(file=output, width=160), fake.transport)
    return failed, output.getvalue()


def stopped(options: BenchOptions, items: int = 5, variants: Sequence[str] = VARIANTS) -> Path:
    """Stop a run after some items, and return its journal."""
    left = items

    def hook(request: httpx.Request) -> httpx.Response | None:
        nonlocal left
        left -= request.url.path == "/compare"
        return error(503, "stopping") if left < 0 else None

    with pytest.raises(Stopped):
        run(replace(options, concurrency=1), FakeServer(hook, variants))
    return options.out / "journal.jsonl"
