"""The report's tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from eval.analysis.floor import Floor
from eval.analysis.items import Analysis
from eval.analysis.run import RunAnalysis
from eval.analysis.tokens import TokenAnalysis
from eval.report.paper import paper_rows
from eval.report.terminal import (
    BY_CONFIDENCE,
    COMPARED,
    FLOOR_HEAD,
    PAIR,
    bracket,
    change,
    corpus_rows,
    floor_rows,
    floors,
    items,
    log_odds_sentence,
    mcnemar_name,
    number,
    p_equals,
    p_value,
    signed,
    trend_sentence,
)
from qconf.run.folder import Manifest, Run
from qconf.statistics.intervals import Interval

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
BRACKETS = "[ ]: 95 % interval, * excludes 0; ~( ): spread of resamples, no interval."


@dataclass(frozen=True)
class Grid:
    """A table: the first column heads its rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def summary_table(names: Sequence[str], runs: Sequence[tuple[Run, RunAnalysis]]) -> Grid:
    analyses = [analysis for _, analysis in runs]
    corpora = list(dict.fromkeys(name for each in analyses for name in each.corpora))
    rows = [
        ["base", *(_model(run.manifest, "base") for run, _ in runs)],
        ["quantized", *(_model(run.manifest, "quantized") for run, _ in runs)],
        ["of", *(items(each.overall) if each.overall else "-" for each in analyses)],
        *([_delta_heading(name), *(_delta_cell(each.overall, name) for each in analyses)] for name in MAIN),
        *([HEADINGS[name][0], *(_pair_cell(each.overall, name) for each in analyses)] for name in MAIN_PAIR),
        *(
            [f"perplexity ratio, {name}", *(_ratio_cell(each.corpora.get(name)) for each in analyses)]
            for name in corpora
        ),
    ]
    return Grid("Deltas are quantized minus base, shares in percent; * excludes 0.", ["", *names], rows)


def _model(manifest: Manifest, role: str) -> str:
    return getattr(manifest.subject.models, role).root if manifest.subject else "imported"


def _delta_heading(name: str) -> str:
    return f"{HEADINGS[name][0]}, Δ"


def _delta_cell(overall: Analysis | None, name: str) -> str:
    return " ".join(change(overall.compared[name], HEADINGS[name][1])).strip() if overall else "-"


def _pair_cell(overall: Analysis | None, name: str) -> str:
    return (
        f"{number(overall.pair[name].point, HEADINGS[name][1])} {bracket(overall.pair[name], HEADINGS[name][1])}"
        if overall
        else "-"
    )


def _ratio_cell(corpus: TokenAnalysis | None) -> str:
    return (
        f"{number(corpus.perplexity_ratio.point, False)} {bracket(corpus.perplexity_ratio, False)}" if corpus else "-"
    )


def main_table(overall: Analysis) -> Grid:
    rows = []
    for name in MAIN:
        heading, share = HEADINGS[name]
        each = overall.compared[name]
        rows.append(
            [heading, number(each.base.point, share), number(each.quantized.point, share), *change(each, share)]
        )
    for name in MAIN_PAIR:
        heading, share = HEADINGS[name]
        rows.append([heading, "", "", number(overall.pair[name].point, share), bracket(overall.pair[name], share)])
    return Grid("", [f"{items(overall)}, shares in percent", "base", "quantized", "Δ or mean", "95 %"], rows)


def compared_table(overall: Analysis) -> Grid:
    rows = []
    for name, heading, share in COMPARED:
        if name not in overall.compared:
            continue
        each = overall.compared[name]
        cells = [_with_interval(each.base, share), _with_interval(each.quantized, share), *change(each, share)]
        rows.append([heading, *cells])
    head = ["", "base", "quantized", "Δ", "95 % of Δ"]
    return Grid(f"Both models on {items(overall)}, shares in percent. {BRACKETS}", head, rows)


def pair_table(overall: Analysis) -> Grid:
    rows = [
        [heading, number(overall.pair[name].point, share), bracket(overall.pair[name], share)]
        for name, heading, share in PAIR
    ]
    return Grid("Both models together, shares in percent.", ["", "mean", "95 %"], rows)


def floor_tables(floor: Floor) -> list[Grid]:
    return [Grid(f"{title}.", ["", *FLOOR_HEAD], floor_rows(each)) for title, each in floors(floor)]


def _with_interval(each: Interval, share: bool) -> str:
    return f"{number(each.point, share)} {bracket(each, share)}"


def bucket_table(overall: Analysis) -> Grid:
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
        "size on all items would give.",
        ["confidence of base", "items", "base accuracy", *(heading for _, heading, _ in BY_CONFIDENCE)],
        rows,
    )


def task_table(analysis: RunAnalysis) -> Grid:
    rows = [
        [
            name,
            str(task.items),
            *(" ".join(change(task.compared[statistic], True)).strip() for statistic, _ in FOREST),
            number(task.pair["flips"].point, True),
            p_value(analysis.adjusted["mcnemar"][name]),
            p_value(analysis.adjusted["paired_t"][name]),
        ]
        for name, task in analysis.tasks.items()
    ]
    head = ["task", "items", "accuracy Δ", "in truth Δ", "overconf. Δ", "flips", "p acc.", "p conf."]
    return Grid(
        "Quantized minus base, shares in percent; p of McNemar's test and of the t-test after Holm's adjustment. "
        "* excludes 0.",
        head,
        rows,
    )


def paper_table(manifest: Manifest, analysis: RunAnalysis) -> Grid:
    """The paper's table, and the authors' calibration errors where the model is theirs."""
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


def tests_in_words(overall: Analysis) -> list[str]:
    tests = overall.tests
    by_sign = " (signs flipped by cluster)" if overall.clusters else ""
    return [
        f"Accuracy: {tests.mcnemar.b} items right under the base model only, {tests.mcnemar.c} under the quantized one "
        f"only; {mcnemar_name(overall)}, p {p_equals(tests.mcnemar.p_value)}.",
        f"Confidence in the true choice: paired t-test, p {p_equals(tests.paired_t.p_value)}{by_sign}, d = "
        f"{tests.paired_t.effect:+.2f}; Wilcoxon's test, p {p_equals(tests.wilcoxon.p_value)}, r = "
        f"{tests.wilcoxon.effect:+.2f}.",
        trend_sentence(overall),
        log_odds_sentence(overall),
    ]


def corpus_tables(name: str, corpus: TokenAnalysis) -> list[Grid]:
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
            corpus_rows(corpus),
        ),
        Grid(
            f"{name}: by the base model's confidence at each place, shares in percent. What constant noise would give "
            "is unknown here: the run has no log-odds between tokens.",
            ["confidence of base", "tokens", "KL", "JS", "same token", "mean Δp", "RMS Δp"],
            buckets,
        ),
    ]


def provenance_tables(manifest: Manifest, analysis: RunAnalysis) -> list[Grid]:
    tables = [_run_table(manifest, analysis)]
    if manifest.subject:
        models, settings = manifest.subject.models, manifest.subject.settings
        base, quantized = models.base.model_dump(), models.quantized.model_dump()
        fields = ("root", "revision", "digest", "architecture", "dtype", "quantization", "max_model_len")
        tables += [
            Grid("Models", ["", "base", "quantized"], [[f, _shown(base[f]), _shown(quantized[f])] for f in fields]),
            Grid(
                "Tasks and corpora",
                ["name", "version", "few-shot", "items", "digest"],
                [[t.name, t.version, str(t.num_fewshot), str(t.items), t.digest] for t in manifest.subject.tasks],
            ),
            Grid(
                "Settings",
                ["", "value"],
                [[name.replace("_", " "), _shown(value)] for name, value in settings.model_dump().items()],
            ),
        ]
    if manifest.imported:
        files = [("base", manifest.imported.base), ("quantized", manifest.imported.quantized)]
        tables.append(
            Grid("Imported files", ["model", "file"], [[role, file] for role, names in files for file in names])
        )
    return [*tables, Grid("Packages", ["name", "version"], [list(each) for each in manifest.packages.items()])]


def _run_table(manifest: Manifest, analysis: RunAnalysis) -> Grid:
    rows = [
        ["folder", analysis.path],
        ["created", manifest.created],
        ["items", f"{manifest.counts.items}, of which {manifest.counts.failed} failed"],
        ["bootstrap", f"{analysis.settings['resamples']} resamples, seed {analysis.settings['seed']}"],
    ]
    if analysis.floor:
        rows.append(["noise floor", ", ".join([analysis.floor.path, *analysis.floor.ways])])
    if manifest.subject:
        server = manifest.subject.server
        rows.append(["server", f"qconf {server.version}, vLLM {server.vllm}, {server.device}"])
        rows += [["url", _shown(manifest.url)], ["concurrency", _shown(manifest.concurrency)]]
        rows.append(["task folder", _shown(manifest.include_path)])
    if manifest.timing:
        timing = manifest.timing
        rows.append(["started, finished", f"{timing.started}, {timing.finished}"])
        rows.append(["at work", f"{timing.seconds:.1f} s, {timing.items_per_second:.1f} items/s"])
        rows.append(["sessions", str(timing.sessions)])
    return Grid("Run", ["", "value"], rows)


def _shown(value: object) -> str:
    if value is None or value == []:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else repr(value) if value == " " else str(value)
