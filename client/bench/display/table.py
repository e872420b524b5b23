"""Tables of a run, in the shape of the paper's: accuracy and confidences of both models, and the changes."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.bench.display.corpus_summary import CorpusSummary
from client.bench.display.scoreboard import ModelSummary, Scoreboard, TaskSummary
from qconf.run.calls import calls_rows
from qconf.run.token_changes import TokenChanges


@dataclass(frozen=True)
class Metric:
    """A column of the table; where more is better, a change is coloured."""

    name: str
    of: Callable[[ModelSummary], float]
    more_is_better: bool


METRICS = (
    Metric("accuracy", lambda model: model.accuracy, True),
    Metric("confidence", lambda model: model.confidence, False),
    Metric("in truth", lambda model: model.true_confidence, True),
)


def summary_table(scoreboard: Scoreboard, console: Console) -> Table:
    """Return a row per task, and one for all where there are several. Shares are in percent.

    Where the console is too narrow, the two models share a cell, with the change below them.
    """
    wide = _filled(_wide_frame(), _add_wide, scoreboard)
    return wide if _fits(wide, console) else _filled(_narrow_frame(), _add_narrow, scoreboard)


def metrics_table(metrics: Mapping[str, Mapping[str, Mapping[str, float | None]]]) -> Table:
    """Return lm-eval's ``metrics[task][model][metric]``, a row per metric of a task or group."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    table.add_column("lm-eval's metrics", overflow="ellipsis", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    _add_numbers(table, "base", "quantized", "Δ")
    for name, models in metrics.items():
        for index, (metric, base) in enumerate(models["base"].items()):
            quantized = models["quantized"][metric]
            change = "-" if base is None or quantized is None else f"{quantized - base:+.4f}"
            table.add_row(
                "" if index else name, metric.removesuffix(",none"), _number(base), _number(quantized), change
            )
    return table


def corpus_table(corpora: Mapping[str, CorpusSummary]) -> Table:
    """Return a column per corpus."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold", caption="KL and JS in nats.")
    table.caption_justify = "left"
    table.add_column("corpus")
    _add_numbers(table, *corpora)
    traces = any(summary.divergent is not None for summary in corpora.values())
    for label, show in (*CORPUS_ROWS, *(TRACE_ROWS if traces else ())):
        table.add_row(label, *(show(summary) for summary in corpora.values()))
    return table


def calls_table(logs: Mapping[str, Mapping[str, int]]) -> Table:
    """Return a column per log of calls: how many there are, and what became of them."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    table.add_column("log")
    _add_numbers(table, *logs)
    for words, counts in calls_rows(list(logs.values())):
        table.add_row(words, *map(str, counts))
    return table


def token_changes_table(name: str, changes: TokenChanges) -> Table:
    """Return a row per token that became likelier or rarer; counts are per 1,000 scored tokens."""
    table = Table(
        box=None,
        padding=(0, 1),
        pad_edge=False,
        header_style="bold",
        title=f"{name}: expected counts of tokens per 1,000",
        title_justify="left",
        title_style="bold",
        caption=f"{changes.changed} of {changes.vocabulary} tokens changed: their 95 % intervals, adjusted to that "
        f"number of tokens, exclude 0. They are over {changes.clusters} windows or records.",
        caption_justify="left",
    )
    table.add_column("token")
    table.add_column("became")
    _add_numbers(table, "base", "quantized", "Δ", "95 %, adjusted")
    for direction, each in changes.listed():
        base, quantized, low, high = (
            1000 * value / changes.positions for value in (each.base, each.quantized, each.low, each.high)
        )
        table.add_row(
            Text(json.dumps(each.text, ensure_ascii=False)),
            direction,
            f"{base:.4g}",
            f"{quantized:.4g}",
            f"{quantized - base:+.3g}",
            Text(f"[{low:+.3g}, {high:+.3g}]"),
        )
    return table


CORPUS_ROWS: tuple[tuple[str, Callable[[CorpusSummary], str]], ...] = (
    ("tokens scored", lambda corpus: str(corpus.tokens)),
    ("perplexity, base", lambda corpus: f"{corpus.base_perplexity:.4f}"),
    ("perplexity, quantized", lambda corpus: f"{corpus.quantized_perplexity:.4f}"),
    ("perplexity, quantized / base", lambda corpus: f"{corpus.perplexity_ratio:.5f}"),
    ("KL(base ‖ quantized), mean", lambda corpus: f"{corpus.mean_kl:.6f}"),
    ("... median", lambda corpus: f"{corpus.median_kl:.6f}"),
    ("... 99th percentile", lambda corpus: f"{corpus.kl_99:.6f}"),
    ("... largest", lambda corpus: f"{corpus.max_kl:.6f}"),
    ("KL(quantized ‖ base), mean", lambda corpus: f"{corpus.mean_reverse_kl:.6f}"),
    ("JS, mean", lambda corpus: f"{corpus.mean_js:.6f}"),
    ("total variation, mean", lambda corpus: _fine(corpus.mean_total_variation)),
    ("same likeliest token", lambda corpus: f"{100 * corpus.same_top:.2f} %"),
    ("Δp of the token, mean", lambda corpus: f"{100 * corpus.mean_delta_p:+.3f} %"),
    ("... root mean square", lambda corpus: f"{100 * corpus.rms_delta_p:.3f} %"),
)
TRACE_ROWS: tuple[tuple[str, Callable[[CorpusSummary], str]], ...] = (
    ("base's text, divergent tokens", lambda corpus: _percent(corpus.divergent)),
    ("... first one, mean position", lambda corpus: _number(corpus.first_divergent)),
    ("... texts without one", lambda corpus: _percent(corpus.identical)),
)
"""Rows of corpora that are the base model's own greedy texts."""


def _fine(value: float | None) -> str:
    return "-" if value is None else f"{value:.6f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _fits(table: Table, console: Console) -> bool:
    unlimited = console.options.update(width=10 * console.width)
    return console.measure(table, options=unlimited).maximum <= console.width


def _filled(table: Table, add: Callable[[Table, str, TaskSummary, str], None], scoreboard: Scoreboard) -> Table:
    for name, tally in scoreboard.tasks.items():
        add(table, name, tally.summary(), "")
    if len(scoreboard.tasks) > 1:
        table.add_section()
        add(table, "overall", scoreboard.overall.summary(), "bold")
    return table


def _frame(caption: str) -> Table:
    table = Table(
        box=None,
        padding=(0, 1),
        pad_edge=False,
        header_style="bold",
        caption=f"{caption}Shares in percent, KL in nats per token. "
        "Confidence is in the choice made; in truth, in the true choice.",
        caption_justify="left",
    )
    # The only column that may shrink.
    table.add_column("\ntask", overflow="ellipsis")
    _add_numbers(table, "\nitems")
    return table


def _add_numbers(table: Table, *headers: str) -> None:
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)


def _wide_frame() -> Table:
    table = _frame("")
    for metric in METRICS:
        _add_numbers(table, "\nbase", f"{metric.name}\nquantized", "\nΔ")
    return _with_last_columns(table)


def _narrow_frame() -> Table:
    table = _frame("Base → quantized, the difference below. ")
    for metric in METRICS:
        _add_numbers(table, f"\n{metric.name}")
    return _with_last_columns(table)


def _with_last_columns(table: Table) -> Table:
    _add_numbers(table, "\nflips", "mean\nKL")
    return table


def _add_wide(table: Table, name: str, summary: TaskSummary, style: str) -> None:
    cells: list[str | Text] = []
    for metric in METRICS:
        base, quantized = metric.of(summary.base), metric.of(summary.quantized)
        cells += [percent(base), percent(quantized), delta(base, quantized, metric.more_is_better)]
    table.add_row(name, str(summary.scored), *cells, flips(summary), divergence(summary.mean_kl), style=style)


def _add_narrow(table: Table, name: str, summary: TaskSummary, style: str) -> None:
    cells = []
    for metric in METRICS:
        base, quantized = metric.of(summary.base), metric.of(summary.quantized)
        cells.append(Text(f"{pair(base, quantized)}\n").append_text(delta(base, quantized, metric.more_is_better)))
    table.add_row(name, str(summary.scored), *cells, flips(summary), divergence(summary.mean_kl), style=style)


def percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"


def pair(base: float, quantized: float) -> str:
    return f"{percent(base)} → {percent(quantized)}"


def delta(base: float, quantized: float, coloured: bool) -> Text:
    """Return quantized minus base in percentage points."""
    if math.isnan(base) or math.isnan(quantized):
        return Text("-")
    text = f"{100 * (quantized - base):+.1f}"
    if text[1:] == "0.0":
        return Text("0.0", style="dim")
    return Text(text, style=("red" if text.startswith("-") else "green") if coloured else "")


def flips(summary: TaskSummary) -> str:
    """Return the number of flips, or "-" where no item has choices."""
    return str(summary.flips) if summary.choosing else "-"


def divergence(nats: float) -> str:
    return "-" if math.isnan(nats) else f"{nats:.4f}"


def duration(seconds: float) -> str:
    """Return seconds, or minutes where they are many."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
