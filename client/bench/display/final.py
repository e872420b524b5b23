"""Output of the bench before and after a replay."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.bench.display.answers import answers_table, summarize_answers
from client.bench.display.scoreboard import Scoreboard
from client.bench.display.table import calls_table, corpus_table, metrics_table, summary_table, token_changes_table
from client.bench.evaluation import Evaluation
from client.bench.standing import Standing, rules_table
from qconf.run.columns import OF_CORPORA, ItemResult
from qconf.run.folder import Drawn, Subject, Timing
from qconf.show.text import described


def print_heading(console: Console, url: str, subjects: Sequence[Subject], done: int) -> None:
    """Print the models, the server and the tasks; ``done`` items were scored by earlier sessions."""
    subject = subjects[0]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for model in (subject.models.base, *(each.models.quantized for each in subjects)):
        grid.add_row(model.id, described(model))
    server = subject.server
    grid.add_row("server", f"{url} (qconf {server.version}, vLLM {server.vllm}, {server.device})")
    before = f", {done} of them done before" if done else ""
    grid.add_row("tasks", f"{len(subject.tasks)}, {sum(task.items for task in subject.tasks)} items{before}")
    if until := subject.settings.until:
        grid.add_row("until", f"its rules are settled; items in random order, seed {until.seed}")
    console.print(grid, "")


def print_evaluations(console: Console, evaluations: Mapping[str, Evaluation]) -> None:
    """Print the tables of each variant, under its name where there are several, and the first failed item."""
    for variant, evaluation in evaluations.items():
        if len(evaluations) > 1:
            console.print(Text(variant, "bold"))
        _print_tables(console, evaluation)
    # Items fail under all variants or none.
    _print_failed(console, next(iter(evaluations.values())).rows)


def _print_tables(console: Console, evaluation: Evaluation) -> None:
    # Corpora and generated answers have no choices, but tables of their own.
    of_tasks = [row for row in evaluation.rows if row.kind not in (*OF_CORPORA, "generate_until")]
    if of_tasks:
        scoreboard = Scoreboard(dict.fromkeys(row.task for row in of_tasks))
        for row in of_tasks:
            scoreboard.add(row)
        console.print(summary_table(scoreboard, console), "")
    if metrics := evaluation.metrics | evaluation.groups:
        console.print(metrics_table(metrics), "")
    if evaluation.answers:
        console.print(answers_table(summarize_answers(evaluation.answers)), "")
    for name, why in evaluation.without_metrics.items():
        console.print(f"lm-eval's metrics of {name} cannot be computed: {why}", highlight=False, soft_wrap=True)
    if evaluation.corpora:
        console.print(corpus_table(evaluation.corpora), "")
    for name, changes in evaluation.token_changes.items():
        console.print(token_changes_table(name, changes), "")


def _print_failed(console: Console, rows: Sequence[ItemResult]) -> None:
    failed = [row for row in rows if row.error is not None]
    if failed:
        first = failed[0]
        console.print(
            f"{len(failed)} of {len(rows)} items failed, the first of them document {first.doc_id} of "
            f"{first.task}: {first.error}. The same command with --resume tries them again.",
            style="red",
            markup=False,
            highlight=False,
        )


def print_calls(console: Console, subject: Subject) -> None:
    """Print what became of the calls of logs."""
    if logs := subject.logs:
        console.print(calls_table(logs), "")
    for task in subject.tasks:
        if task.refusal:
            console.print(
                f"The server refused {task.name}, {task.refusal}", markup=False, highlight=False, soft_wrap=True
            )


def print_rules(console: Console, standings: Sequence[Standing], drawn: Drawn | None) -> None:
    """Print the rules of a replay with ``--until``."""
    if drawn is None:
        return
    if drawn.items < drawn.of:
        said = f"Only {drawn.items} of {drawn.of} items were drawn: the tables above show only these."
        console.print(said, highlight=False, soft_wrap=True)
    console.print(rules_table(standings), "")


def print_end(console: Console, timing: Timing, items: int, folders: Sequence[Path]) -> None:
    """Print the duration and the runs' folders."""
    speed = f"{items} items in {timing.seconds:.1f} s, {timing.items_per_second:.1f}/s"
    written = f"{'Run' if len(folders) == 1 else 'Runs'} written to {', '.join(map(str, folders))}"
    console.print(f"{speed}. {written}", markup=False, highlight=False, soft_wrap=True)


def print_complete(console: Console, folders: Sequence[Path]) -> None:
    """Print the folders of complete runs."""
    runs = f"The run {folders[0]} is" if len(folders) == 1 else f"The runs {', '.join(map(str, folders))} are"
    console.print(f"{runs} complete: nothing is left to do", markup=False, highlight=False, soft_wrap=True)
