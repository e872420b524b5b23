"""A run's tables and sentences, printed on a terminal."""

from rich.console import Console

from eval.analysis.items import Analysis
from eval.analysis.run import RunAnalysis
from eval.report.floor import floor_tables
from eval.report.generated import generated_table
from eval.report.grid import Grid, print_grid
from eval.report.sentences import (
    brackets,
    findings,
    floor_note,
    routing_sentence,
    temperature_sentence,
)
from eval.report.size import size_sentence, sizes
from eval.report.tables import bucket_table, compared_table, corpus_tables, pair_table, task_table, token_changes_table
from eval.report.variants import Variants, reasons, ship_sentence, variants_tables
from qconf.run.folder import Run


def print_run(console: Console, run: Run, analysis: RunAnalysis) -> None:
    """Print all tables of a run: all items, tasks, generated answers, corpora, noise floor, sizes."""
    if analysis.overall:
        _print_items(console, analysis.overall)
    if len(analysis.tasks) > 1:
        _print_grids(console, [task_table(analysis)])
    _print_grids(console, [generated_table(*each) for each in analysis.generated.items()])
    for name, corpus in analysis.corpora.items():
        _print_grids(console, corpus_tables(name, corpus, analysis.traces.get(name)))
    _print_grids(console, [token_changes_table(name, changes) for name, changes in analysis.token_changes.items()])
    if analysis.floor:
        _print_grids(console, floor_tables(analysis.floor))
        _print_text(console, floor_note(analysis.floor), "")
    if both := sizes(run.manifest):
        _print_text(console, size_sentence(both), "")
    if analysis.unlabelled:
        _print_text(console, f"{analysis.unlabelled} items without a label took no part.", "")
    _print_text(console, brackets(analysis), style="dim")


def print_variants(console: Console, variants: Variants) -> None:
    """Print what several variants of one base lose, how they differ, and which to ship."""
    _print_grids(console, variants_tables(variants))
    _print_text(console, *reasons(variants), ship_sentence(variants), "")
    _print_text(console, brackets(variants.each[0].analysis), style="dim")


def _print_items(console: Console, overall: Analysis) -> None:
    _print_grids(console, [compared_table(overall), pair_table(overall), bucket_table(overall)])
    sentences = [*findings(overall), temperature_sentence(overall), routing_sentence(overall)]
    _print_text(console, *sentences, "")


def _print_grids(console: Console, grids: list[Grid]) -> None:
    for grid in grids:
        print_grid(console, grid)
        console.print()


def _print_text(console: Console, *lines: str, style: str | None = None) -> None:
    """Print sentences as they are: brackets in them are intervals and not rich's markup."""
    for line in lines:
        console.print(line, style=style, markup=False, highlight=False)
