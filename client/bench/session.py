"""One replay from end to end: ask for the models, load the items, score them, write the run, show the tables."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from rich.console import Console

from client.api import DEFAULT_TIMEOUT, Client
from client.bench.display.final import (
    print_calls,
    print_complete,
    print_end,
    print_evaluations,
    print_heading,
    print_rules,
)
from client.bench.display.live import make_display
from client.bench.display.scoreboard import Scoreboard
from client.bench.evaluation import Evaluation, evaluation_of, part_of
from client.bench.items import Item, TaskError
from client.bench.journal import JOURNAL, Journal, Key, Past, changes
from client.bench.outcome import Outcomes, kept, restored
from client.bench.pace import Pace
from client.bench.pair_run import PairRun, Replayed
from client.bench.replay import ReplayOptions, ServerGone, longest_first, replay
from client.bench.served import models_of, pairs_of
from client.bench.servers import Servers
from client.bench.sources.lm_eval_tasks import LoadedTasks
from client.bench.sources.load import BenchOptions, load, subject_of
from client.bench.standing import Outcome as RuleOutcome
from client.bench.standing import Standing, standings_of
from client.errors import QconfError
from qconf.run.folder import MANIFEST, Drawn, RunError, Timing, check_target, read_run

if TYPE_CHECKING:
    from client.bench.until import Until


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
    served = models_of(options.urls, min(options.timeout, DEFAULT_TIMEOUT), transport)
    pairs = pairs_of(served, options.variant)
    if options.until and len(pairs) > 1:
        raise TaskError(f"--until judges one variant: expected --variant with one of {', '.join(pairs)}")
    # Outside of asyncio, which would delay Ctrl-C until the tasks are loaded.
    with _status(options, console), Client(options.urls[0], timeout=options.timeout, transport=transport) as client:
        loaded = load(options, client, next(iter(pairs.values())).base, transport)
    until = make_until(loaded) if make_until else None
    settings = until.settings if until else None
    runs = [
        PairRun(
            subject_of(options, served.server, models, loaded.tasks, settings),
            options.out if len(pairs) == 1 else options.out / variant,
        )
        for variant, models in pairs.items()
    ]
    if options.resume and not (options.out / JOURNAL).exists() and (folders := _complete(options.out)):
        return _show_complete(folders, console, runs)
    with Journal(options.out / JOURNAL) as journal:
        return _Session(options, console, loaded, runs, journal, until).run(transport)


def _until(options: BenchOptions) -> "Callable[[LoadedTasks], Until] | None":
    """Read the rules at once, and return a function that applies them to the items loaded later."""
    if options.until is None:
        return None
    # Only these replays need scipy.
    from client.bench.until import Until, load_rules

    rules = load_rules(options.until)
    return lambda loaded: Until(rules, [item for task in loaded.tasks for item in task.items], options.seed)


def _status(options: BenchOptions, console: Console) -> AbstractContextManager[object]:
    return nullcontext() if options.quiet or not console.is_terminal else console.status("loading tasks")


def _complete(out: Path) -> list[Path]:
    """Return the folders of the complete runs of a replay: its own, or one for each variant."""
    return [out] if (out / MANIFEST).exists() else sorted(path.parent for path in out.glob(f"*/{MANIFEST}"))


def _show_complete(folders: Sequence[Path], console: Console, asked: Sequence[PairRun]) -> int:
    """Show complete runs; raise RunError where their subjects are others than those asked for."""
    found, subjects = [read_run(folder) for folder in folders], []
    for run in found:
        if run.manifest.subject is None:
            raise RunError(f"{run.path} was imported: there is nothing to resume")
        subjects.append(run.manifest.subject)
    if changed := changes(subjects, [run.subject for run in asked]):
        raise RunError(f"{', '.join(map(str, folders))} cannot be resumed: {'; '.join(changed)}")
    evaluations = {
        subject.models.quantized.id: evaluation_of(run) for run, subject in zip(found, subjects, strict=True)
    }
    print_evaluations(console, {run.variant: evaluations[run.variant] for run in asked})
    print_calls(console, asked[0].subject)
    standings = standings_of(found[0].results)
    print_rules(console, standings, found[0].manifest.drawn)
    print_complete(console, folders)
    _check(standings)
    return found[0].manifest.counts.failed


def _check(standings: Iterable[Standing]) -> None:
    if failed := [each.name for each in standings if each.outcome == "fail"]:
        raise RuleFailed(f"failed: {'; '.join(failed)}")


class _Session:
    """One process's work on a replay, which becomes a run of each variant. The first is shown while it is replayed."""

    def __init__(
        self,
        options: BenchOptions,
        console: Console,
        loaded: LoadedTasks,
        runs: Sequence[PairRun],
        journal: Journal,
        until: "Until | None",
    ) -> None:
        self._options = options
        self._console = console
        self._loaded = loaded
        self._runs = runs
        self._journal = journal
        self._until = until
        self._items = [item for task in loaded.tasks for item in task.items]
        self._scoreboard = Scoreboard(task.name for task in loaded.tasks)
        self._scored: set[Key] = set()
        self._failed_before: set[Key] = set()

    def run(self, transport: httpx.MockTransport | None) -> int:
        """Score the remaining items, write the run and show it; return the number of failed items."""
        started = datetime.now(UTC).isoformat(timespec="milliseconds")
        past = self._journal.begin([run.subject for run in self._runs], started)
        self._take_over(past)
        if not self._options.quiet:
            subjects = [run.subject for run in self._runs]
            print_heading(self._console, ", ".join(self._options.urls), subjects, len(self._scored))
        begin = time.monotonic()
        self._replay(begin, transport)
        seconds = time.monotonic() - begin
        loaded = self._loaded if self._until is None else part_of(self._loaded, self._until.kept)
        items = sum(len(task.items) for task in loaded.tasks)
        replayed = Replayed(
            options=self._options,
            timing=self._timing(past, seconds, items),
            drawn=Drawn(items=items, of=len(self._items)) if self._until else None,
            standings=self._until.standings() if self._until else [],
        )
        evaluations = self._write(loaded, replayed, transport)
        failed = evaluations[self._runs[0].variant].counts.failed
        if not failed:
            self._journal.delete()
        print_evaluations(self._console, evaluations)
        print_calls(self._console, self._runs[0].subject)
        print_rules(self._console, replayed.standings, replayed.drawn)
        print_end(self._console, replayed.timing, items, [run.folder for run in self._runs])
        _check(replayed.standings)
        return failed

    def _write(
        self, loaded: LoadedTasks, replayed: Replayed, transport: httpx.MockTransport | None
    ) -> dict[str, Evaluation]:
        """Write the runs. The servers have the texts of tokens."""
        options = self._options
        try:
            with Client(
                self._present(transport), timeout=options.timeout, retries=options.retries, transport=transport
            ) as client:
                return {
                    run.variant: run.write(loaded, self._journal, replayed, lambda ids: client.detokenize(ids).prompt)
                    for run in self._runs
                }
        except QconfError as exc:
            raise Stopped(self._unfinished(str(exc))) from exc

    def _present(self, transport: httpx.MockTransport | None) -> str:
        """Return the first server that takes requests, or the last of all."""
        *others, last = self._options.urls
        for url in others:
            with Client(url, transport=transport) as client:
                if client.ready():
                    return url
        return last

    def _take_over(self, past: Past) -> None:
        """Restore the scores of earlier sessions; failed items are tried again."""
        for item in self._items:
            by_variant = past.entries.get((item.task, item.doc_id))
            if by_variant is None:
                continue
            if any(scores["error"] is not None for scores in by_variant.values()):
                self._failed_before.add((item.task, item.doc_id))
                continue
            self._add({variant: restored(item, scores) for variant, scores in by_variant.items()})

    def _add(self, outcomes: Outcomes) -> None:
        for run in self._runs:
            run.add(outcomes[run.variant])
        shown = outcomes[self._runs[0].variant].row
        self._scored.add((shown.task, shown.doc_id))
        self._scoreboard.add(shown)
        if self._until:
            self._until.add(shown)

    def _replay(self, begin: float, transport: httpx.MockTransport | None) -> None:
        options = self._options
        todo: Iterable[Item] = self._until.queue() if self._until else self._in_order(self._unscored())
        sizes = {task.name: len(task.items) for task in self._loaded.tasks}
        pace = Pace(sum(item.length for item in self._unscored()))
        shown = self._runs[0].variant if len(self._runs) > 1 else None
        display = make_display(self._console, self._scoreboard, sizes, pace, options.quiet, self._rules, shown)

        def sent() -> Iterator[Item]:
            for item in todo:
                pace.send(item)
                yield item

        def take(outcomes: Outcomes) -> None:
            row = outcomes[self._runs[0].variant].row
            scores = {variant: kept(outcome) for variant, outcome in outcomes.items()}
            self._journal.add(row.task, row.doc_id, time.monotonic() - begin, scores)
            self._add(outcomes)
            pace.finish((row.task, row.doc_id))
            display.advance()
            if self._until and self._until.settled:
                raise _Settled

        async def main() -> None:
            async with Servers(
                options.urls,
                concurrency=options.concurrency,
                timeout=options.timeout,
                retries=options.retries,
                transport=transport,
            ) as servers:
                pairs = {run.variant: run.subject.models for run in self._runs}
                max_length = options.window or self._runs[0].subject.models.base.max_model_len
                how = ReplayOptions(
                    options.concurrency, options.add_special_tokens, max_length, options.stride, options.expected_counts
                )
                async with display.shown():
                    await replay(servers, sent(), pairs, how, take)

        try:
            asyncio.run(main())
        except _Settled:
            pass
        except KeyboardInterrupt as exc:
            raise Interrupted(self._unfinished("interrupted")) from exc
        except ServerGone as exc:
            raise Stopped(self._unfinished(str(exc))) from exc

    def _unscored(self) -> Iterator[Item]:
        return (item for item in self._items if (item.task, item.doc_id) not in self._scored)

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
