"""One replay from end to end: ask for the models, load the items, score them, write the run, show the tables."""

import asyncio
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING

import httpx
from rich.console import Console

from client.api import DEFAULT_TIMEOUT, AsyncClient, Client
from client.bench.corpora import write_corpora
from client.bench.display.final import print_end, print_evaluation, print_heading, print_rules
from client.bench.display.live import make_display
from client.bench.display.scoreboard import Scoreboard
from client.bench.evaluation import evaluate, evaluation_of, part_of
from client.bench.items import Item
from client.bench.journal import JOURNAL, Journal, Key, Past, changes
from client.bench.pace import Pace
from client.bench.replay import Outcome, ReplayOptions, ServerGone, blank, longest_first, replay
from client.bench.sources.lm_eval_tasks import LoadedTasks
from client.bench.sources.load import BenchOptions, load, subject_of
from client.bench.standing import Outcome as RuleOutcome
from client.bench.standing import Standing, standings_of
from client.errors import BadReply
from qconf import __version__
from qconf.run.columns import SCORES, ItemResult
from qconf.run.folder import MANIFEST, Drawn, Manifest, RunError, Subject, Timing, check_target, read_run, write_run
from qconf.wire import Both, ModelInfo, ModelList

if TYPE_CHECKING:
    from client.bench.until import Until

PACKAGES = ("httpx", "lm_eval", "pyarrow", "pydantic")


class Stopped(Exception):
    """The replay ended early; the items scored so far are in its journal."""


class Interrupted(Stopped):
    """The user stopped the replay."""


class RuleFailed(Exception):
    """The replay is complete, and a rule of ``--until`` failed."""


class _Settled(Exception):
    """Nothing more needs to be scored."""


def run_bench(options: BenchOptions, console: Console, transport: httpx.MockTransport | None = None) -> int:
    """Run the bench and return the number of failed items; raise RuleFailed where a rule of ``--until`` fails.

    ``transport`` is for tests.
    """
    if not options.resume:
        check_target(options.out)
    make_until = _until(options)
    with Client(options.url, timeout=min(options.timeout, DEFAULT_TIMEOUT), retries=0, transport=transport) as client:
        served = client.models()
    models = _pair(served)
    # Outside of asyncio, which would delay Ctrl-C until the tasks are loaded.
    with _status(options, console), Client(options.url, timeout=options.timeout, transport=transport) as client:
        loaded = load(options, client)
    until = make_until(loaded) if make_until else None
    subject = subject_of(options, served.server, models, loaded.tasks, until.settings if until else None)
    if options.resume and (options.out / MANIFEST).exists() and not (options.out / JOURNAL).exists():
        return _show_complete(options, console, subject)
    with Journal(options.out / JOURNAL) as journal:
        return _Session(options, console, loaded, subject, journal, until).run(transport)


def _until(options: BenchOptions) -> "Callable[[LoadedTasks], Until] | None":
    """Read the rules at once, and return a function that applies them to the items loaded later."""
    if options.until is None:
        return None
    # Only these replays need scipy.
    from client.bench.until import Until, load_rules

    rules = load_rules(options.until)
    return lambda loaded: Until(rules, [item for task in loaded.tasks for item in task.items], options.seed)


def _pair(served: ModelList) -> Both[ModelInfo]:
    found = {model.id: model for model in served.data}
    if len(served.data) != 2 or len(found) != 2:
        raise BadReply(f"expected a base and a quantized model, got {[model.id for model in served.data]}")
    return Both[ModelInfo](base=found["base"], quantized=found["quantized"])


def _status(options: BenchOptions, console: Console) -> AbstractContextManager[object]:
    return nullcontext() if options.quiet or not console.is_terminal else console.status("loading tasks")


def _show_complete(options: BenchOptions, console: Console, subject: Subject) -> int:
    """Show a complete run; raise RunError where its subject is another."""
    run = read_run(options.out)
    if run.manifest.subject is None:
        raise RunError(f"{run.path} was imported: there is nothing to resume")
    if found := changes(run.manifest.subject, subject):
        raise RunError(f"{run.path} cannot be resumed: {'; '.join(found)}")
    print_evaluation(console, evaluation_of(run))
    standings = standings_of(run.results)
    print_rules(console, standings, run.manifest.drawn)
    console.print(f"The run {run.path} is complete: nothing is left to do", highlight=False, soft_wrap=True)
    _check(standings)
    return run.manifest.counts.failed


def _check(standings: Iterable[Standing]) -> None:
    if failed := [each.name for each in standings if each.outcome == "fail"]:
        raise RuleFailed(f"failed: {'; '.join(failed)}")


class _Session:
    """One process's work on a run."""

    def __init__(
        self,
        options: BenchOptions,
        console: Console,
        loaded: LoadedTasks,
        subject: Subject,
        journal: Journal,
        until: "Until | None",
    ) -> None:
        self._options = options
        self._console = console
        self._loaded = loaded
        self._subject = subject
        self._journal = journal
        self._until = until
        self._items = [item for task in loaded.tasks for item in task.items]
        self._scoreboard = Scoreboard(task.name for task in loaded.tasks)
        self._rows: dict[Key, ItemResult] = {}
        self._failed_before: set[Key] = set()

    def run(self, transport: httpx.MockTransport | None) -> int:
        """Score the remaining items, write the run and show it; return the number of failed items."""
        past = self._journal.begin(self._subject, datetime.now(UTC).isoformat(timespec="milliseconds"))
        self._take_over(past)
        if not self._options.quiet:
            print_heading(self._console, self._options.url, self._subject, len(self._rows))
        begin = time.monotonic()
        self._replay(begin, transport)
        seconds = time.monotonic() - begin
        loaded = self._loaded if self._until is None else part_of(self._loaded, self._until.kept)
        items = [item for task in loaded.tasks for item in task.items]
        corpora = write_corpora(self._options.out, items, self._journal)
        evaluation = evaluate(loaded, lambda task, i: self._rows[task.name, task.items[i].doc_id], corpora)
        standings = self._until.standings() if self._until else []
        drawn = Drawn(items=len(evaluation.rows), of=len(self._items)) if self._until else None
        timing = self._timing(past, seconds, len(evaluation.rows))
        manifest = Manifest(
            created=timing.finished,
            url=self._options.url,
            concurrency=self._options.concurrency,
            include_path=str(self._options.include_path) if self._options.include_path else None,
            subject=self._subject,
            timing=timing,
            counts=evaluation.counts,
            drawn=drawn,
            packages={"python": platform.python_version(), "qconf": __version__} | {p: version(p) for p in PACKAGES},
        )
        results = evaluation.results()
        if drawn:
            results["until"] = drawn.model_dump() | {"rules": [each.model_dump() for each in standings]}
        write_run(self._options.out, manifest, evaluation.rows, results)
        if not evaluation.counts.failed:
            self._journal.delete()
        print_evaluation(self._console, evaluation)
        print_rules(self._console, standings, drawn)
        print_end(self._console, timing, len(evaluation.rows), self._options.out)
        _check(standings)
        return evaluation.counts.failed

    def _take_over(self, past: Past) -> None:
        """Restore the scores of earlier sessions; failed items are tried again."""
        for item in self._items:
            scores = past.entries.get((item.task, item.doc_id))
            if scores is None:
                continue
            if scores["error"] is not None:
                self._failed_before.add((item.task, item.doc_id))
                continue
            self._add(replace(blank(item), **scores))

    def _add(self, row: ItemResult) -> None:
        self._rows[row.task, row.doc_id] = row
        self._scoreboard.add(row)
        if self._until:
            self._until.add(row)

    def _replay(self, begin: float, transport: httpx.MockTransport | None) -> None:
        options = self._options
        todo: Iterable[Item] = self._until.queue() if self._until else self._in_order(self._unscored())
        sizes = {task.name: len(task.items) for task in self._loaded.tasks}
        pace = Pace(sum(item.length for item in self._unscored()))
        display = make_display(self._console, self._scoreboard, sizes, pace, options.quiet, self._rules)

        def sent() -> Iterator[Item]:
            for item in todo:
                pace.send(item)
                yield item

        def take(outcome: Outcome) -> None:
            row = outcome.row
            scores = {name: getattr(row, name) for name in SCORES} | {"tokens": outcome.tokens}
            self._journal.add(row.task, row.doc_id, time.monotonic() - begin, scores)
            self._add(row)
            pace.finish((row.task, row.doc_id))
            display.advance()
            if self._until and self._until.settled:
                raise _Settled

        async def main() -> None:
            async with AsyncClient(
                options.url, timeout=options.timeout, retries=options.retries, transport=transport
            ) as client:
                max_length = options.window or self._subject.models.base.max_model_len
                how = ReplayOptions(options.concurrency, options.add_special_tokens, max_length)
                async with display.shown():
                    await replay(client, sent(), self._subject.models, how, take)

        try:
            asyncio.run(main())
        except _Settled:
            pass
        except KeyboardInterrupt as exc:
            raise Interrupted(self._unfinished("interrupted")) from exc
        except ServerGone as exc:
            raise Stopped(self._unfinished(str(exc))) from exc

    def _unscored(self) -> Iterator[Item]:
        return (item for item in self._items if (item.task, item.doc_id) not in self._rows)

    def _in_order(self, items: Iterable[Item]) -> list[Item]:
        """Long items first, and last those that failed before: one of them may bring the server down."""
        return sorted(longest_first(items), key=lambda item: (item.task, item.doc_id) in self._failed_before)

    def _rules(self) -> list[tuple[str, RuleOutcome]]:
        return self._until.progress() if self._until else []

    def _unfinished(self, why: str) -> str:
        done = f"{self._scoreboard.overall.scored} of {len(self._items)} items are kept"
        return f"{why}; {done} in {self._options.out}: run the same command with --resume to continue"

    def _timing(self, past: Past, seconds: float, items: int) -> Timing:
        total = past.seconds + seconds
        return Timing(
            started=past.started[0],
            finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
            seconds=round(total, 3),
            sessions=len(past.started),
            items_per_second=round(items / total, 3) if total else 0.0,
        )
