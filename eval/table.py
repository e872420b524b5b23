"""The statistics of a run as tables on a terminal."""

import math
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from eval.analysis import Analysis, Compared
from eval.calibration import BrierParts
from eval.intervals import Interval
from eval.routing import threshold_for
from eval.run_analysis import RunAnalysis
from eval.tokens import TokenAnalysis

MOST = 0.8
"""The part of the lost accuracy that routing is asked to win back."""

# Statistic, heading, and whether it is a share, shown in percent.
COMPARED = (
    ("accuracy", "accuracy", True),
    ("acc_norm", "accuracy, by length", True),
    ("confidence", "confidence", True),
    ("true_confidence", "in the true choice", True),
    ("overconfidence", "confidence less accuracy", True),
    ("confidence_right", "when right", True),
    ("confidence_wrong", "when wrong", True),
    ("margin", "margin of the top two", True),
    ("entropy", "entropy, nats", False),
    ("entropy_bits", "entropy, bits", False),
    ("ece", "ECE", True),
    ("ece_equal_mass", "ECE, equal mass", True),
    ("ace", "ACE", True),
    ("mce", "MCE", True),
    ("l2_debiased", "L2 error, debiased", True),
    ("smooth_ece", "smooth ECE", True),
    ("paper_ce", "CE as in the paper", True),
    ("l2_squared", "squared error, debiased", False),
    ("brier", "Brier score, 0 to 2", False),
    ("nll", "NLL, nats", False),
    ("auroc", "AUROC of confidence", False),
    ("risk_coverage_area", "risk-coverage area", False),
)
PAIR = (
    ("flips", "flips", True),
    ("right_to_wrong", "right to wrong", True),
    ("wrong_to_right", "wrong to right", True),
    ("wrong_to_other_wrong", "wrong to other wrong", True),
    ("kl", "KL(base ‖ quantized), nats", False),
    ("reverse_kl", "KL(quantized ‖ base), nats", False),
    ("js", "JS, nats", False),
    ("js_distance", "JS distance", False),
)


def print_run(console: Console, run: RunAnalysis) -> None:
    """All tables of a run, the widest numbers first: overall, tasks, corpora."""
    if run.overall:
        console.print(_overall_table(run, run.overall), "")
        console.print(_pair_table(run, run.overall), "")
        console.print(_bucket_table(run.overall), "")
        console.print(_sentences(run.overall), "")
    if len(run.tasks) > 1:
        console.print(_task_table(run), "")
    for name, corpus in run.corpora.items():
        console.print(_corpus_table(name, corpus), "")
    if run.unlabelled:
        console.print(f"{run.unlabelled} items without a label took no part.", "")
    console.print(brackets(run), style="dim")


def brackets(run: RunAnalysis) -> str:
    """What is in brackets."""
    drawn = f"{run.settings['resamples']} resamples, seed {run.settings['seed']}"
    return (
        f"[ ]: 95 % confidence intervals; * excludes 0. ~( ): where 95 % of resamples lie ({drawn}), which is no "
        "confidence interval: these statistics are larger by chance alone."
    )


def _frame(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 1), pad_edge=False)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _overall_table(run: RunAnalysis, overall: Analysis) -> Table:
    floor = ("noise floor",) if run.floor else ()
    table = _frame(f"{items(overall)}, shares in percent", "base", "quantized", "Δ", "", *floor)
    for name, heading, share in COMPARED:
        if name not in overall.compared:
            continue
        each = overall.compared[name]
        cells = [number(each.base.point, share), number(each.quantized.point, share), *change(each, share)]
        if run.floor:
            cells.append(signed(run.floor.deltas.get(name, math.nan), share))
        table.add_row(heading, *cells)
    return table


def _pair_table(run: RunAnalysis, overall: Analysis) -> Table:
    floor = ("noise floor",) if run.floor else ()
    table = _frame("Both models together, shares in percent", "mean", "", *floor)
    for name, heading, share in PAIR:
        each = overall.pair[name]
        cells = [number(each.point, share), bracket(each, share)]
        if run.floor:
            cells.append(number(run.floor.deltas[name], share))
        table.add_row(heading, *cells)
    return table


def _bucket_table(overall: Analysis) -> Table:
    table = _frame(
        "By the base model's confidence, shares in percent", "items", "accuracy Δ", "in truth Δ", "flips", "KL", "JS"
    )
    for bucket in overall.buckets:
        table.add_row(
            f"{number(bucket.low, True)} to {number(bucket.high, True)}",
            str(bucket.items),
            signed(bucket.accuracy_change, True),
            signed(bucket.true_confidence_change, True),
            number(bucket.flips, True),
            number(bucket.kl, False),
            number(bucket.js, False),
        )
    return table


def _sentences(overall: Analysis) -> str:
    tests, trends, temperatures = overall.tests, overall.trends, overall.temperatures
    by_sign = ", signs flipped by cluster" if overall.clusters else ""
    matching = temperatures.matching
    return "\n".join(
        [
            f"Accuracy: right under one model only {tests.mcnemar.b} (base) and {tests.mcnemar.c} (quantized), "
            f"{mcnemar_name(overall)}, p {p_equals(tests.mcnemar.p_value)}.",
            f"Confidence in the true choice: paired t p {p_equals(tests.paired_t.p_value)}{by_sign}, d = "
            f"{tests.paired_t.effect:+.2f}; Wilcoxon p {p_equals(tests.wilcoxon.p_value)}, r = "
            f"{tests.wilcoxon.effect:+.2f}.",
            f"Trend over the base model's confidence: flips z = {trends.flips.statistic:+.1f} (p "
            f"{p_equals(trends.flips.p_value)}), KL rank correlation {trends.kl.statistic:+.2f} (p "
            f"{p_equals(trends.kl.p_value)}).",
            f"Temperature that calibrates: base {temperatures.base.fit.temperature:.3f}, quantized "
            f"{temperatures.quantized.fit.temperature:.3f} (on the other half of the items, its ECE goes from "
            f"{number(temperatures.quantized.ece_before, True)} to "
            f"{number(temperatures.quantized.ece_after, True)} %); "
            "that gives the quantized model the base's confidence: "
            f"{'none does' if matching is None else f'{matching:.3f}'}.",
            f"Brier score: {brier_sum(overall.base_brier)} (base), {brier_sum(overall.quantized_brier)} (quantized); "
            "reliability less resolution plus uncertainty.",
            routing_sentence(overall),
        ]
    )


def mcnemar_name(overall: Analysis) -> str:
    """The test of accuracy that was made."""
    return "sign-flip test by cluster" if overall.clusters else "exact McNemar test"


def items(overall: Analysis) -> str:
    """How many items there are, and in how many clusters."""
    return f"{overall.items} items" + (f" in {overall.clusters} clusters" if overall.clusters else "")


def brier_sum(parts: BrierParts) -> str:
    """A Brier score as the sum of its parts."""
    return f"{parts.reliability:.4f} - {parts.resolution:.4f} + {parts.uncertainty:.4f}"


def routing_sentence(overall: Analysis) -> str:
    """What it takes to win back most of the accuracy that was lost."""
    found = threshold_for(overall.routing, MOST)
    if found is None:
        return "Sending unsure requests to the base model wins nothing back: no accuracy was lost."
    share, threshold = found
    return (
        f"Sending the {number(share, True)} % of requests with a confidence below "
        f"{number(min(threshold, 1.0), True)} % to the base model wins back {number(MOST, True)} % of the accuracy "
        "lost, and so does every larger share."
    )


def _task_table(run: RunAnalysis) -> Table:
    table = _frame(
        "By task: quantized less base, shares in percent; p of McNemar and of the t-test after Holm's adjustment",
        "items", "accuracy", "", "in truth", "", "overconf.", "", "flips", "p acc.", "p conf.",
    )  # fmt: skip
    for name, task in run.tasks.items():
        table.add_row(
            name,
            str(task.items),
            *change(task.compared["accuracy"], True),
            *change(task.compared["true_confidence"], True),
            *change(task.compared["overconfidence"], True),
            number(task.pair["flips"].point, True),
            p_value(run.adjusted["mcnemar"][name]),
            p_value(run.adjusted["paired_t"][name]),
        )
    return table


def _corpus_table(name: str, corpus: TokenAnalysis) -> Table:
    table = _frame(f"{name}: {corpus.tokens} tokens in {corpus.windows} windows", "", "")
    table.show_header = False
    for row in corpus_rows(corpus):
        table.add_row(*row)
    return table


def corpus_rows(corpus: TokenAnalysis) -> list[tuple[str, str, str]]:
    """Heading, value and interval of each statistic of a corpus."""
    intervals = [
        ("perplexity, base", corpus.base_perplexity, False),
        ("perplexity, quantized", corpus.quantized_perplexity, False),
        ("perplexity, quantized / base", corpus.perplexity_ratio, False),
        ("KL(base ‖ quantized), mean", corpus.means["kl"], False),
        ("KL(quantized ‖ base), mean", corpus.means["reverse_kl"], False),
        ("JS, mean", corpus.means["js"], False),
        ("same likeliest token, %", corpus.means["same_top"], True),
        ("Δp of the token, mean, %", corpus.means["delta_p"], True),
        ("Δp, root mean square, %", corpus.rms_delta_p, True),
        *((f"KL, {label.replace('_', '.')}", each, False) for label, each in corpus.kl_quantiles.items()),
    ]
    rows = [(heading, number(each.point, share), bracket(each, share)) for heading, each, share in intervals]
    return [*rows, ("KL, largest", number(corpus.max_kl, False), "")]


def change(each: Compared, share: bool) -> tuple[str, str]:
    """The difference and its interval; a star where an interval leaves out 0."""
    star = " *" if excludes(each.delta) else "  "
    return signed(each.delta.point, share), f"{bracket(each.delta, share, signed)}{star}"


def number(value: float, share: bool) -> str:
    """A share in percent, or a number with four digits."""
    return "-" if math.isnan(value) else f"{100 * value:.1f}" if share else f"{value:.4f}"


def signed(value: float, share: bool) -> str:
    """The same with its sign."""
    return "-" if math.isnan(value) else f"{100 * value:+.1f}" if share else f"{value:+.4f}"


def excludes(each: Interval, nothing: float = 0.0) -> bool:
    """Whether a confidence interval leaves out what would be no change; of a spread, that says nothing."""
    return each.kind == "interval" and (each.low > nothing or each.high < nothing)


def bracket(each: Interval, share: bool, show: Callable[[float, bool], str] = number) -> str:
    """The ends of an interval in brackets, those of a spread in other ones."""
    ends = f"{show(each.low, share)}, {show(each.high, share)}"
    return f"[{ends}]" if each.kind == "interval" else f"~({ends})"


def p_value(value: float) -> str:
    """A p-value with two significant digits, those that are tiny as a bound."""
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def p_equals(value: float) -> str:
    """The same in a sentence: "= 0.034" or "< 0.0001"."""
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"
