"""The statistics of a run as tables on a terminal."""

import math
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from eval.analysis.floor import Floor, ItemFloor
from eval.analysis.items import Analysis, Compared
from eval.analysis.null import Band, NullTest
from eval.analysis.run import RunAnalysis
from eval.analysis.token_floor import TokenFloor
from eval.analysis.tokens import TokenAnalysis
from qconf.statistics.forecasts import BrierParts
from qconf.statistics.intervals import Interval
from qconf.statistics.routing import threshold_for

LEAST_LIKELY = 0.05
"""P-value below which a trend is called statistically significant."""
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
FLOOR_HEAD = ("base twice", "quantized twice", "base to quantized, over the floor")
ITEM_FLOOR = (
    ("flips", "flips", True),
    ("confidence_shift", "confidence in the true choice, |Δ|", True),
    ("kl", "KL, nats", False),
    ("js", "JS, nats", False),
    ("accuracy", "accuracy, Δ", True),
    ("true_confidence", "in the true choice, Δ", True),
    ("confidence", "confidence, Δ", True),
)
TOKEN_FLOOR = (
    ("top_changed", "other likeliest token", True),
    ("abs_delta_p", "Δp of the token, |Δ|", True),
    ("abs_delta_logprob", "its log-probability, |Δ|", False),
    ("token_kl", "KL of its coming next, nats", False),
    ("kl", "KL, nats: at most", False),
)
BY_CONFIDENCE = (
    ("accuracy_change", "accuracy Δ", True),
    ("true_confidence_change", "in truth Δ", True),
    ("flips", "flips", True),
    ("log_odds_spread", "Δ log-odds, sd", False),
    ("kl", "KL", False),
    ("js", "JS", False),
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
    ("total_variation", "total variation", False),
)


def print_run(console: Console, run: RunAnalysis) -> None:
    """All tables of a run, the widest numbers first: overall, tasks, corpora."""
    if run.overall:
        console.print(_overall_table(run.overall), "")
        console.print(_pair_table(run.overall), "")
        console.print(_bucket_table(run.overall), "")
        console.print(_sentences(run.overall), "")
    if len(run.tasks) > 1:
        console.print(_task_table(run), "")
    for name, corpus in run.corpora.items():
        console.print(_corpus_table(name, corpus), "")
    if run.floor:
        for title, floor in floors(run.floor):
            console.print(_floor_table(title, floor), "")
        console.print(floor_note(run.floor), "")
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


def _overall_table(overall: Analysis) -> Table:
    table = _frame(f"{items(overall)}, shares in percent", "base", "quantized", "Δ", "")
    for name, heading, share in COMPARED:
        if name not in overall.compared:
            continue
        each = overall.compared[name]
        table.add_row(
            heading, number(each.base.point, share), number(each.quantized.point, share), *change(each, share)
        )
    return table


def _pair_table(overall: Analysis) -> Table:
    table = _frame("Both models together, shares in percent", "mean", "")
    for name, heading, share in PAIR:
        each = overall.pair[name]
        table.add_row(heading, number(each.point, share), bracket(each, share))
    return table


def _bucket_table(overall: Analysis) -> Table:
    table = _frame(
        "By the base model's confidence, shares in percent; below, the middle 95 % of what noise of one size gives",
        "items",
        *(heading for _, heading, _ in BY_CONFIDENCE),
    )
    for bucket, bands in zip(overall.buckets, overall.null.buckets, strict=True):
        cells, low, high = [], [], []
        for name, heading, share in BY_CONFIDENCE:
            show = signed if heading.endswith("Δ") else number
            cells.append(show(getattr(bucket, name), share))
            low.append(show(bands[name].low, share))
            high.append(show(bands[name].high, share))
        table.add_row(f"{number(bucket.low, True)} to {number(bucket.high, True)}", str(bucket.items), *cells)
        table.add_row("  constant noise: from", "", *low, style="dim")
        table.add_row("  to", "", *high, style="dim")
    return table


def _sentences(overall: Analysis) -> str:
    tests, temperatures = overall.tests, overall.temperatures
    by_sign = ", signs flipped by cluster" if overall.clusters else ""
    matching = temperatures.matching
    return "\n".join(
        [
            f"Accuracy: right under one model only {tests.mcnemar.b} (base) and {tests.mcnemar.c} (quantized), "
            f"{mcnemar_name(overall)}, p {p_equals(tests.mcnemar.p_value)}.",
            f"Confidence in the true choice: paired t p {p_equals(tests.paired_t.p_value)}{by_sign}, d = "
            f"{tests.paired_t.effect:+.2f}; Wilcoxon p {p_equals(tests.wilcoxon.p_value)}, r = "
            f"{tests.wilcoxon.effect:+.2f}.",
            trend_sentence(overall),
            log_odds_sentence(overall),
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


def trend_sentence(overall: Analysis) -> str:
    """Trends over the base model's confidence, each with the same under the null."""
    null = overall.null
    return (
        f"Trends over the base model's confidence, of the run and of constant noise ({null.simulations} permutations"
        f"{f' of {null.items} items drawn at random' if null.items < overall.items else ''}): flips "
        f"z = {_with_null(null.flip_trend, 1)}; rank correlation of KL {_with_null(null.kl_trend, 2)}; of the size "
        f"of the shift {_with_null(null.shift_trend, 2)}; of the change of log-odds "
        f"{_with_null(null.log_odds_trend, 2)}."
    )


def log_odds_sentence(overall: Analysis) -> str:
    """Whether quantization disturbs items more where the base model is unsure, in log-odds, where the null is even."""
    test, least, most = overall.null.log_odds_trend, overall.buckets[0], overall.buckets[-1]
    if not any(each.log_odds_spread for each in overall.buckets):
        return "No change of log-odds varies among items."
    found = (
        f"the standard deviation of the change is {least.log_odds_spread:.2f} where the base model is least sure and "
        f"{most.log_odds_spread:.2f} where it is surest; trend over its confidence, p {p_equals(test.p_value)}"
    )
    if test.p_value >= LEAST_LIKELY:
        return (
            f"In log-odds, unsure items do not change significantly more or less than sure ones ({found}): noise of "
            "one size on all items is enough to explain which answers change."
        )
    if test.observed < test.expected.expected:
        return (
            f"In log-odds, unsure items change significantly more than sure ones ({found}): noise of one size on all "
            "items does not explain that."
        )
    return (
        f"In log-odds, unsure items change significantly less than sure ones ({found}): their answers change because "
        "their choices are close, not because they are disturbed more."
    )


def band(each: Band, share: bool) -> str:
    """What constant noise would give."""
    return f"{number(each.expected, share)} [{number(each.low, share)}, {number(each.high, share)}]"


def _with_null(test: NullTest, digits: int) -> str:
    observed, expected, low, high = (
        f"{each:+.{digits}f}" for each in (test.observed, test.expected.expected, test.expected.low, test.expected.high)
    )
    return f"{observed} (noise: {expected} [{low}, {high}], p {p_equals(test.p_value)})"


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


def _floor_table(title: str, floor: ItemFloor | TokenFloor) -> Table:
    table = _frame(title, *FLOOR_HEAD)
    for row in floor_rows(floor):
        table.add_row(*row)
    return table


def floors(floor: Floor) -> list[tuple[str, ItemFloor | TokenFloor]]:
    """The floors to show, with their titles: of all items, and of each corpus."""
    items: list[tuple[str, ItemFloor | TokenFloor]] = (
        [("Noise floor of the items, shares in percent", floor.overall)] if floor.overall else []
    )
    return items + [
        (f"Noise floor of {name}, {each.tokens} tokens at their places, shares in percent", each)
        for name, each in floor.corpora.items()
    ]


def floor_rows(floor: ItemFloor | TokenFloor) -> list[list[str]]:
    """For each statistic the floor of either model and the excess, each with its interval; FLOOR_HEAD heads them."""
    rows = []
    for name, heading, share in ITEM_FLOOR if isinstance(floor, ItemFloor) else TOKEN_FLOOR:
        show = _fine if name in floor.excess else signed
        row = [heading]
        for part in (floor.base, floor.quantized, floor.excess):
            row.append(f"{show(part[name].point, share)} {bracket(part[name], share, show)}" if name in part else "-")
        rows.append(row)
    if isinstance(floor, TokenFloor):
        change = f"{_fine(floor.kl_change.point, False)} {bracket(floor.kl_change, False, _fine)}"
        rows.append(["KL(base ‖ quantized), |change|", change, "", "-"])
    return rows


def _fine(value: float, share: bool) -> str:
    """As ``number``, but of divergences, which in a floor are tiny, the first digits that are not zero."""
    return number(value, share) if share or math.isnan(value) else f"{value:.3g}"


def floor_note(floor: Floor) -> str:
    """What a floor is, where it comes from, and what could not be checked."""
    ways = f", {', '.join(floor.ways)}" if floor.ways else ""
    models = "" if floor.same_models else " Imported runs have no digests: that the models are the same is not checked."
    return (
        f"The noise floor is what the same model shows in a second run ({floor.path}{ways}); over the floor is what "
        f"base and quantized differ by beyond the smaller of the two.{models}"
    )


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
