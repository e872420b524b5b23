"""Expected counts: the statistics of their differences, and replays that write and list them."""

import json
from dataclasses import replace
from io import StringIO
from itertools import count
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from rich.console import Console
from scipy import stats  # type: ignore[import-untyped]

from client.bench.session import Stopped
from client.bench.sources.load import BenchOptions
from eval.analysis.run import analyse_run
from eval.report.page import render
from eval.report.terminal import print_run
from qconf.float32 import from_base64, to_base64
from qconf.run.columns import COUNT_SCHEMA
from qconf.run.folder import COUNTS, RESULTS, RunError, read_run
from qconf.run.token_changes import token_changes_of
from qconf.statistics.arrays import Floats
from qconf.statistics.expected_counts import CountSums
from tests.fake_server import FakeServer, compare, error
from tests.replays import run, stopped

WINDOW = 100


@pytest.fixture
def counting(options: BenchOptions, tmp_path: Path) -> BenchOptions:
    """Return options of a replay of a text of 30 windows, each of which scores 49 tokens, and of one of 1 window."""
    long, short = tmp_path / "text.txt", tmp_path / "short.txt"
    long.write_text("".join(chr(ord("a") + number % 26) for number in range(30 * WINDOW)))
    short.write_text("abcd" * (WINDOW // 4))
    return replace(options, tasks=[], corpora=[long, short], window=WINDOW, expected_counts=True)


def sums_of(differences: Floats) -> CountSums:
    sums = CountSums()
    for each in differences:
        sums.add(np.ones(len(each)), 1 + each)
    return sums


def test_intervals_are_those_of_a_t_test_adjusted_to_the_vocabulary() -> None:
    """scipy's interval of the mean over clusters, times their number."""
    differences = np.random.default_rng(0).normal(0.1, 1.0, (12, 5))
    sums = sums_of(differences)
    expected = stats.ttest_1samp(differences, 0.0).confidence_interval(1 - 0.05 / 5)
    np.testing.assert_allclose(sums.difference - sums.margins(), 12 * expected.low)
    np.testing.assert_allclose(sums.difference + sums.margins(), 12 * expected.high)
    np.testing.assert_allclose(sums.standard_error, 12 * stats.sem(differences))


def test_noise_alone_rarely_changes_any_token_of_a_vocabulary() -> None:
    """In 5 % of runs where differences are normal; where tails are heavy, as here, a t-test errs less often.

    Of 200 runs, 20 or more at 5 % have a probability of 0.3 % (binomial).
    """
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(200):
        sums = sums_of(rng.normal(size=(20, 300)) * rng.exponential(size=(20, 300)))
        found += bool((np.abs(sums.difference) > sums.margins()).any())
    assert found < 20


def test_one_cluster_changes_nothing() -> None:
    sums = sums_of(np.ones((1, 4)))
    assert np.isnan(sums.margins()).all()


def test_base64_is_read_back_and_other_text_is_refused() -> None:
    values = np.array([0.0, 1e-30, 0.1, 3e7], np.float32)
    assert (from_base64(to_base64(values)) == values).all()
    for text in ("AAA", "?!", "AAAAAAA="):
        with pytest.raises(ValueError, match="expected float32 numbers in base64"):
            from_base64(text)


def test_a_replay_writes_the_counts_and_lists_what_changed(counting: BenchOptions) -> None:
    fake = FakeServer()
    failed, text = run(counting, fake)
    assert failed == 0
    assert all(body["expected_counts"] for body in fake.bodies("/compare"))
    counts = pq.read_table(counting.out / COUNTS)
    assert counts.schema.equals(COUNT_SCHEMA)
    of_long = counts.filter([task == "text" for task in counts["task"].to_pylist()])
    assert of_long["token_id"].to_pylist() == list(range(128))
    scored = 30 * 49
    assert sum(of_long["base"].to_pylist()) == pytest.approx(scored)
    assert sum(of_long["quantized"].to_pylist()) == pytest.approx(scored)
    changes = token_changes_of(read_run(counting.out))
    assert (changes["text"].positions, changes["text"].clusters, changes["text"].vocabulary) == (scored, 30, 128)
    assert [(each, change.text) for each, change in changes["text"].listed()] == [("likelier", "b"), ("rarer", "a")]
    (likelier,) = changes["text"].likelier
    assert likelier.base == pytest.approx(scored / 128)
    assert 0.004 * scored < likelier.quantized - likelier.base < 0.0045 * scored
    assert 0 < likelier.low < likelier.quantized - likelier.base < likelier.high
    # One window has no interval.
    assert changes["short"].changed == 0
    of_short = counts.filter([task == "short" for task in counts["task"].to_pylist()])
    assert of_short["standard_error"].null_count == 128
    assert "2 of 128 tokens changed" in text
    assert "likelier" in text


def test_page_and_terminal_have_the_tokens(counting: BenchOptions) -> None:
    run(replace(counting, corpora=counting.corpora[:1]), FakeServer())
    (likelier,) = token_changes_of(read_run(counting.out))["text"].likelier
    row = f"{1000 * likelier.base / (30 * 49):.4g}"
    console = StringIO()
    read = read_run(counting.out)
    analysis = analyse_run(read)
    print_run(Console(file=console, width=160), read, analysis)
    for shown in (render([(read, analysis)]), console.getvalue()):
        assert "2 whose interval excludes 0" in " ".join(shown.split())
        assert row in shown


@pytest.mark.parametrize("results", ["[]", '{"tasks": {"text": {"expected_counts": {"positions": "many"}}}}'])
def test_results_that_are_damaged_are_refused(counting: BenchOptions, results: str) -> None:
    run(counting, FakeServer())
    (counting.out / RESULTS).write_text(results)
    with pytest.raises(RunError, match=r"results\.json is not the results of a run"):
        token_changes_of(read_run(counting.out))


def test_a_resumed_replay_has_the_same_counts(counting: BenchOptions, tmp_path: Path) -> None:
    run(replace(counting, out=tmp_path / "whole"), FakeServer())
    stopped(counting, items=10)
    fake = FakeServer()
    failed, _ = run(replace(counting, resume=True), fake)
    assert failed == 0
    assert len(fake.bodies("/compare")) == 31 - 10
    assert pq.read_table(counting.out / COUNTS).equals(pq.read_table(tmp_path / "whole" / COUNTS))
    shown = run(replace(counting, resume=True), FakeServer())[1]
    assert "2 of 128 tokens changed" in shown


def test_a_server_that_is_gone_when_texts_are_asked_for_loses_nothing(counting: BenchOptions) -> None:
    def gone(request: httpx.Request) -> httpx.Response | None:
        return error(503, "stopping") if request.url.path == "/detokenize" else None

    with pytest.raises(Stopped, match="31 of 31 items are kept"):
        run(counting, FakeServer(gone))
    fake = FakeServer()
    failed, text = run(replace(counting, resume=True), fake)
    assert (failed, fake.bodies("/compare")) == (0, [])
    assert "2 of 128 tokens changed" in text


@pytest.mark.parametrize("text", ["AAAA?", to_base64(np.ones(3))])
def test_counts_that_cannot_be_added_are_a_failed_item(counting: BenchOptions, tmp_path: Path, text: str) -> None:
    """One reply in three has counts that are not numbers, or are of another vocabulary."""
    records = tmp_path / "records.jsonl"
    records.write_text(json.dumps({"prompt_token_ids": [97], "token_ids": [98] * 250}))
    calls = count()

    def damaged(request: httpx.Request) -> httpx.Response | None:
        if request.url.path != "/compare" or next(calls) % 3:
            return None
        reply = compare(json.loads(request.content))
        reply["continuations"][0]["expected_counts"]["base"] = text
        return httpx.Response(200, json=reply)

    failed, printed = run(replace(counting, corpora=[records]), FakeServer(damaged))
    assert failed == 1
    assert "BadReply: the expected counts cannot be read" in printed


def test_a_replay_without_them_cannot_be_resumed_with_them(counting: BenchOptions) -> None:
    stopped(replace(counting, expected_counts=False), items=3)
    with pytest.raises(RunError, match=r"settings\.expected_counts was false and is true"):
        run(replace(counting, resume=True), FakeServer())


def test_records_of_several_windows_add_up(counting: BenchOptions, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    lines = [{"prompt_token_ids": [97], "token_ids": [98 + i % 20 for i in range(250 + n)]} for n in range(3)]
    records.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    failed, _ = run(replace(counting, corpora=[records]), FakeServer())
    assert failed == 0
    counts = pq.read_table(counting.out / COUNTS)
    assert sum(counts["base"].to_pylist()) == pytest.approx(250 + 251 + 252, rel=1e-5)


def test_without_the_option_nothing_is_asked_for(counting: BenchOptions) -> None:
    fake = FakeServer()
    _, text = run(replace(counting, expected_counts=False), fake)
    assert not any("expected_counts" in body for body in fake.bodies("/compare") + fake.bodies("/detokenize"))
    assert not (counting.out / COUNTS).exists()
    assert "tokens changed" not in text
