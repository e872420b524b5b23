"""Progress of a replay: a live screen on a terminal, a line every few seconds elsewhere, or nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from client.bench.display.scoreboard import Scoreboard, Tally
from client.bench.display.table import divergence, duration, flips, pair
from client.bench.pace import Pace
from client.bench.standing import STYLES, Outcome

LINE_EVERY = 5.0
# Lines of the screen that are not rows of the table.
FRAME_LINES = 8

Rules = Callable[[], Sequence[tuple[str, Outcome]]]
"""Return each rule's name and its outcome so far; empty where all items are replayed."""


class Display(Protocol):
    """Display that is shown while the context is open; ``advance`` is called after each item."""

    def shown(self) -> AbstractAsyncContextManager[object]: ...

    def advance(self) -> None: ...


def make_display(
    console: Console,
    scoreboard: Scoreboard,
    sizes: dict[str, int],
    pace: Pace,
    quiet: bool,
    rules: Rules = list,
    variant: str | None = None,
) -> Display:
    """Return the display of a replay. ``variant`` names the one whose ``scoreboard`` it is, where there are several."""
    if quiet:
        return NoDisplay()
    kind = LiveDisplay if console.is_terminal else PlainDisplay
    return kind(console, scoreboard, sizes, pace, rules, variant)


class NoDisplay:
    def shown(self) -> AbstractAsyncContextManager[object]:
        return nullcontext()

    def advance(self) -> None:
        pass


class PlainDisplay:
    """A line every few seconds, even while no item is finished, and one for each rule that is settled, for logs."""

    def __init__(
        self,
        console: Console,
        scoreboard: Scoreboard,
        sizes: dict[str, int],
        pace: Pace,
        rules: Rules = list,
        variant: str | None = None,
    ) -> None:
        self._console = console
        self._overall = scoreboard.overall
        self._total = sum(sizes.values())
        self._pace = pace
        self._rules = rules
        self._variant = variant
        self._settled = _settled(rules)

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        lines = asyncio.create_task(self._print_lines())
        try:
            yield
        finally:
            lines.cancel()
            with suppress(asyncio.CancelledError):
                await lines

    async def _print_lines(self) -> None:
        while True:
            await asyncio.sleep(LINE_EVERY)
            self.print_line()

    def advance(self) -> None:
        settled = _settled(self._rules)
        for number, (name, outcome) in settled.items():
            if number not in self._settled:
                self._print(f"{self._overall.done}/{self._total} items, {name}: {outcome}")
        self._settled = settled
        if self._overall.done == self._total:
            self.print_line()

    def print_line(self) -> None:
        """Print what is done, in flight and left."""
        parts = [_progress(self._overall, self._total, self._pace, bool(self._rules()))]
        if self._overall.done:
            parts.append((f"{self._variant}: " if self._variant else "") + _so_far(self._overall))
        self._print(", ".join(parts))

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True)


def _progress(overall: Tally, total: int, pace: Pace, may_stop_early: bool) -> str:
    """Return what is done, in flight and left; numbers that are not known yet are left out."""
    parts = [f"{overall.done}/{total} items"]
    if pace.in_flight:
        parts.append(f"{pace.in_flight} in flight")
    if (rate := pace.items_per_second()) is not None:
        parts.append(f"{rate:.1f}/s")
    if overall.done < total and (left := pace.seconds_left()) is not None:
        parts.append(f"{'at most ' if may_stop_early else ''}{duration(left)} left")
    return ", ".join(parts)


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

    def __init__(
        self,
        console: Console,
        scoreboard: Scoreboard,
        sizes: dict[str, int],
        pace: Pace,
        rules: Rules = list,
        variant: str | None = None,
    ) -> None:
        self._console = console
        self._scoreboard = scoreboard
        self._sizes = sizes
        self._pace = pace
        self._rules = rules
        self._variant = variant

    @asynccontextmanager
    async def shown(self) -> AsyncIterator[None]:
        # Transient: the final table repeats it.
        with Live(console=self._console, get_renderable=self.render, refresh_per_second=5, transient=True):
            yield

    def advance(self) -> None:
        """Do nothing: the screen is rendered several times a second."""

    def render(self) -> RenderableType:
        rules = (Text(f" {name}: {outcome}", style=STYLES.get(outcome, "dim")) for name, outcome in self._rules())
        return Group(self._table(), *rules, Text(), self._bar())

    def _bar(self) -> Table:
        overall, total = self._scoreboard.overall, sum(self._sizes.values())
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(ratio=1)
        row.add_column(justify="right", no_wrap=True)
        row.add_row(
            ProgressBar(total=total, completed=overall.done),
            _progress(overall, total, self._pace, bool(self._rules())),
        )
        return row

    def _table(self) -> Table:
        table = Table(box=None, padding=(0, 1), header_style="bold", expand=True)
        table.add_column(
            f"{self._variant}\ntask" if self._variant else "task", overflow="ellipsis", no_wrap=True, ratio=1
        )
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
