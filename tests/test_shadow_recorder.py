"""The record of mirrored calls: what is in it, what is left out, and its bounds in size and age."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from qconf.openai_calls import ToScore
from qconf.wire import Timing
from server.engine.twin.rows import STATISTICS, WIDTH, Rows
from server.scoring.scored import Scored, ScoredContinuation
from server.shadow import recorder as module
from server.shadow.queue import Entry
from server.shadow.recorder import Recorder
from server.shadow.sampling import OBSERVE

DAY = 24 * 3600.0
NOON = 20_000 * DAY + DAY / 2
"""Of 2024-10-04, in seconds since 1970."""
TIMING = Timing(tokenize_ms=0, queue_ms=0, engine_ms=0, total_ms=0)
ENTRY = Entry(OBSERVE, "gateway", ToScore([], "answer_ids"), 1, 0.0)


def rows(kl: list[float]) -> Rows:
    values = np.zeros((len(kl), WIDTH))
    values[:, STATISTICS.index("kl")] = kl
    return Rows(values)


def answered(kl: list[float]) -> list[Scored]:
    answer = ScoredContinuation("secret", list(range(5, 5 + len(kl))), rows(kl))
    return [Scored([1, 2], None, [answer], None, TIMING)]


class Clock:
    """Time that tests move."""

    now = NOON

    def __call__(self) -> float:
        return self.now


def recorder(folder: Path, clock: Clock, *, tokens: bool = True) -> tuple[Recorder, CollectorRegistry]:
    registry = CollectorRegistry()
    return Recorder(folder, ["quantized"], registry, days=2, tokens=tokens, now=clock), registry


def unrecorded(registry: CollectorRegistry, reason: str) -> float | None:
    return registry.get_sample_value("qconf_shadow_unrecorded_total", {"reason": reason})


def test_a_line_has_what_was_measured_and_ids_only_where_they_are_asked_for(tmp_path: Path) -> None:
    for tokens in (True, False):
        recorder(tmp_path, Clock(), tokens=tokens)[0].record(ENTRY, answered([0.25, 0.75]))
    (file,) = tmp_path.iterdir()
    assert file.name == "calls-2024-10-04.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text(encoding="utf-8")
    assert "secret" not in text
    with_ids, without = map(json.loads, text.splitlines())
    assert without == {"mirrored": with_ids["mirrored"]}
    assert (with_ids["prompt_token_ids"], with_ids["token_ids"]) == ([1, 2], [5, 6])
    mirrored = with_ids["mirrored"]
    assert mirrored["time"] == "2024-10-04T12:00:00.000+00:00"
    assert (mirrored["route"], mirrored["source"], mirrored["part"]) == (OBSERVE, "gateway", "answer_ids")
    assert mirrored["variants"]["quantized"]["tokens"] == 2
    assert mirrored["variants"]["quantized"]["mean_kl"] == 0.5


def test_of_a_prompt_the_first_token_is_what_the_others_follow(tmp_path: Path) -> None:
    record, _ = recorder(tmp_path, Clock())
    record.record(ENTRY, [Scored([7, 8, 9], rows([0.1, 0.2]), [], None, TIMING)])
    record.record(ENTRY, [Scored([7], rows([]), [], None, TIMING)])
    (file,) = tmp_path.iterdir()
    three, one = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert (three["prompt_token_ids"], three["token_ids"]) == ([7], [8, 9])
    assert one.keys() == {"mirrored"}


def test_files_of_days_that_are_too_old_are_deleted_and_no_others(tmp_path: Path) -> None:
    clock = Clock()
    record, _ = recorder(tmp_path, clock)
    (tmp_path / "notes.txt").touch()
    for _ in range(4):
        record.record(ENTRY, answered([0.5]))
        clock.now += DAY
    record.tidy()
    assert {path.name for path in tmp_path.iterdir()} == {
        "calls-2024-10-06.jsonl",
        "calls-2024-10-07.jsonl",
        "notes.txt",
    }


def test_a_full_file_takes_no_more_and_that_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, registry = recorder(tmp_path, Clock())
    record.record(ENTRY, answered([0.5]))
    (file,) = tmp_path.iterdir()
    size = file.stat().st_size
    monkeypatch.setattr(module, "MOST_BYTES", 3 * size)
    for _ in range(5):
        record.record(ENTRY, answered([0.5]))
    assert file.stat().st_size == 3 * size
    assert unrecorded(registry, "full") == 3


def test_a_disk_that_fails_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    record, registry = recorder(tmp_path / "gone", Clock())
    record.record(ENTRY, answered([0.5]))
    assert unrecorded(registry, "disk") == 1
