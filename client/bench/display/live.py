"""Progress of a replay: a live screen on a terminal, a line every few seconds elsewhere, or nothing."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from client.bench.display.scoreboard import Scoreboard, Tally
from client.bench.display.table import divergence, flips, pair
from client.bench.standing import STYLES, Outcome

LINE_EVERY = 5.0
# Lines of the screen that are not rows of the table.
FRAME_LINES = 8

Rules = Callable[[], Sequence[tuple[str, Outcome]]]
"""Return each rule's name and its outcome so far; empty where all items are replayed."""


class Display(Protocol):
    """Display that is shown while the context is open; ``advance`` is called after each item."""

    def shown(self) -> AbstractContextManager[object]: ...

    def advance(self) -> None: ...


def make_display(
    console: Console, scoreboard: Scoreboard, sizes: dict[str, int], quiet: bool, rules: Rules = list
) -> Display:
    if quiet:
        return NoDisplay()
    kind = LiveDisplay if console.is_terminal else PlainDisplay
    return kind(console, scoreboard, sizes, rules)


class NoDisplay:
    def shown(self) -> AbstractContextManager[object]:
        return nullcontext()

    def advance(self) -> None:
        pass


class PlainDisplay:
    """A line every few seconds, and one for each rule that is settled, for logs."""

    def __init__(
        self,
        console: Console,
        scoreboard: Scoreboard,
        sizes: dict[str, int],
        rules: Rules = list,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._overall = scoreboard.overall
        self._total = sum(sizes.values())
        # Items of an earlier session do not count for the speed of this one.
        self._before = scoreboard.overall.done
        self._rules = rules
        self._settled = _settled(rules)
        self._clock = clock
        self._started = self._printed = clock()

    def shown(self) -> AbstractContextManager[object]:
        self._started = self._printed = self._clock()
        return nullcontext()

    def advance(self) -> None:
        self._print_settled()
        now = self._clock()
        if now - self._printed < LINE_EVERY and self._overall.done < self._total:
            return
        self._printed = now
        self._console.print(self._line(now - self._started), highlight=False, soft_wrap=True)

    def _print_settled(self) -> None:
        settled = _settled(self._rules)
        for number, (name, outcome) in settled.items():
            if number not in self._settled:
                line = f"{self._overall.done}/{self._total} items, {name}: {outcome}"
                self._console.print(line, highlight=False, soft_wrap=True)
        self._settled = settled

    def _line(self, elapsed: float) -> str:
        done = self._overall.done
        rate = (done - self._before) / elapsed if elapsed > 0 else 0.0
        most = "at most " if self._rules() else ""
        left = f", {most}{(self._total - done) / rate:.0f} s left" if rate and done < self._total else ""
        return f"{done}/{self._total} items, {rate:.1f}/s{left}, {_so_far(self._overall)}"


def _settled(rules: Rules) -> dict[int, tuple[str, Outcome]]:
    """Return the settled rules by number: two rules may have the same name."""
    return {number: each for number, each in enumerate(rules()) if each[1] != "open"}


def _so_far(tally: Tally) -> str:
    summary = tally.summary()
    accuracy = pair(summary.base.accuracy, summary.quantized.accuracy)
    failed = f", {tally.failed} failed" if tally.failed else ""
    return f"accuracy {accuracy} %, {flips(summary)} flips, mean KL {divergence(summary.mean_kl)}{failed}"


class LiveDisplay:
    """A table of the tasks so far, the rules, and one bar over all items."""

    def __init__(self, console: Console, scoreboard: Scoreboard, sizes: dict[str, int], rules: Rules = list) -> None:
        self._console = console
        self._scoreboard = scoreboard
        self._sizes = sizes
        self._rules = rules
        self._progress = Progress(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("items"),
            _Rate(),
            TextColumn("ETA"),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
        )
        self._bar = self._progress.add_task("items", total=sum(sizes.values()))

    def shown(self) -> AbstractContextManager[object]:
        self._progress.reset(self._bar, completed=self._scoreboard.overall.done)
        # Transient: the final table repeats it.
        return Live(console=self._console, get_renderable=self.render, refresh_per_second=5, transient=True)

    def advance(self) -> None:
        self._progress.advance(self._bar)

    def render(self) -> RenderableType:
        rules = (Text(f" {name}: {outcome}", style=STYLES.get(outcome, "dim")) for name, outcome in self._rules())
        return Group(self._table(), *rules, Text(), self._progress.get_renderable())

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 1), header_style="bold", expand=True)
        table.add_column("task", overflow="ellipsis", no_wrap=True, ratio=1)
        for name in ("items", "failed", "accuracy\nbase → quant.", "flips", "mean KL"):
            table.add_column(name, justify="right", no_wrap=True)
        rows = list(self._scoreboard.tasks.items())
        room = max(1, self._console.height - FRAME_LINES - len(self._rules()))
        for name, tally in rows[:room]:
            _add_row(table, name, tally, self._sizes[name])
        if len(rows) > room:
            table.add_row(f"... and {len(rows) - room} tasks more", style="dim")
        if len(rows) > 1:
            _add_row(table, "overall", self._scoreboard.overall, sum(self._sizes.values()), "bold")
        return table


def _add_row(table: Table, name: str, tally: Tally, size: int, style: str = "") -> None:
    summary = tally.summary()
    table.add_row(
        name,
        f"{tally.done}/{size}",
        Text(str(tally.failed), style="red" if tally.failed else "dim"),
        pair(summary.base.accuracy, summary.quantized.accuracy),
        flips(summary),
        divergence(summary.mean_kl),
        style=style if tally.done else "dim",
    )


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.1f}/s", style="cyan")
