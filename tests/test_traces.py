"""Divergent tokens of the base model's greedy texts, against a loop over each text; tables and rules on them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pytest
from scipy import stats  # type: ignore[import-untyped]

from client.bench.display.corpus_summary import COLUMNS, summarize, with_traces
from client.bench.display.table import corpus_table
from eval.analysis.run import analyse_run
from eval.gate import judge
from eval.report.tables import corpus_tables
from qconf.rules import Rule
from qconf.run.choices import EvalError
from qconf.run.folder import TOKENS, read_run
from qconf.run.tokens import read_columns
from qconf.run.traces import read_traces
from tests.synthetic_run import tokens, window, write

TEXTS, LENGTH = 60, 30


def texts(table: pa.Table) -> list[list[dict[str, Any]]]:
    rows = table.to_pylist()
    return [[row for row in rows if row["doc_id"] == text] for text in range(TEXTS)]


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Return texts of different lengths, of which a few have no divergent token."""
    rng = np.random.default_rng(4)
    found = tokens("answers", TEXTS, LENGTH, 0)
    count = found.num_rows
    columns = {
        "position": np.tile(np.arange(LENGTH), TEXTS),
        "quantized_argmax": np.where(rng.random(count) < 0.06, 100, found["token_id"]),
        "base_argmax": np.where(rng.random(count) < 0.01, 100, found["token_id"]),
    }
    for name, values in columns.items():
        place = found.schema.get_field_index(name)
        found = found.set_column(place, found.schema.field(name), [values])
    return found.filter(rng.integers(5, LENGTH, TEXTS)[found["doc_id"].to_numpy()] > columns["position"])


@pytest.fixture(scope="module")
def folder(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [window("answers", number, "trace") for number in range(TEXTS)]
    return write(tmp_path_factory.mktemp("runs") / "run", rows, table)


def agreed(text: list[dict[str, Any]]) -> int:
    for count, row in enumerate(text):
        if row["token_id"] != row["quantized_argmax"]:
            return count
    return len(text)


@pytest.mark.parametrize("at_once", [1, 7, 65_536])
def test_each_text_is_counted(folder: Path, table: pa.Table, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qconf.run.tokens.AT_ONCE", at_once)
    found = read_traces(folder / TOKENS, "answers")
    whole = texts(table)
    assert found.tokens.tolist() == [len(text) for text in whole]
    assert found.agreed.tolist() == [agreed(text) for text in whole]
    for counts, argmax, same in ((found.divergent, "quantized_argmax", False), (found.reproduced, "base_argmax", True)):
        assert counts.tolist() == [sum((row["token_id"] == row[argmax]) is same for row in text) for text in whole]
    assert 0 < (found.divergent == 0).sum() < TEXTS


def test_means_have_intervals_over_texts(folder: Path, table: pa.Table) -> None:
    trace = analyse_run(folder, resamples=100).traces["answers"]
    whole = texts(table)
    firsts = [agreed(text) for text in whole]
    divergent = sum(row["token_id"] != row["quantized_argmax"] for text in whole for row in text)
    assert trace.divergent.point == pytest.approx(divergent / table.num_rows)
    assert trace.first_divergent.point == pytest.approx(np.mean(firsts))
    same = sum(first == len(text) for first, text in zip(firsts, whole, strict=True))
    exact = stats.binomtest(same, TEXTS).proportion_ci(0.95, "exact")
    assert (trace.identical.low, trace.identical.high) == pytest.approx((exact.low, exact.high))
    for each in (trace.divergent, trace.first_divergent):
        assert each.low < each.point < each.high
        assert each.units == TEXTS


def test_tables_show_them(folder: Path) -> None:
    run = analyse_run(folder, resamples=100)
    shown = str(corpus_tables("answers", run.corpora["answers"], run.traces["answers"]))
    for heading in ("divergent tokens, %", "first divergent token, mean position", "texts without one, %"):
        assert heading in shown
    summary = summarize(read_columns(folder / TOKENS, "answers", COLUMNS))
    whole = with_traces(summary, read_traces(folder / TOKENS, "answers"))
    trace = run.traces["answers"]
    assert whole.divergent == pytest.approx(trace.divergent.point)
    assert whole.first_divergent == pytest.approx(trace.first_divergent.point)
    assert whole.identical == pytest.approx(trace.identical.point)
    assert corpus_table({"a": whole, "b": summary}).row_count == corpus_table({"b": summary}).row_count + 3


def test_rules_limit_them(folder: Path, tmp_path: Path) -> None:
    def rule(name: str, most: float) -> Rule:
        return Rule(statistic=name, corpus="answers", at_most=most)

    run = analyse_run(folder, resamples=100)
    outcomes = [each.outcome for each in judge([rule("divergent", 0.2), rule("divergent", 0.01)], run)]
    assert outcomes == ["pass", "fail"]
    assert judge([rule("first_divergent", 1.0)], run)[0].outcome == "fail"
    records = [window("answers", number, "record") for number in range(TEXTS)]
    other = write(tmp_path / "run", records, read_run(folder).tokens)
    with pytest.raises(EvalError, match="there is no statistic 'divergent'"):
        judge([rule("divergent", 0.2)], analyse_run(other, resamples=100))
