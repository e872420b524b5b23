"""The tables of a run, for the page, for Markdown and for the terminal."""

import json

from eval.analysis.items import Analysis
from eval.analysis.run import RunAnalysis
from eval.analysis.tokens import TokenAnalysis
from eval.analysis.traces import TraceAnalysis
from eval.report.format import bracket, change, number, p_value, signed, with_interval
from eval.report.grid import Grid
from eval.report.paper import paper_rows
from eval.report.sentences import items
from qconf.run.folder import Manifest
from qconf.run.token_changes import TokenChanges

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
BY_CONFIDENCE = (
    ("accuracy_change", "accuracy Δ", True),
    ("true_confidence_change", "in truth Δ", True),
    ("flips", "flips", True),
    ("log_odds_spread", "Δ log-odds, sd", False),
    ("kl", "KL of choices", False),
    ("js", "JS of choices", False),
)
PAIR = (
    ("flips", "flips", True),
    ("right_to_wrong", "right to wrong", True),
    ("wrong_to_right", "wrong to right", True),
    ("wrong_to_other_wrong", "wrong to other wrong", True),
    ("kl", "KL(base ‖ quantized) of choices, nats", False),
    ("reverse_kl", "KL(quantized ‖ base) of choices, nats", False),
    ("js", "JS of choices, nats", False),
    ("js_distance", "JS distance of choices", False),
    ("total_variation", "total variation of choices", False),
)
MAIN = ("accuracy", "true_confidence", "confidence", "overconfidence", "brier", "nll")
FOREST = (
    ("accuracy", "Accuracy"),
    ("true_confidence", "Confidence in the true choice"),
    ("overconfidence", "Confidence less accuracy"),
)
MAIN_PAIR = ("flips", "kl", "js")
HEADINGS = {name: (heading, share) for name, heading, share in (*COMPARED, *PAIR)} | {
    "true_confidence": ("confidence in the true choice", True)
}
BRACKETS = "[ ]: 95 % interval, * excludes 0; ~( ): spread of resamples, not an interval."


def main_table(overall: Analysis) -> Grid:
    """Return the main numbers of a run."""
    rows = []
    for name in MAIN:
        heading, share = HEADINGS[name]
        each = overall.compared[name]
        rows.append(
            [heading, number(each.base.point, share), number(each.quantized.point, share), *change(each.delta, share)]
        )
    for name in MAIN_PAIR:
        heading, share = HEADINGS[name]
        rows.append([heading, "", "", number(overall.pair[name].point, share), bracket(overall.pair[name], share)])
    return Grid("", [f"{items(overall)}, shares in percent", "base", "quantized", "Δ or mean", "95 %"], rows)


def compared_table(overall: Analysis) -> Grid:
    """Return every statistic of both models and their differences."""
    rows = []
    for name, heading, share in COMPARED:
        if name not in overall.compared:
            continue
        each = overall.compared[name]
        cells = [with_interval(each.base, share), with_interval(each.quantized, share), *change(each.delta, share)]
        rows.append([heading, *cells])
    head = ["", "base", "quantized", "Δ", "95 % of Δ"]
    return Grid(f"Both models on {items(overall)}, shares in percent. {BRACKETS}", head, rows)


def pair_table(overall: Analysis) -> Grid:
    """Return every statistic of both models together."""
    rows = [
        [heading, number(overall.pair[name].point, share), bracket(overall.pair[name], share)]
        for name, heading, share in PAIR
    ]
    return Grid(
        "Both models together, shares in percent. Divergences of choices are between the models' confidences "
        "in an item's choices, not per token.",
        ["", "mean", "95 %"],
        rows,
    )


def bucket_table(overall: Analysis) -> Grid:
    """Return means by the base model's confidence, each with what constant noise would give below it."""
    rows = []
    for each, bands in zip(overall.buckets, overall.null.buckets, strict=True):
        cells, under_null = [], []
        for name, heading, share in BY_CONFIDENCE:
            show = signed if heading.endswith("Δ") else number
            cells.append(show(getattr(each, name), share))
            under_null.append(f"[{show(bands[name].low, share)}, {show(bands[name].high, share)}]")
        name = f"{number(each.low, True)} to {number(each.high, True)}"
        rows.append([name, str(each.items), number(each.base_accuracy, True), *cells])
        rows.append(["constant noise", "", "", *under_null])
    return Grid(
        "By the base model's confidence, shares in percent; below each row the middle 95 % of what noise of the same "
        "size on all items gives.",
        ["confidence of base", "items", "base accuracy", *(heading for _, heading, _ in BY_CONFIDENCE)],
        rows,
    )


def task_table(analysis: RunAnalysis) -> Grid:
    """Return the main differences of each task."""
    rows = [
        [
            name,
            str(task.items),
            *(" ".join(change(task.compared[statistic].delta, True)) for statistic, _ in FOREST),
            number(task.pair["flips"].point, True),
            p_value(analysis.adjusted["mcnemar"][name]),
            p_value(analysis.adjusted["paired_t"][name]),
        ]
        for name, task in analysis.tasks.items()
    ]
    head = ["task", "items", "accuracy Δ", "in truth Δ", "overconf. Δ", "flips", "p acc.", "p conf."]
    return Grid(
        "By task: quantized minus base, shares in percent; p of McNemar's test and of the t-test after Holm's "
        "adjustment. * excludes 0.",
        head,
        rows,
    )


def paper_table(manifest: Manifest, analysis: RunAnalysis) -> Grid:
    """Return the paper's table, with the authors' calibration errors where the model is theirs."""
    rows = paper_rows(manifest, analysis)
    known = any(row.authors for row in rows)
    head = ["task", "accuracy", "CE as in the paper", "confidence", "in truth", *(["authors' CE"] if known else [])]
    return Grid(
        caption="As in the paper: base → quantized, in percent.",
        head=head,
        rows=[
            [
                row.task,
                *(
                    f"{base:.2f} → {quantized:.2f}"
                    for base, quantized in (row.accuracy, row.calibration_error, row.confidence, row.true_confidence)
                ),
                *([f"{row.authors[0]:.2f} → {row.authors[1]:.2f}" if row.authors else "-"] if known else []),
            ]
            for row in rows
        ],
    )


def corpus_tables(name: str, corpus: TokenAnalysis, trace: TraceAnalysis | None) -> list[Grid]:
    """Return the statistics of a corpus, and means by the base model's confidence."""
    buckets = [
        [
            f"{number(each.low, True)} to {number(each.high, True)}", str(each.tokens), number(each.kl, False),
            number(each.js, False), number(each.same_top, True), signed(each.mean_delta_p, True),
            number(each.rms_delta_p, True),
        ]
        for each in corpus.buckets
    ]  # fmt: skip
    return [
        Grid(
            f"{name}: {corpus.tokens} tokens in {corpus.windows} windows; divergences in nats.",
            ["", "value", "95 %"],
            _corpus_rows(corpus, trace),
        ),
        Grid(
            f"{name}: by the base model's confidence at each place, shares in percent. What constant noise would give "
            "is unknown here: the run has no log-odds between tokens.",
            ["confidence of base", "tokens", "KL", "JS", "same token", "mean Δp", "RMS Δp"],
            buckets,
        ),
    ]


def token_changes_table(name: str, changes: TokenChanges) -> Grid:
    """Return a row per token that became likelier or rarer in a corpus."""

    def per_thousand(count: float) -> float:
        return 1000 * count / changes.positions

    return Grid(
        f"{name}: tokens that became likelier or rarer, expected counts per 1,000 scored tokens. Those of the largest "
        f"rise and fall are shown of {changes.changed} whose interval excludes 0 (95 % for all {changes.vocabulary} "
        f"tokens of the vocabulary together, over {changes.clusters} windows).",
        ["token", "became", "base", "quantized", "Δ"],
        [
            [
                json.dumps(each.text, ensure_ascii=False),
                direction,
                f"{per_thousand(each.base):.4g}",
                f"{per_thousand(each.quantized):.4g}",
                f"{per_thousand(each.quantized - each.base):+.3g} "
                f"[{per_thousand(each.low):+.3g}, {per_thousand(each.high):+.3g}]",
            ]
            for direction, each in changes.listed()
        ],
    )


def _corpus_rows(corpus: TokenAnalysis, trace: TraceAnalysis | None) -> list[tuple[str, str, str]]:
    """Return heading, value and interval of each statistic of a corpus."""
    intervals = [
        ("perplexity, base", corpus.base_perplexity, False),
        ("perplexity, quantized", corpus.quantized_perplexity, False),
        ("perplexity, quantized / base", corpus.perplexity_ratio, False),
        ("KL(base ‖ quantized), mean", corpus.means["kl"], False),
        ("KL(quantized ‖ base), mean", corpus.means["reverse_kl"], False),
        ("JS, mean", corpus.means["js"], False),
        ("total variation, mean", corpus.means.get("total_variation"), False),
        ("same likeliest token, %", corpus.means["same_top"], True),
        ("Δp of the token, mean, %", corpus.means["delta_p"], True),
        ("Δp, root mean square, %", corpus.rms_delta_p, True),
        *((f"KL, {label.replace('_', '.')}", each, False) for label, each in corpus.kl_quantiles.items()),
    ]
    rows = [(heading, number(each.point, share), bracket(each, share)) for heading, each, share in intervals if each]
    rows.append(("KL, largest", number(corpus.max_kl, False), ""))
    return rows + _trace_rows(trace) if trace else rows


def _trace_rows(trace: TraceAnalysis) -> list[tuple[str, str, str]]:
    first = trace.first_divergent
    return [
        ("base's text, divergent tokens, %", number(trace.divergent.point, True), bracket(trace.divergent, True)),
        ("... first divergent token, mean position", number(first.point, False), bracket(first, False)),
        ("... texts without one, %", number(trace.identical.point, True), bracket(trace.identical, True)),
        ("... likeliest of the base again, %", number(trace.reproduced, True), ""),
    ]
