"""The report of runs: one HTML page that needs nothing else, and a short Markdown text that says the same."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

from eval.analysis.items import Analysis
from eval.analysis.run import RunAnalysis
from eval.report.floor import floor_tables
from eval.report.format import number, signed
from eval.report.generated import generated_table
from eval.report.grid import Grid, as_markdown, broken, escaped
from eval.report.links import page_link
from eval.report.plots.buckets import bucket_flips_plot, bucket_shift_plot
from eval.report.plots.divergence import histogram_plot
from eval.report.plots.figure import Plot
from eval.report.plots.forest import forest_plot
from eval.report.plots.reliability import reliability_plot
from eval.report.plots.routing import routing_plot
from eval.report.plots.tradeoff import tradeoff_plot
from eval.report.provenance import provenance_tables
from eval.report.sentences import brackets, findings, floor_note, items
from eval.report.size import size_sentence, sizes
from eval.report.tables import (
    FOREST,
    bucket_table,
    compared_table,
    corpus_tables,
    main_table,
    pair_table,
    paper_table,
    task_table,
    token_changes_table,
)
from eval.report.variants import Variants, reasons, run_names, ship_sentence, variants_tables
from eval.report.verdict import headline, sentences, stopped_sentence
from eval.report.worst import WorstItem, worst_items
from qconf.run.choices import Choices, flip_kinds, read_choices
from qconf.run.folder import Manifest, Run

WORST = 10


@dataclass(frozen=True)
class FlipCell:
    """A count of items by whether the base model (rows) and the quantized one (columns) are right."""

    label: str
    count: int
    share: str
    note: str
    changed: bool


@dataclass(frozen=True)
class ItemsView:
    """The parts of the page about a run's labelled items."""

    reliability: Plot
    buckets: list[Plot]
    bucket_table: Grid
    divergences: list[Plot]
    flips: list[list[FlipCell]]
    forest: list[Plot]
    task_table: Grid
    worst: list[WorstItem]
    routing: Plot
    statistics: list[Grid]
    tests: list[str]


@dataclass(frozen=True)
class RunView:
    """The parts of the page about a run; ``items`` is None where no item has choices."""

    anchor: str
    variant: str
    title: str
    subtitle: str
    headline: str
    sentences: list[str]
    items: ItemsView | None
    generated: list[Grid]
    corpora: list[Grid]
    floor: list[Grid]
    floor_note: str
    note: str
    provenance: list[Grid]


@dataclass(frozen=True)
class VariantsView:
    """The parts of the page about several variants of one base."""

    headline: str
    sentences: list[str]
    tables: list[Grid]
    plots: list[Plot]


def render(runs: Sequence[tuple[Run, RunAnalysis]], variants: Variants | None = None, server: str | None = None) -> str:
    """Return the page: several runs compared as ``variants``, then a section for each.

    With the URL of a ``server``, items link into its page.
    """
    names = run_names([run for run, _ in runs])
    views = [_run_view(place, name, *each) for place, (name, each) in enumerate(zip(names, runs, strict=True), start=1)]
    environment = Environment(
        loader=PackageLoader("eval.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "percent": lambda value: number(value, True),
        "points": lambda value: signed(value, True),
        # Names of tasks have no spaces at which a narrow screen could break them.
        "breakable": lambda text: Markup("_<wbr>").join(text.split("_")),
        "stacked": lambda text: Markup("<br>").join(broken(text).split("\n")),
        "prose": lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%"),
    }
    environment.globals["opened"] = lambda item, variant: (
        page_link(server, item.request, variant) if server and item.request else None
    )
    page = environment.get_template("report.html.j2")
    return page.render(
        runs=views,
        variants=_variants_view(names, variants) if variants else None,
        plotly=Markup(get_plotlyjs()),
    )


def render_markdown(runs: Sequence[tuple[Run, RunAnalysis]], variants: Variants | None = None) -> str:
    """Return the verdict and the main numbers as Markdown, for pull requests."""
    parts = ["# What quantization did to confidence"]
    if variants:
        parts.append(f"**{escaped(ship_sentence(variants))}**")
        parts.append("\n".join(f"- {escaped(each)}" for each in reasons(variants)))
        parts += [as_markdown(each) for each in variants_tables(variants)]
    for name, (run, analysis) in zip(run_names([run for run, _ in runs]), runs, strict=True):
        parts += [f"## {escaped(name)}", f"**{escaped(headline(analysis))}**"]
        parts.append("\n".join(f"- {escaped(each)}" for each in _reasons(run, analysis)))
        if analysis.overall:
            parts.append(as_markdown(main_table(analysis.overall)))
        if len(analysis.tasks) > 1:
            parts.append(as_markdown(task_table(analysis)))
        parts += [as_markdown(generated_table(*each)) for each in analysis.generated.items()]
        parts.append(_note(analysis))
    return "\n\n".join(parts) + "\n"


def _variants_view(names: Sequence[str], variants: Variants) -> VariantsView:
    return VariantsView(
        headline=ship_sentence(variants),
        sentences=reasons(variants),
        tables=variants_tables(variants),
        plots=[tradeoff_plot(names, loss) for loss in variants.losses],
    )


def _run_view(place: int, name: str, run: Run, analysis: RunAnalysis) -> RunView:
    return RunView(
        anchor=f"run-{place}",
        variant=run.manifest.subject.models.quantized.id if run.manifest.subject else "quantized",
        title=name,
        subtitle=_subtitle(run.manifest, analysis),
        headline=headline(analysis),
        sentences=_reasons(run, analysis),
        items=_items_view(run, analysis, analysis.overall) if analysis.overall else None,
        generated=[generated_table(name, each) for name, each in analysis.generated.items()],
        corpora=[
            *(
                each
                for name, corpus in analysis.corpora.items()
                for each in corpus_tables(name, corpus, analysis.traces.get(name))
            ),
            *(token_changes_table(name, changes) for name, changes in analysis.token_changes.items()),
        ],
        floor=floor_tables(analysis.floor) if analysis.floor else [],
        floor_note=floor_note(analysis.floor) if analysis.floor else "",
        note=_note(analysis),
        provenance=provenance_tables(run.manifest, analysis),
    )


def _items_view(run: Run, analysis: RunAnalysis, overall: Analysis) -> ItemsView:
    labelled = read_choices(run).labelled
    divergence = labelled.divergence
    return ItemsView(
        reliability=reliability_plot(overall),
        buckets=[bucket_shift_plot(overall), bucket_flips_plot(overall)],
        bucket_table=bucket_table(overall),
        divergences=[
            histogram_plot(divergence.kl, "KL(base ‖ quantized)"),
            histogram_plot(divergence.js, "Jensen-Shannon divergence"),
        ],
        flips=_flip_matrix(labelled),
        forest=[forest_plot(analysis, overall, name, title) for name, title in FOREST],
        task_table=task_table(analysis),
        worst=worst_items(run, labelled, WORST),
        routing=routing_plot(overall.routing),
        statistics=[
            compared_table(overall),
            pair_table(overall),
            paper_table(run.manifest, analysis),
        ],
        tests=findings(overall),
    )


def _reasons(run: Run, analysis: RunAnalysis) -> list[str]:
    stopped, both = stopped_sentence(run.manifest), sizes(run.manifest)
    return [*([stopped] if stopped else []), *sentences(analysis), *([size_sentence(both)] if both else [])]


def _subtitle(manifest: Manifest, analysis: RunAnalysis) -> str:
    parts = []
    if manifest.subject:
        models = manifest.subject.models
        parts.append(f"{models.base.root} (base) and {models.quantized.root} (quantized)")
    elif manifest.imported:
        parts.append("imported from sample files")
    if analysis.overall:
        tasks = len(analysis.tasks)
        parts.append(f"{items(analysis.overall)} of {tasks} {'task' if tasks == 1 else 'tasks'}")
    parts += [f"{generated.items} generated answers of {name}" for name, generated in analysis.generated.items()]
    parts += [f"{corpus.tokens} tokens of {name}" for name, corpus in analysis.corpora.items()]
    return ", ".join(parts)


def _note(analysis: RunAnalysis) -> str:
    note = f"{brackets(analysis)} Significant: the 95 % interval excludes no change."
    return f"{note} {analysis.unlabelled} items without a label took no part." if analysis.unlabelled else note


def _flip_matrix(labelled: Choices) -> list[list[FlipCell]]:
    base, quantized = labelled.base.correct, labelled.quantized.correct
    other = int(flip_kinds(labelled)["wrong_to_other_wrong"].sum())

    def cell(label: str, count: int, changed: bool, note: str = "") -> FlipCell:
        return FlipCell(label, count, number(count / len(labelled), True), note, changed)

    return [
        [
            cell("right under both", int((base & quantized).sum()), False),
            cell("right to wrong", int((base & ~quantized).sum()), True),
        ],
        [
            cell("wrong to right", int((~base & quantized).sum()), True),
            cell(
                "wrong under both",
                int((~base & ~quantized).sum()),
                False,
                f"of them to another wrong choice: {other} ({number(other / len(labelled), True)} %)",
            ),
        ],
    ]
