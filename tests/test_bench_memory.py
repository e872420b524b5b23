"""Memory of a replay of a corpus: that of its token ids, and of one row for each window."""

import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import httpx
import pyarrow as pa  # type: ignore[import-untyped]
import pytest

from client.bench.session import Stopped
from client.bench.sources.load import BenchOptions, subject_of
from qconf.run.folder import TOKENS, read_run
from tests.fake_server import FakeServer
from tests.replays import run

WINDOW, SCORED = 512, 255
FEW, MANY = 40, 140
BYTES = 40
"""For each scored token: 8 for its id and one of context, 4 for its KL, and its part of 3 kB for each window."""


class Forgetful(FakeServer):
    """A server that keeps nothing of what it is sent, scores all windows alike and stops after so many."""

    def __init__(self, windows: int = MANY) -> None:
        super().__init__()
        self._left = windows
        self._scored = b""

    def answer(self, request: httpx.Request) -> httpx.Response:
        window = request.url.path == "/compare"
        self._left -= window
        if self._left < 0:
            raise httpx.ConnectError("refused")
        if window and self._scored:
            return httpx.Response(200, content=self._scored)
        reply = super().answer(request)
        self.received.clear()
        if window:
            self._scored = reply.content
        return reply


def corpus(options: BenchOptions, windows: int) -> BenchOptions:
    """Return options for a corpus of this many windows, with token ids that Python does not share (above 256)."""
    text = options.out.with_name(f"text{windows}.txt")
    text.write_text("".join(chr(0x4E00 + place % 5000) for place in range(windows * WINDOW)))
    return replace(options, tasks=[], corpora=[text], out=text.with_suffix(""), concurrency=2, quiet=True)


@contextmanager
def measured(patch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Measure the largest memory after the corpus was loaded, of Python and of Arrow."""

    def loaded(*arguments: Any) -> Any:
        tracemalloc.reset_peak()
        return subject_of(*arguments)

    patch.setattr("client.bench.session.subject_of", loaded)
    for constant in ("qconf.run.folder.TOKENS_AT_ONCE", "qconf.run.tokens.AT_ONCE"):
        patch.setattr(constant, 1000)
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    found = SimpleNamespace()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        yield found
        found.bytes = tracemalloc.get_traced_memory()[1] + pool.max_memory()
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(before)


def tokens(options: BenchOptions) -> pa.Table:
    """Return the tokens of a run."""
    found = read_run(options.out).tokens
    assert found is not None
    return found


@pytest.mark.parametrize("sessions", [1, 2])
def test_memory_of_a_corpus_is_bounded(options: BenchOptions, monkeypatch: pytest.MonkeyPatch, sessions: int) -> None:
    run(corpus(options, 1), Forgetful())  # what is imported then is not measured
    peaks = []
    for windows in (FEW, MANY):
        asked = replace(corpus(options, windows), resume=sessions == 2)
        if asked.resume:
            with pytest.raises(Stopped):
                run(asked, Forgetful(windows - 5))
        with measured(monkeypatch) as found:
            run(asked, Forgetful())
        peaks.append(found.bytes)
        assert tokens(asked).num_rows == windows * SCORED
    assert (peaks[1] - peaks[0]) / ((MANY - FEW) * SCORED) < BYTES


def test_tokens_come_back_from_the_journal_in_their_order(options: BenchOptions) -> None:
    """Also where windows were scored in several sessions, and another task's items lie between."""
    both = replace(corpus(options, 3), tasks=["sky"], concurrency=1)
    whole = replace(both, out=both.out.with_name("whole"))
    run(whole, FakeServer())
    left = 4

    def gone(request: httpx.Request) -> None:
        nonlocal left
        left -= request.url.path == "/compare"
        if left < 0:
            raise httpx.ConnectError("refused")

    with pytest.raises(Stopped):
        run(both, FakeServer(gone))
    run(replace(both, resume=True), FakeServer())
    assert tokens(both)["position"].to_pylist() == [
        place for start in range(0, 3 * WINDOW, WINDOW) for place in range(start + WINDOW - SCORED, start + WINDOW)
    ]
    for name in (TOKENS, "items.parquet", "results.json"):
        assert (both.out / name).read_bytes() == (whole.out / name).read_bytes()
