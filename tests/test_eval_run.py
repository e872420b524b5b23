"""The analysis of whole runs: agreement of its parts, merging, corpora, and the table and gate commands."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
from scipy import stats  # type: ignore[import-untyped]

from eval.analysis.items import Analysis, analyse
from eval.analysis.model_metrics import estimates, resampled
from eval.analysis.run import RunAnalysis, analyse_run
from eval.analysis.tokens import analyse_tokens
from eval.gate import judge, overall
from eval.report.tables import corpus_tables
from qconf.rules import read_rules
from qconf.run.choices import Choices, EvalError, flip_kinds, read_choices
from qconf.run.folder import TOKENS, read_run
from qconf.statistics.bootstrap import resample, spread
from tests.synthetic_run import items, tokens, window, write

RESAMPLES = 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [*items("boolq", 120, 1, choices=2), *items("piqa", 200, 2), *(window("text", i) for i in range(30))]
    return write(tmp_path_factory.mktemp("runs") / "run", rows, tokens("text", 30, 50, 3))


@pytest.fixture(scope="module")
def run(folder: Path) -> RunAnalysis:
    return analyse_run(folder, resamples=RESAMPLES)


@pytest.fixture(scope="module")
def choices(folder: Path) -> Choices:
    return read_choices(read_run(folder))


def whole(run: RunAnalysis) -> Analysis:
    assert run.overall is not None
    return run.overall


def test_tasks_and_all_of_them(run: RunAnalysis, choices: Choices) -> None:
    assert list(run.tasks) == ["boolq", "piqa"]
    assert [task.items for task in run.tasks.values()] == [120, 200]
    assert whole(run).items == 320
    for name, mask in (("boolq", choices.task == 0), ("piqa", choices.task == 1)):
        accuracy = run.tasks[name].compared["accuracy"]
        assert accuracy.base.point == choices.base.correct[mask].mean()
        assert accuracy.delta.point == pytest.approx(accuracy.quantized.point - accuracy.base.point)
        assert accuracy.delta.low <= accuracy.delta.point <= accuracy.delta.high
    # Only items with as many choices as each other have the paper's estimator.
    assert "paper_ce" in run.tasks["boolq"].compared
    assert "paper_ce" not in whole(run).compared


def test_the_parts_of_the_brier_score_are_of_the_same_items(run: RunAnalysis) -> None:
    for name, task in run.tasks.items():
        for parts, score in (
            (task.base_brier, task.compared["brier"].base),
            (task.quantized_brier, task.compared["brier"].quantized),
        ):
            assert parts.reliability - parts.resolution + parts.uncertainty == pytest.approx(score.point), name


def test_flips_by_kind_add_up(run: RunAnalysis, choices: Choices) -> None:
    pair = whole(run).pair
    flips = choices.base.choice != choices.quantized.choice
    assert pair["flips"].point == flips.mean() > 0
    parts = ("right_to_wrong", "wrong_to_right", "wrong_to_other_wrong")
    assert sum(pair[name].point for name in parts) == pytest.approx(pair["flips"].point)
    change = whole(run).compared["accuracy"].delta.point
    assert pair["net_loss"].point == pytest.approx(-change)
    assert flip_kinds(choices)["right_to_wrong"].sum() == whole(run).tests.mcnemar.b


def test_what_is_resampled_is_what_is_reported(choices: Choices) -> None:
    """The cells of resamples give the statistic's value, or a close one where its definition has more cells."""
    close = {"smooth_ece": 0.01, "risk_coverage_area": 0.01}
    for task in ("boolq", "piqa"):
        part = choices.of_task(task)
        found = resampled(part, part.quantized)
        assert (len(estimates(part, part.quantized)), len(found)) == (14, 8)
        assert {name for name, each in found.items() if each.finest} == set(close)
        for name, each in found.items():
            of_cells = dataclasses.replace(each, finest=None)
            assert of_cells.point == pytest.approx(each.point, abs=close.get(name, 0)), name


@pytest.mark.parametrize("name", ["ece", "mce", "l2_debiased", "smooth_ece", "ace", "risk_coverage_area"])
def test_resampling_by_sums_is_resampling_items(choices: Choices, name: str) -> None:
    """The standard error, against that of whole items drawn with replacement, statistic by statistic."""
    part, rng = choices.of_task("piqa"), np.random.default_rng(0)
    by_sums = resample({name: resampled(part, part.base)[name]}, rng, resamples=400)[name]
    drawn = [rng.integers(len(part), size=len(part)) for _ in range(150)]
    by_items = [
        resampled(again, again.base)[name].point
        for again in (dataclasses.replace(part, **{f: getattr(part, f)[each] for f in FIELDS}) for each in drawn)
    ]
    # Edges of equal mass are not drawn again, and 150 draws estimate a standard error to some 6 %.
    assert by_sums.std() == pytest.approx(np.std(by_items), rel=0.35)


FIELDS = [field.name for field in dataclasses.fields(Choices) if field.name not in ("tasks", "cluster")]


def test_the_order_of_items_changes_no_estimate(choices: Choices) -> None:
    order = np.random.default_rng(0).permutation(len(choices))
    mixed = dataclasses.replace(choices, **{name: getattr(choices, name)[order] for name in FIELDS})
    one, two = (analyse(each, np.random.default_rng(0), 50) for each in (choices, mixed))
    for name, each in one.compared.items():
        assert each.delta.point == pytest.approx(two.compared[name].delta.point, abs=1e-9), name
    assert [bucket.items for bucket in one.buckets] == [bucket.items for bucket in two.buckets]


def test_a_model_beside_itself_shows_nothing(tmp_path: Path) -> None:
    """No change was seen, which does not show that there is none."""
    same = analyse_run(write(tmp_path / "same", items("piqa", 100, 5, noise=0)), resamples=100)
    for name, each in whole(same).compared.items():
        assert each.delta.point == 0
        if each.delta.kind == "spread":
            # A matrix product may round the same column differently at another place.
            assert [each.delta.low, each.delta.high] == pytest.approx([0, 0], abs=1e-12), name
        else:
            assert each.delta.low < 0 < each.delta.high or np.isnan([each.delta.low, each.delta.high]).all(), name
    assert all(each.point == 0 for each in whole(same).pair.values())
    assert whole(same).pair["flips"].high == pytest.approx(1 - 0.025 ** (1 / 100))
    assert whole(same).tests.mcnemar.p_value == whole(same).tests.paired_t.p_value == 1


def test_corpora_are_summed_over_their_tokens(folder: Path, run: RunAnalysis) -> None:
    corpus, table = run.corpora["text"], read_run(folder).tokens
    assert table is not None
    base, quantized, kl = (np.asarray(table[name], np.float64) for name in ("base_logprob", "quantized_logprob", "kl"))
    assert (corpus.tokens, corpus.windows) == (1_500, 30)
    assert corpus.means["kl"].point == pytest.approx(kl.mean())
    assert corpus.base_perplexity.point == pytest.approx(np.exp(-base.mean()))
    assert corpus.perplexity_ratio.point == pytest.approx(np.exp(base.mean() - quantized.mean()))
    delta = np.exp(quantized) - np.exp(base)
    assert corpus.means["delta_p"].point == pytest.approx(delta.mean())
    assert corpus.rms_delta_p.point == pytest.approx(np.sqrt((delta**2).mean()))
    assert list(corpus.kl_quantiles) == ["median", "p90", "p99", "p99_9"]
    expected = np.quantile(kl, [0.5, 0.9, 0.99, 0.999])
    assert [each.point for each in corpus.kl_quantiles.values()] == pytest.approx(expected, rel=1e-5)
    assert corpus.max_kl == kl.max()
    assert corpus.means["total_variation"].point == pytest.approx(np.asarray(table["total_variation"]).mean())
    assert sum(bucket.tokens for bucket in corpus.buckets) == 1_500
    confidence = np.asarray(table["base_confidence"])
    first = corpus.buckets[0]
    assert first.kl == pytest.approx(kl[confidence <= 0.2].mean(), rel=1e-5)
    # The made-up noise does not depend on confidence.
    assert abs(corpus.disagreement_trend.statistic) < 3


def test_intervals_of_corpora_are_clustered_by_window(tmp_path: Path) -> None:
    """All tokens of a window have the same value: what counts is the number of windows."""
    table = tokens("text", 40, 25, 0)
    kl = np.repeat(np.random.default_rng(1).exponential(size=40), 25).astype(np.float32)
    table = table.set_column(table.schema.get_field_index("kl"), table.schema.field("kl"), [kl])
    run = write(tmp_path / "run", [window("text", i) for i in range(40)], table)
    found = analyse_tokens(run, "text").means["kl"]
    width = found.high - found.low
    # Tokens alone would give a fifth of that. The interval also allows for a window beyond those that were seen.
    assert 1 < width / (2 * 1.96 * kl[::25].std() / np.sqrt(40)) < 2


def test_intervals_of_quantiles_are_those_of_drawing_windows(tmp_path: Path) -> None:
    rng, windows = np.random.default_rng(2), 200
    scale = np.repeat(rng.uniform(0.5, 2.0, windows), 30)
    kl = (rng.exponential(size=windows * 30) * scale).astype(np.float32)
    table = tokens("text", windows, 30, 0)
    table = table.set_column(table.schema.get_field_index("kl"), table.schema.field("kl"), [kl])
    run = write(tmp_path / "run", [window("text", i) for i in range(windows)], table)
    found = analyse_tokens(run, "text").kl_quantiles
    by_window = kl.reshape(windows, 30)
    drawn = [np.quantile(by_window[rng.integers(windows, size=windows)], [0.5, 0.9]) for _ in range(2_000)]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    for name, below, above in zip(("median", "p90"), low, high, strict=True):
        width = above - below
        assert (found[name].low, found[name].high) == pytest.approx((below, above), abs=0.12 * width)


def test_a_run_of_an_earlier_version_has_no_total_variation(tmp_path: Path) -> None:
    table = tokens("text", 12, 10, 0)
    run = write(tmp_path / "run", [window("text", i) for i in range(12)], table)
    before = analyse_tokens(run, "text")
    pq.write_table(table.drop_columns(["total_variation"]), run / TOKENS)
    read = read_run(run).tokens
    assert read is not None
    assert read["total_variation"].null_count == len(table)
    found = analyse_tokens(run, "text")
    assert found.means == {name: each for name, each in before.means.items() if name != "total_variation"}
    assert "total variation" not in str(corpus_tables("text", found, None))
    assert "total variation" in str(corpus_tables("text", before, None))


def test_one_window_has_no_interval(tmp_path: Path) -> None:
    run = write(tmp_path / "run", [window("text", 0)], tokens("text", 1, 50, 0))
    median = analyse_tokens(run, "text").kl_quantiles["median"]
    assert median.point > 0
    assert np.isnan([median.low, median.high]).all()


def test_what_cannot_be_analysed_is_said(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EvalError, match="has no tokens of a corpus named 'other'"):
        analyse_tokens(folder, "other")
    unlabelled = [dataclasses.replace(row, label=None) for row in items("piqa", 10, 0)]
    with pytest.raises(EvalError, match="has no labelled multiple-choice items, no generated answers and no corpus"):
        analyse_run(write(tmp_path / "a", unlabelled))
    with pytest.raises(EvalError, match=r"'piqa' of .* has 2 labelled items, expected 3 or more"):
        analyse_run(write(tmp_path / "b", items("piqa", 2, 0)))
    broken = write(tmp_path / "c", [window("text", 0)], tokens("text", 1, 10, 0))
    table = tokens("text", 1, 10, 0)
    kl = np.asarray(table["kl"]).copy()
    kl[4] = np.nan
    write(
        broken,
        [window("text", 0)],
        table.set_column(table.schema.get_field_index("kl"), table.schema.field("kl"), [kl]),
    )
    with pytest.raises(EvalError, match=rf"{TOKENS}, token 4 of 'text': kl is not finite"):
        analyse_run(broken)


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "eval", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )


def test_the_table_command_prints_tables_or_json(folder: Path, tmp_path: Path) -> None:
    text = command("table", folder, "--resamples", 100)
    assert (text.returncode, text.stderr) == (0, "")
    for words in ("320 items", "smooth ECE", "right to wrong", "By task", "text: 1500 tokens in 30 windows", "seed 0"):
        assert words in text.stdout
    numbers = command("table", folder, "--resamples", 100, "--json")
    found = json.loads(numbers.stdout)
    assert found["overall"]["items"] == 320
    assert set(found["overall"]["compared"]["accuracy"]) == {"base", "quantized", "delta"}
    assert found["corpora"]["text"]["tokens"] == 1_500
    wrong = command("table", tmp_path / "nowhere")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (64, 1)
    assert "cannot read" in wrong.stderr


@pytest.mark.parametrize("package", ["scipy", "typer"])
def test_a_missing_package_names_the_extra(package: str) -> None:
    program = f"import sys; sys.modules['{package}'] = None; from eval.__main__ import main; main()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("is missing: install qconf with its extra 'report'\n")
    assert done.stderr.count("\n") == 1


def gate(folder: Path, rules: str) -> Path:
    path = folder / "gate.toml"
    path.write_text(rules)
    return path


def verdicts(run: RunAnalysis, tmp_path: Path, rules: str) -> list[tuple[str, str]]:
    return [(each.outcome, each.message) for each in judge(read_rules(gate(tmp_path, rules)), run)]


def test_a_rule_passes_fails_or_cannot_tell(run: RunAnalysis, tmp_path: Path) -> None:
    flips = whole(run).pair["flips"]
    rules = "".join(
        f'[[rule]]\nstatistic = "flips"\nat_most = {limit}\n' for limit in (0.9, flips.low / 2, flips.point * 1.1)
    )
    found = verdicts(run, tmp_path, rules)
    assert [outcome for outcome, _ in found] == ["pass", "fail", "inconclusive"]
    said = int(found[2][1].partition("about ")[2].partition(" ")[0])
    assert "more items would settle it" in found[2][1]
    # With so many more of the same kind the exact upper bound reaches the limit, with fewer it does not.
    for more, settled in ((said * 1.01, True), (said * 0.99, False)):
        times = (320 + more) / 320
        high = stats.beta.ppf(0.975, 320 * times * flips.point + 1, 320 * times * (1 - flips.point))
        assert (high <= flips.point * 1.1) == settled
    assert overall(judge(read_rules(tmp_path / "gate.toml"), run)) == "fail"


def test_points_tasks_models_and_corpora(run: RunAnalysis, tmp_path: Path) -> None:
    accuracy = run.tasks["piqa"].compared["accuracy"]
    rules = f"""
[[rule]]
statistic = "accuracy"
of = "quantized"
task = "piqa"
judge = "point"
at_least = {accuracy.quantized.point}
[[rule]]
statistic = "true_confidence"
task = "each"
at_least = -1
at_most = 1
[[rule]]
statistic = "perplexity_ratio"
corpus = "text"
at_most = 2
"""
    found = verdicts(run, tmp_path, rules)
    assert [outcome for outcome, _ in found] == ["pass"] * 4
    assert found[0][1].startswith(
        f"quantized accuracy of piqa is {accuracy.quantized.point:.4g} (a point), expected at"
    )
    assert [message.partition(" is ")[0] for _, message in found[1:]] == [
        "delta true_confidence of boolq",
        "delta true_confidence of piqa",
        "perplexity_ratio of text",
    ]


def test_a_few_items_pass_no_rule(tmp_path: Path) -> None:
    """Three items, or a corpus of one window, whatever they say and however they are judged."""
    rows = [*items("piqa", 3, 0, noise=0), window("text", 0)]
    run = analyse_run(write(tmp_path / "run", rows, tokens("text", 1, 50, 0)), resamples=100)
    rules = "".join(
        f'[[rule]]\nstatistic = "{statistic}"\n{limit}\njudge = "{judged}"\n'
        for statistic, limit in (("flips", "at_most = 0.999"), ("accuracy", "at_least = -0.999"))
        for judged in ("interval", "point")
    )
    rules += '[[rule]]\nstatistic = "perplexity_ratio"\ncorpus = "text"\nat_most = 99\n'
    found = verdicts(run, tmp_path, rules)
    assert [outcome for outcome, _ in found] == ["inconclusive"] * 5
    assert {message.partition(": ")[2] for _, message in found} == {
        "17 more items are needed, in all 20, for any verdict",
        "9 more windows are needed, in all 10, for any verdict",
    }


def test_items_without_a_flip_say_how_many_more_would_settle_it(tmp_path: Path) -> None:
    run = analyse_run(write(tmp_path / "run", items("piqa", 50, 0, noise=0)), resamples=100)
    ((outcome, message),) = verdicts(run, tmp_path, '[[rule]]\nstatistic = "flips"\nat_most = 0.001\n')
    assert outcome == "inconclusive"
    # The upper bound of n clean items is 1 - 0.025 ** (1 / n).
    needed = np.log(0.025) / np.log(1 - 0.001) - 50
    assert int(message.partition("about ")[2].partition(" ")[0]) == pytest.approx(needed, rel=0.002)


def test_a_statistic_without_an_interval_is_judged_only_as_a_point(run: RunAnalysis, tmp_path: Path) -> None:
    for statistic, instead in (
        ("ece", "overconfidence, l2_squared, brier or nll"),
        ("l2_debiased", "l2_squared"),
        ("risk_coverage_area", "auroc"),
    ):
        rule = f'[[rule]]\nstatistic = "{statistic}"\nat_most = 1\n'
        with pytest.raises(EvalError, match=f"'{statistic}' has no 95 % interval.* a rule on {instead} in its place"):
            verdicts(run, tmp_path, rule)
        ((outcome, message),) = verdicts(run, tmp_path, f'{rule}judge = "point"\n')
        assert outcome == "pass"
        assert " (a point), expected at most 1" in message


def test_what_a_run_has_none_of_is_inconclusive(tmp_path: Path) -> None:
    """A task without wrong answers has no confidence when wrong, and no curve."""
    right = []
    for row in items("easy", 60, 0, noise=0.1):
        logprobs = [-20.0 + 9.0 * (place == row.label) + 0.01 * row.doc_id for place in range(4)]
        right.append(dataclasses.replace(row, base_logprob=logprobs, quantized_logprob=[x - 0.1 for x in logprobs]))
    run = analyse_run(write(tmp_path / "run", right), resamples=100)
    rules = "".join(
        f'[[rule]]\nstatistic = "{statistic}"\nof = "quantized"\nat_most = 1\n'
        for statistic in ("confidence_wrong", "auroc")
    )
    for outcome, message in verdicts(run, tmp_path, rules):
        assert outcome == "inconclusive"
        assert message.endswith("20 more wrong answers are needed, in all 20, for any verdict")


def test_what_does_not_vary_is_inconclusive(tmp_path: Path) -> None:
    run = analyse_run(write(tmp_path / "run", items("piqa", 100, 5, noise=0)), resamples=100)
    ((outcome, message),) = verdicts(run, tmp_path, '[[rule]]\nstatistic = "kl"\nat_most = 1\n')
    assert outcome == "inconclusive"
    assert message.endswith("more items with a share in its sum are needed, in all 15, for any verdict")


BAD_RULES: list[Any] = [
    ("", "'rule': field required"),
    ("rule = []", "at least 1 item"),
    ("[[rule]]\nat_most = 1", "'rule[0].statistic': field required"),
    ('[[rule]]\nstatistic = "ece"', "the rule on 'ece' has no limit: expected at_least, at_most or both"),
    ('[[rule]]\nstatistic = "ece"\nat_most = "1"', "'rule[0].at_most': input should be a valid number, got '1'"),
    ('[[rule]]\nstatistic = "ece"\nat_most = nan', "finite number"),
    ('[[rule]]\nstatistic = "ece"\nat_most = 1\nat_least = 2', "at_least is 2.0, expected no more than at_most, 1.0"),
    ('[[rule]]\nstatistic = "ece"\nat_mots = 1', "'rule[0].at_mots': extra inputs"),
    ('[[rule]]\nstatistic = "ece"\nat_most = 1\ntask = "a"\ncorpus = "b"', "either a task or a corpus, not both"),
    ("[[rule]\n", "is no TOML"),
    ('[[rule]]\nstatistic = "eec"\nat_most = 1', "there is no statistic 'eec', expected one of acc_norm, accuracy, "),
    (
        '[[rule]]\nstatistic = "ece"\nat_most = 1\ntask = "pica"',
        "there is no task 'pica', expected one of boolq, ov",
    ),
    ('[[rule]]\nstatistic = "kl"\nat_most = 1\ncorpus = "c"', "there is no corpus 'c', expected one of text"),
    ('[[rule]]\nstatistic = "flips"\nof = "base"\nat_most = 1', "is of both models together: leave out of"),
    ('[[rule]]\nstatistic = "ece"\nover_floor = true\nat_most = 1', "and there is none: expected --floor RUN"),
]


@pytest.mark.parametrize(("rules", "message"), BAD_RULES)
def test_a_bad_rule_is_told(run: RunAnalysis, tmp_path: Path, rules: str, message: str) -> None:
    with pytest.raises(EvalError) as caught:
        judge(read_rules(gate(tmp_path, rules)), run)
    assert message in str(caught.value)


@pytest.mark.parametrize(("limit", "code", "outcome"), [(1, 0, "pass"), (0, 1, "fail")])
def test_the_gate_command(folder: Path, tmp_path: Path, limit: int, code: int, outcome: str) -> None:
    rules = gate(tmp_path, f'[[rule]]\nstatistic = "flips"\nat_most = {limit}\n')
    done = command("gate", folder, "--config", rules, "--resamples", 100, "--junit", tmp_path / "junit.xml")
    assert (done.returncode, done.stderr) == (code, "")
    first, last = done.stdout.splitlines()
    assert first.startswith(f"{outcome.upper():12} flips of overall is 0.")
    assert last == f"{folder}: {outcome}"
    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("1", str(code))
    assert len(suite.findall("testcase/failure")) == code
    numbers = command("gate", folder, "--config", rules, "--resamples", 100, "--json")
    assert json.loads(numbers.stdout)["outcome"] == outcome


def test_the_gate_command_tells_inconclusive_and_bad_input_apart(
    folder: Path, run: RunAnalysis, tmp_path: Path
) -> None:
    rules = gate(tmp_path, f'[[rule]]\nstatistic = "flips"\nat_most = {whole(run).pair["flips"].point}\n')
    assert command("gate", folder, "--config", rules, "--resamples", 100).returncode == 2
    wrong = command("gate", folder, "--config", tmp_path / "none.toml")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (64, 1)


def test_intervals_are_around_their_points(run: RunAnalysis) -> None:
    assert spread(1.0, np.array([0.0, 2.0]), 2).kind == "spread"
    for name, each in whole(run).compared.items():
        assert each.quantized.low <= each.quantized.high, name
        assert each.delta.low <= each.delta.high, name
        if each.delta.kind == "interval":
            assert each.delta.low < each.delta.point < each.delta.high, name
