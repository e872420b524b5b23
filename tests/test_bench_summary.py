"""The bench's summary of a run: sums checked by hand and against scipy, and the table that shows them."""

import dataclasses
import io
import math
import random

import pytest
from rich.console import Console
from scipy.special import softmax as scipy_softmax  # type: ignore[import-untyped]

from client.bench.display.live import LiveDisplay, PlainDisplay
from client.bench.display.scoreboard import Scoreboard, Tally, chosen, softmax
from client.bench.display.table import duration, metrics_table, summary_table
from client.bench.pace import Pace
from qconf.run.columns import ItemResult
from tests.test_bench_pace import text_item
from tests.test_results import FAILED, SCORED


def item(
    base: list[float], quantized: list[float], label: int | None, kl: float | None = 0.1, task: str = "boolq"
) -> ItemResult:
    return dataclasses.replace(
        SCORED, task=task, base_logprob=base, quantized_logprob=quantized, label=label, mean_kl=kl
    )


def test_softmax_agrees_with_scipy() -> None:
    rng = random.Random(0)
    for size in (1, 2, 4, 100):
        logprobs = [rng.uniform(-50, 0) for _ in range(size)]
        assert softmax(logprobs) == pytest.approx(scipy_softmax(logprobs), rel=1e-12)


def test_softmax_survives_numbers_whose_exponentials_do_not() -> None:
    assert softmax([-5000.0, -5000.0]) == [0.5, 0.5]
    assert softmax([-5000.0, 0.0]) == [0.0, 1.0]


@pytest.mark.parametrize("logprobs", [[], [math.nan, -1.0], [-math.inf, -1.0]])
def test_softmax_refuses_what_is_no_logprob(logprobs: list[float]) -> None:
    with pytest.raises(ValueError, match="logprobs: expected one finite number or more, got"):
        softmax(logprobs)


def test_a_tie_goes_to_the_first_choice() -> None:
    assert chosen([-2.0, -1.0, -1.0]) == 1


def test_a_tally_by_hand() -> None:
    tally = Tally()
    ln = math.log
    tally.add(item([ln(0.8), ln(0.2)], [ln(0.4), ln(0.6)], label=0, kl=0.1))
    tally.add(item([ln(0.3), ln(0.7)], [ln(0.1), ln(0.9)], label=1, kl=0.3))
    # Without a label it counts for confidence, flips and KL, not for accuracy.
    tally.add(item([ln(0.6), ln(0.4)], [ln(0.5), ln(0.5)], label=None, kl=None))
    tally.add(FAILED)
    summary = tally.summary()
    assert (summary.scored, summary.failed, summary.flips, tally.done) == (3, 1, 1, 4)
    assert summary.base.accuracy == 1.0
    assert summary.quantized.accuracy == 0.5
    assert summary.base.confidence == pytest.approx((0.8 + 0.7 + 0.6) / 3)
    assert summary.quantized.confidence == pytest.approx((0.6 + 0.9 + 0.5) / 3)
    assert summary.base.true_confidence == pytest.approx((0.8 + 0.7) / 2)
    assert summary.quantized.true_confidence == pytest.approx((0.4 + 0.9) / 2)
    assert summary.mean_kl == pytest.approx(0.2)


def test_single_continuations_are_right_where_they_are_greedy() -> None:
    tally = Tally()
    for base, quantized in ((True, True), (True, False)):
        row = dataclasses.replace(
            SCORED,
            kind="loglikelihood",
            label=None,
            base_logprob=[math.log(0.6)],
            quantized_logprob=[math.log(0.2)],
            base_is_greedy=[base],
            quantized_is_greedy=[quantized],
        )
        tally.add(row)
    summary = tally.summary()
    assert (summary.scored, summary.choosing) == (2, 0)
    assert (summary.base.accuracy, summary.quantized.accuracy) == (1.0, 0.5)
    assert summary.base.true_confidence == pytest.approx(0.6)
    assert math.isnan(summary.base.confidence)


def test_whole_texts_count_for_divergence_alone() -> None:
    tally = Tally()
    tally.add(dataclasses.replace(SCORED, kind="loglikelihood_rolling", base_logprob=[-9.0], mean_kl=0.25))
    summary = tally.summary()
    assert (summary.scored, summary.choosing, summary.mean_kl) == (1, 0, 0.25)
    assert math.isnan(summary.base.accuracy)


def test_a_tally_of_nothing_has_no_means() -> None:
    summary = Tally().summary()
    assert math.isnan(summary.base.accuracy)
    assert math.isnan(summary.mean_kl)


def test_a_bad_number_names_its_item() -> None:
    with pytest.raises(ValueError, match="boolq, document 0: logprobs: expected one finite number"):
        Tally().add(item([-1.0, math.nan], [-1.0, -2.0], label=0))


def board(tasks: int) -> Scoreboard:
    scoreboard = Scoreboard(f"a_task_with_a_name_{index}" for index in range(tasks))
    ln = math.log
    for name in scoreboard.tasks:
        scoreboard.add(item([ln(0.2), ln(0.8)], [ln(0.3), ln(0.7)], label=1, task=name))
        scoreboard.add(item([ln(0.2), ln(0.8)], [ln(0.6), ln(0.4)], label=0, task=name))
    return scoreboard


def console(width: int, terminal: bool = False) -> Console:
    return Console(file=io.StringIO(), width=width, height=24, force_terminal=terminal, color_system=None)


def shown(output: Console) -> str:
    assert isinstance(output.file, io.StringIO)
    return output.file.getvalue()


def test_the_wide_table_has_both_models_and_the_change_side_by_side() -> None:
    output = console(120)
    output.print(summary_table(board(2), output))
    lines = [" ".join(line.split()) for line in shown(output).splitlines()]
    assert lines[1] == "task items base quantized Δ base quantized Δ base quantized Δ flips KL"
    expected = "a_task_with_a_name_0 2 50.0 100.0 +50.0 80.0 65.0 -15.0 50.0 65.0 +15.0 1 0.1000"
    assert lines[2] == expected
    assert lines[4] == expected.replace("a_task_with_a_name_0 2", "overall 4").replace(" 1 0.1", " 2 0.1")


def test_the_narrow_table_says_the_same_within_its_width() -> None:
    output = console(80)
    output.print(summary_table(board(2), output))
    text = shown(output)
    assert max(len(line) for line in text.splitlines()) <= 80
    for cell in ("50.0 → 100.0", "+50.0", "80.0 → 65.0", "-15.0", "50.0 → 65.0", "0.1000"):
        assert cell in text


def test_one_task_needs_no_overall_row_and_missing_numbers_are_dashes() -> None:
    output = console(120)
    scoreboard = Scoreboard(["boolq"])
    scoreboard.add(FAILED)
    output.print(summary_table(scoreboard, output))
    assert "overall" not in shown(output)
    assert "boolq 0 - - - - - - - - - - -" in " ".join(shown(output).split())


def test_lines_count_all_items_and_the_pace_of_this_session() -> None:
    now = 100.0
    output, scoreboard = console(80), Scoreboard(["boolq"])
    scoreboard.add(SCORED)
    rest = [text_item(number, 100) for number in range(4)]
    pace = Pace(sum(item.length for item in rest), clock=lambda: now)
    display = PlainDisplay(output, scoreboard, {"boolq": 5}, pace)
    for item, row in zip(rest, (SCORED, SCORED, SCORED, FAILED), strict=True):
        pace.send(item)
        now += 2.5
        scoreboard.add(row)
        pace.finish((item.task, item.doc_id))
        display.advance()
        if item is rest[1]:
            display.print_line()
    assert shown(output).splitlines() == [
        "3/5 items, 0.4/s, 5 s left, accuracy 100.0 → 100.0 %, 0 flips, mean KL 0.0150",
        "5/5 items, 0.4/s, accuracy 100.0 → 100.0 %, 0 flips, mean KL 0.0150, 1 failed",
    ]


def test_long_times_are_in_minutes() -> None:
    assert [duration(seconds) for seconds in (4.6, 89, 90, 3600)] == ["5 s", "89 s", "2 min", "60 min"]


def test_metrics_of_lm_eval_stand_side_by_side() -> None:
    output = console(100)
    metrics: dict[str, dict[str, dict[str, float | None]]] = {
        "boolq": {
            "base": {"acc,none": 0.5, "ppl,none": 9.0, "f1,strict": 0.1},
            "quantized": {"acc,none": 0.25, "ppl,none": 10.0, "f1,strict": 0.1},
        },
        "piqa": {"base": {"acc,none": None}, "quantized": {"acc,none": 0.5}},
    }
    output.print(metrics_table(metrics))
    lines = [" ".join(line.split()) for line in shown(output).splitlines()]
    assert lines[1:] == [
        "boolq acc 0.5000 0.2500 -0.2500",
        "ppl 9.0000 10.0000 +1.0000",
        "f1,strict 0.1000 0.1000 +0.0000",
        "piqa acc - 0.5000 -",
    ]


@pytest.mark.parametrize("tasks", [1, 2, 60])
def test_the_live_screen_fits_the_terminal(tasks: int) -> None:
    output, scoreboard = console(80, terminal=True), board(tasks)
    pace = Pace(1.0)
    pace.send(text_item(0, 100))
    display = LiveDisplay(output, scoreboard, dict.fromkeys(scoreboard.tasks, 5), pace)
    lines = output.render_lines(display.render())
    assert len(lines) <= 24
    text = "\n".join("".join(segment.text for segment in line) for line in lines)
    assert "2/5" in text
    assert "50.0 → 100.0" in text
    assert f"{2 * tasks}/{5 * tasks} items, 1 in flight" in text
    assert ("overall" in text) is (tasks > 1)
    assert ("tasks more" in text) is (tasks == 60)
