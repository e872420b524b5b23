"""A replay that stopped is resumed from its journal, or refused with the reason."""

import errno
import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from client.bench.session import Stopped
from client.bench.sources.load import BenchOptions
from qconf import __version__
from qconf.run.folder import RunError, read_run
from tests.fake_server import MODELS, SERVER, FakeServer, error
from tests.fake_task import write_task
from tests.replays import run, stopped


def test_a_run_that_stopped_goes_on_where_it_was(options: BenchOptions) -> None:
    whole = replace(options, out=options.out.with_name("whole"))
    run(whole, FakeServer())
    answered = 0

    def gone_after_20(request: httpx.Request) -> httpx.Response | None:
        nonlocal answered
        answered += request.url.path == "/compare"
        if answered > 20:
            raise httpx.ConnectError("refused")
        return None

    with pytest.raises(
        Stopped, match=r"no server answers any more: .* 20 of 43 items are kept .* --resume to continue"
    ):
        run(replace(options, concurrency=1), FakeServer(gone_after_20))
    assert [path.name for path in options.out.iterdir()] == ["journal.jsonl"]
    with pytest.raises(RunError, match="exists already"):
        run(options, FakeServer())
    fake = FakeServer()
    _, text = run(replace(options, resume=True), fake)
    assert len(fake.bodies("/compare")) == 23
    assert "43 items, 20 of them done before" in text
    one, two = read_run(whole.out), read_run(options.out)
    assert (options.out / "items.parquet").read_bytes() == (whole.out / "items.parquet").read_bytes()
    assert one.results == two.results
    assert one.manifest.counts == two.manifest.counts
    assert two.manifest.timing is not None
    assert two.manifest.timing.sessions == 2
    assert sorted(path.name for path in options.out.iterdir()) == ["items.parquet", "manifest.json", "results.json"]


def test_resume_starts_what_is_not_there_and_leaves_what_is_complete(options: BenchOptions) -> None:
    again = replace(options, resume=True)
    run(again, FakeServer())
    before = (options.out / "items.parquet").read_bytes()
    fake = FakeServer()
    failed, text = run(again, fake)
    assert failed == 0
    assert "is complete: nothing is left to do" in text
    assert fake.bodies("/compare") == []
    assert (options.out / "items.parquet").read_bytes() == before
    with pytest.raises(RunError, match=r"cannot be resumed: settings\.limit was null and is 1; tasks"):
        run(replace(again, limit=1), fake)


def test_items_that_failed_are_tried_again(options: BenchOptions) -> None:
    run(replace(options, tasks=["even"]), FakeServer(lambda r: error(500, "broken") if b"Is 7 " in r.content else None))
    assert (options.out / "journal.jsonl").exists()
    fake = FakeServer()
    failed, _ = run(replace(options, tasks=["even"], resume=True), fake)
    assert failed == 0
    assert len(fake.bodies("/compare")) == 1
    assert read_run(options.out).manifest.counts.model_dump() == {"items": 40, "ok": 40, "failed": 0}
    assert not (options.out / "journal.jsonl").exists()


def test_a_full_disk_ends_the_replay_and_it_can_be_resumed(
    options: BenchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def full(fd: int, data: bytes) -> int:
        nonlocal written
        written += 1
        if written > 12:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(fd, data, 0)  # on a file opened for appending, this appends

    with monkeypatch.context() as patch:
        patch.setattr("client.lines.os", SimpleNamespace(**{**vars(os), "write": full}))
        with pytest.raises(RunError, match=r"cannot write to .*journal\.jsonl: No space left on device"):
            run(options, FakeServer())
    fake = FakeServer()
    failed, _ = run(replace(options, resume=True), fake)
    assert failed == 0
    assert len(fake.bodies("/compare")) == 43 - 10


def test_a_line_that_was_being_written_is_scored_again(options: BenchOptions) -> None:
    journal = stopped(options)
    content = b"".join(journal.read_bytes().splitlines(keepends=True)[:-1])  # without the item that failed
    journal.write_bytes(content[:-7])
    fake = FakeServer()
    run(replace(options, resume=True), fake)
    assert len(fake.bodies("/compare")) == 43 - 4
    assert read_run(options.out).manifest.counts.items == 43


@pytest.mark.parametrize("length", [0, 10])
def test_a_journal_without_a_whole_line_starts_anew(options: BenchOptions, length: int) -> None:
    journal = stopped(options)
    journal.write_bytes(journal.read_bytes()[:length])
    fake = FakeServer()
    run(replace(options, resume=True), fake)
    assert len(fake.bodies("/compare")) == 43


def test_a_damaged_line_is_named(options: BenchOptions) -> None:
    journal = stopped(options)
    lines = journal.read_bytes().split(b"\n")
    lines[3] = lines[3][:20]
    journal.write_bytes(b"\n".join(lines))
    with pytest.raises(RunError, match=r"journal\.jsonl, line 4 is damaged: "):
        run(replace(options, resume=True), FakeServer())


def rewritten(journal: Path, change: Callable[[list[Any]], object]) -> bytes:
    """Change a journal's lines in place, and return its content."""
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    change(lines)
    journal.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return journal.read_bytes()


def test_a_journal_that_does_not_name_its_client_is_resumed(options: BenchOptions) -> None:
    rewritten(stopped(options), lambda lines: lines[0].pop("client"))
    fake = FakeServer()
    run(replace(options, resume=True), fake)
    assert len(fake.bodies("/compare")) == 43 - 5


FOREIGN: list[Any] = [
    pytest.param(lambda lines: lines[0].update(client="9"), "qconf 9", id="named"),
    pytest.param(lambda lines: lines.__setitem__(0, []), "another version of qconf", id="first line"),
    pytest.param(lambda lines: lines[3].pop("doc_id"), "another version of qconf", id="entry"),
    pytest.param(lambda lines: lines.append(1), "another version of qconf", id="line"),
    pytest.param(lambda lines: lines[3].update(scores=[]), "another version of qconf", id="scores"),
    pytest.param(lambda lines: lines[3]["scores"]["quantized"].pop("error"), "another version of qconf", id="less"),
    pytest.param(lambda lines: lines[3]["scores"]["quantized"].update(news=1), "another version of qconf", id="more"),
]


@pytest.mark.parametrize(("change", "writer"), FOREIGN)
def test_a_journal_of_another_client_is_not_resumed(
    options: BenchOptions, change: Callable[[list[Any]], object], writer: str
) -> None:
    journal = stopped(options)
    before = rewritten(journal, change)
    with pytest.raises(
        RunError, match=f"cannot be resumed: {writer} wrote its journal, and this is qconf {__version__};"
    ):
        run(replace(options, resume=True), FakeServer())
    assert journal.read_bytes() == before


def test_a_later_client_does_not_resume_a_journal_without_version(
    options: BenchOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    rewritten(stopped(options), lambda lines: lines[0].pop("client"))
    monkeypatch.setattr("client.bench.journal.__version__", "0.2.0")
    with pytest.raises(RunError, match=r"qconf 0\.1\.0 wrote its journal, and this is qconf 0\.2\.0; resume it with"):
        run(replace(options, resume=True), FakeServer())


def served(**changes: Any) -> FakeServer:
    """Return a server with another pair or build."""
    models = [MODELS[0], MODELS[1] | {"created": 99, "size": None} | changes.get("quantized", {})]
    body = {"object": "list", "data": models, "server": SERVER | changes.get("server", {})}
    return FakeServer(lambda request: httpx.Response(200, json=body) if request.url.path == "/v1/models" else None)


CHANGED: list[Any] = [
    pytest.param(
        {},
        served(quantized={"digest": "new"}),
        'models.quantized.digest was "digest of quantized" and is "new"$',
        id="pair",
    ),
    pytest.param({}, served(server={"version": "9"}), 'server.version was "0.1.0" and is "9"$', id="build"),
    pytest.param(
        {"add_special_tokens": False}, FakeServer(), "settings.add_special_tokens was true and is false$", id="setting"
    ),
    pytest.param({"num_fewshot": 1}, FakeServer(), r"tasks\[0\]\.num_fewshot was 0 and is 1", id="examples"),
]


@pytest.mark.parametrize(("changes", "fake", "message"), CHANGED)
def test_another_subject_is_not_resumed(
    options: BenchOptions, changes: dict[str, Any], fake: FakeServer, message: str
) -> None:
    journal = stopped(options)
    before = journal.read_bytes()
    with pytest.raises(RunError, match=f"run cannot be resumed: .*{message}"):
        run(replace(options, resume=True, **changes), fake)
    assert journal.read_bytes() == before


def test_a_changed_task_is_not_resumed(options: BenchOptions) -> None:
    stopped(options)
    assert options.include_path is not None
    write_task(options.include_path, "sky", doc_to_text="{{question}}", metadata={"version": 2.0})
    with pytest.raises(RunError, match=r'tasks\[0\]\.version was "1.5" and is "2.0"; tasks\[0\]\.digest was'):
        run(replace(options, resume=True), FakeServer())


def test_another_process_keeps_out(options: BenchOptions) -> None:
    journal = stopped(options)
    with journal.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="another process is writing the run"):
            run(replace(options, resume=True), FakeServer())
