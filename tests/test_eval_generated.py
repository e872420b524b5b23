"""The analysis of generated answers against scipy and loops, and where it is shown."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats  # type: ignore[import-untyped]

from eval.analysis.generated import GeneratedAnalysis
from eval.analysis.items import as_json
from eval.analysis.run import RunAnalysis, analyse_run
from eval.gate import Verdict, judge
from eval.report.generated import generated_table
from eval.report.page import render, render_markdown
from eval.report.variants import compare_variants, reasons, variants_tables
from eval.report.verdict import headline, sentences
from qconf.rules import Rule
from qconf.run.choices import EvalError
from qconf.run.columns import AnswerResult, ItemResult
from qconf.run.folder import read_run
from qconf.statistics.intervals import Interval
from tests.synthetic_run import generated, items, write

ITEMS, RESAMPLES = 200, 2_000

Rows = tuple[list[ItemResult], list[AnswerResult]]


@pytest.fixture(scope="module")
def made() -> Rows:
    return generated("tell", ITEMS, 1)


@pytest.fixture(scope="module")
def folder(made: Rows, tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows, answers = made
    return write(tmp_path_factory.mktemp("runs") / "run", rows, answers=answers)


@pytest.fixture(scope="module")
def run(folder: Path) -> RunAnalysis:
    return analyse_run(folder, resamples=RESAMPLES)


@pytest.fixture(scope="module")
def tell(run: RunAnalysis) -> GeneratedAnalysis:
    return run.generated["tell"]


def hits(rows: list[ItemResult], model: str) -> Iterator[bool]:
    for row in rows:
        yield json.loads(getattr(row, f"{model}_metrics"))["none"]["exact_match"] == 1


def test_accuracy_is_paired(tell: GeneratedAnalysis, made: Rows) -> None:
    base, quantized = (np.array(list(hits(made[0], model))) for model in ("base", "quantized"))
    assert list(tell.accuracy) == ["exact_match,none", "exact_match,loose"]  # a score of 0.5 is not right or wrong
    for each in tell.accuracy.values():
        delta = each.compared.delta
        assert each.compared.base.point == base.mean()
        assert delta.point == pytest.approx(quantized.mean() - base.mean(), abs=1e-12)
        drawn = stats.bootstrap((quantized.astype(float) - base,), np.mean, rng=0).confidence_interval
        assert (delta.low, delta.high) == pytest.approx((drawn.low, drawn.high), abs=0.015)
        lost, won = int((base & ~quantized).sum()), int((~base & quantized).sum())
        assert (each.mcnemar.b, each.mcnemar.c) == (lost, won)
        assert each.mcnemar.p_value == pytest.approx(stats.binomtest(lost, lost + won).pvalue)


def test_shares_of_answers_that_are_the_same_have_exact_intervals(tell: GeneratedAnalysis, made: Rows) -> None:
    rows, answers = made
    equal = sum(each.base_text == each.quantized_text for each in answers)
    agree = sum(b == q for b, q in zip(hits(rows, "base"), hits(rows, "quantized"), strict=True))
    assert 0 < equal < agree < ITEMS
    assert tell.agree is not None
    for share, count in ((tell.equal, equal), (tell.agree, agree)):
        exact = stats.binomtest(count, ITEMS).proportion_ci(0.95, "exact")
        assert (share.point, share.low, share.high) == pytest.approx((count / ITEMS, exact.low, exact.high))


def test_the_length_ratio_is_of_all_tokens(tell: GeneratedAnalysis, made: Rows) -> None:
    tokens = [np.array([getattr(each, f"{m}_tokens") for each in made[1]], float) for m in ("quantized", "base")]

    def ratio(quantized: np.ndarray, base: np.ndarray) -> float:  # type: ignore[type-arg]
        return float(quantized.sum() / base.sum())

    drawn = stats.bootstrap(tokens, ratio, paired=True, vectorized=False, n_resamples=2_000, method="percentile", rng=0)
    found = tell.length_ratio
    assert found.point == pytest.approx(ratio(*tokens))
    ends = drawn.confidence_interval
    assert (found.low, found.high) == pytest.approx((ends.low, ends.high), abs=0.01)
    assert found.low < found.point < found.high


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("common_prefix", "common_prefix"),
        ("acceptance", "acceptance"),
        ("base_kl", "base_mean_kl"),
        ("quantized_kl", "quantized_mean_kl"),
    ],
)
def test_means_are_over_answers(tell: GeneratedAnalysis, made: Rows, name: str, column: str) -> None:
    found: Interval = getattr(tell, name)
    assert found.point == pytest.approx(np.mean([getattr(each, column) for each in made[1]]))
    assert found.low < found.point < found.high
    assert found.units == ITEMS


def test_items_that_belong_together_widen_intervals(tmp_path: Path) -> None:
    rows, answers = generated("tell", 20, 4)
    copies = [
        (replace(row, doc_id=20 * k + row.doc_id, cluster=f"{row.doc_id}"), replace(each, doc_id=20 * k + each.doc_id))
        for k in range(5)
        for row, each in zip(rows, answers, strict=True)
    ]
    alone, together = (
        analyse_run(
            write(tmp_path / name, [replace(row, cluster=clusters and row.cluster) for row, _ in copies],
                  answers=[each for _, each in copies]),
            resamples=500,
        ).generated["tell"]
        for name, clusters in (("alone", None), ("together", "yes"))
    )  # fmt: skip
    assert (alone.clusters, together.clusters) == (None, 20)
    for name in ("equal", "common_prefix", "length_ratio"):
        one, two = getattr(alone, name), getattr(together, name)
        assert one.point == two.point
        assert two.high - two.low > 1.5 * (one.high - one.low)
    metric = "exact_match,none"
    assert together.accuracy[metric].mcnemar.p_value > alone.accuracy[metric].mcnemar.p_value


def test_a_run_of_generated_answers_alone_has_a_verdict(run: RunAnalysis, folder: Path) -> None:
    tell = run.generated["tell"]
    assert run.overall is None
    assert headline(run).startswith("Accuracy of tell (exact_match) ")
    (sentence,) = sentences(run)
    assert "Accuracy of tell (exact_match) " in sentence
    assert f"are the same text: {100 * tell.equal.point:.1f} % [" in sentence
    page, text = render([(read_run(folder), run)]), render_markdown([(read_run(folder), run)])
    for shown in (page, text):
        assert "same text" in shown
        assert "200 generated answers" in shown
    assert json.dumps(as_json(run), allow_nan=False)


def test_the_table_has_every_number(tell: GeneratedAnalysis) -> None:
    grid = generated_table("tell", tell)
    first = tell.accuracy["exact_match,none"]
    assert grid.rows[0][:3] == [
        "exact_match", f"{100 * first.compared.base.point:.1f}", f"{100 * first.compared.quantized.point:.1f}"
    ]  # fmt: skip
    assert [row[0] for row in grid.rows[1:3]] == ["exact_match,loose", "same after the task's filters"]
    assert all(len(row) == len(grid.head) for row in grid.rows)
    unfiltered = generated_table("tell", replace(tell, agree=None, accuracy={}))
    assert unfiltered.rows[0][0] == "same text"


def test_choices_and_answers_stand_side_by_side(made: Rows, tmp_path: Path) -> None:
    both = write(tmp_path / "run", [*items("boolq", 60, 1), *made[0]], answers=made[1])
    found = analyse_run(both, resamples=200)
    assert found.overall is not None
    assert (found.overall.items, list(found.tasks), list(found.generated)) == (60, ["boolq"], ["tell"])
    assert found.unlabelled == 0


def test_variants_are_compared_by_their_answers(made: Rows, tmp_path: Path) -> None:
    worse = [replace(each, base_mean_kl=10 * each.base_mean_kl) for each in made[1]]
    folders = [write(tmp_path / name, made[0], answers=answers) for name, answers in (("one", made[1]), ("two", worse))]
    runs = [(read_run(each), analyse_run(each, resamples=200)) for each in folders]
    variants = compare_variants(runs, None)
    (table,) = variants_tables(variants)
    row = dict(zip(table.head, table.rows[0], strict=True))
    assert row["accuracy of tell, Δ"].startswith("exact_match ")
    assert "KL of the answers of tell" in row
    assert "by KL of the answers of tell, fake/quantized (one)" in reasons(variants)[-1]


def test_items_without_answers_are_named(made: Rows, tmp_path: Path) -> None:
    folder = write(tmp_path / "run", made[0], answers=[each for each in made[1] if each.doc_id != 7])
    with pytest.raises(EvalError, match=r"answers\.parquet has no answers to document 7 of 'tell'$"):
        analyse_run(folder, resamples=200)


def judged(run: RunAnalysis, **rule: Any) -> list[Verdict]:
    return judge([Rule(**rule)], run)


def test_a_rule_on_accuracy_is_on_each_metric_of_right_and_wrong(run: RunAnalysis, tell: GeneratedAnalysis) -> None:
    delta = tell.accuracy["exact_match,none"].compared.delta
    for task in ("tell", "each"):
        both = judged(run, statistic="accuracy", task=task, at_least=delta.low - 0.001)
        assert [each.name for each in both] == ["delta exact_match of tell", "delta exact_match,loose of tell"]
        assert [each.outcome for each in both] == ["pass", "pass"]
    (alone,) = judged(run, statistic="exact_match", task="tell", at_least=delta.high + 0.001)
    assert (alone.outcome, alone.value) == ("fail", delta)
    (alone,) = judged(run, statistic="exact_match,loose", task="tell", of="quantized", at_least=0.99)
    assert (alone.outcome, alone.name) == ("fail", "quantized exact_match,loose of tell")


@pytest.mark.parametrize("name", ["equal", "agree", "common_prefix", "acceptance", "base_kl", "quantized_kl"])
def test_a_rule_on_how_alike_answers_are(run: RunAnalysis, tell: GeneratedAnalysis, name: str) -> None:
    value: Interval = getattr(tell, name)
    for limit, outcome in ((value.low, "pass"), (value.point, "inconclusive"), (value.high * 1.01, "fail")):
        (found,) = judged(run, statistic=name, task="each", at_least=limit)
        assert (found.name, found.value, found.outcome) == (f"{name} of tell", value, outcome)


def test_the_ratio_of_lengths_is_judged_by_its_point(run: RunAnalysis) -> None:
    rule = {"statistic": "length_ratio", "task": "tell", "at_most": 1.5}
    with pytest.raises(EvalError, match="has no 95 % interval, but a spread: expected a rule on common_prefix"):
        judged(run, **rule)
    (found,) = judged(run, **rule, judge="point")
    assert found.outcome == "pass"


def test_each_is_every_task_that_has_the_statistic(made: Rows, tmp_path: Path) -> None:
    rows = [*items("boolq", 60, 1), *items("piqa", 60, 2), *made[0]]
    both = analyse_run(write(tmp_path / "run", rows, answers=made[1]), resamples=200)

    def names(statistic: str, **rule: Any) -> list[str]:
        return [each.name for each in judged(both, statistic=statistic, at_most=1.0, **rule)]

    assert names("flips", task="each") == ["flips of boolq", "flips of piqa"]
    assert names("equal", task="each") == ["equal of tell"]
    assert names("accuracy", task="each") == [
        "delta accuracy of boolq",
        "delta accuracy of piqa",
        "delta exact_match of tell",
        "delta exact_match,loose of tell",
    ]
    assert names("accuracy") == ["delta accuracy of overall"]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"statistic": "flips", "task": "each"}, "there is no task with 'flips', expected one of acceptance, "),
        ({"statistic": "accuracy"}, "there is no task 'overall', expected one of tell"),
        ({"statistic": "score", "task": "tell"}, "there is no statistic 'score', expected one of acceptance, "),
        ({"statistic": "equal", "task": "tell", "of": "base"}, "'equal' is of both models together: leave out of"),
        ({"statistic": "equal", "task": "tell", "over_floor": True}, "'tell' generates answers, which have no noise"),
        ({"statistic": "kl", "task": "each", "over_floor": True}, "there is no task with 'kl', expected one of"),
    ],
)
def test_a_rule_that_no_answer_can_settle_is_refused(run: RunAnalysis, rule: dict[str, Any], message: str) -> None:
    """A rule on nothing would pass."""
    with pytest.raises(EvalError, match=message):
        judged(run, at_most=1.0, **rule)
