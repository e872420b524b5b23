"""One replay from end to end: ask who serves, load the tasks, score the items, write the run, show the table."""

import asyncio
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx
from rich.console import Console
from rich.table import Table

from client.api import AsyncClient, Client
from client.display import Display, make_display
from client.errors import BadReply
from client.replay import ReplayOptions, replay
from client.results import Counts, ItemResult, Manifest, Settings, TaskRecord, Timing, check_target, write_run
from client.summary import Scoreboard
from client.table import summary_table
from client.tasks import LoadedTask, load_tasks
from server import __version__
from server.schema import Both, ModelInfo, ModelList, ServerInfo

# A request waits in the server's queue behind all others in flight; on a CPU that takes a while.
TIMEOUT = 600.0
PACKAGES = ("httpx", "lm_eval", "pyarrow", "pydantic")


@dataclass(frozen=True)
class BenchOptions:
    """What the command line said."""

    url: str
    tasks: list[str]
    include_path: Path | None
    num_fewshot: int | None
    limit: int | None
    concurrency: int
    add_special_tokens: bool
    out: Path
    quiet: bool


class Interrupted(Exception):
    """The user stopped the replay."""


def run_bench(options: BenchOptions, console: Console, transport: httpx.MockTransport | None = None) -> int:
    """Runs the bench and returns how many items failed. ``transport`` is what tests replace."""
    check_target(options.out)
    with Client(options.url, retries=0, transport=transport) as client:
        served = client.models()
    pair = _pair(served)
    # Outside of asyncio, which would hold back Ctrl-C until the tasks are loaded.
    tasks = _load(options, console)
    if not options.quiet:
        console.print(_heading(options.url, pair, served.server, tasks), "")
    scoreboard = Scoreboard(task.name for task in tasks)
    display = make_display(console, scoreboard, {task.name: len(task.items) for task in tasks}, options.quiet)

    started, clock = datetime.now(UTC), time.monotonic()
    rows = _replay(options, tasks, scoreboard, display, transport)
    timing = _timing(started, time.monotonic() - clock, len(rows))

    write_run(options.out, _manifest(options, pair, served.server, tasks, scoreboard, timing), rows)
    console.print(summary_table(scoreboard, console))
    _print_end(console, options.out, rows, timing)
    return scoreboard.overall.failed


def _load(options: BenchOptions, console: Console) -> list[LoadedTask]:
    def load() -> list[LoadedTask]:
        return load_tasks(
            options.tasks,
            include_path=options.include_path,
            num_fewshot=options.num_fewshot,
            limit=options.limit,
        )

    if options.quiet or not console.is_terminal:
        return load()
    with console.status("loading tasks"):
        return load()


def _replay(
    options: BenchOptions,
    tasks: Sequence[LoadedTask],
    scoreboard: Scoreboard,
    display: Display,
    transport: httpx.MockTransport | None,
) -> list[ItemResult]:
    items = [item for task in tasks for item in task.items]

    def take(row: ItemResult) -> None:
        scoreboard.add(row)
        display.advance()

    async def main() -> list[ItemResult]:
        async with AsyncClient(options.url, timeout=TIMEOUT, transport=transport) as client:
            return await replay(client, items, ReplayOptions(options.concurrency, options.add_special_tokens), take)

    try:
        with display.shown():
            return asyncio.run(main())
    except KeyboardInterrupt as exc:
        done = scoreboard.overall.done
        raise Interrupted(f"interrupted after {done} of {len(items)} items; nothing was written") from exc


def _pair(served: ModelList) -> Both[ModelInfo]:
    found = {model.id: model for model in served.data}
    if len(served.data) != 2 or len(found) != 2:
        raise BadReply(f"expected a base and a quantized model, got {[model.id for model in served.data]}")
    return Both[ModelInfo](base=found["base"], quantized=found["quantized"])


def _heading(url: str, pair: Both[ModelInfo], server: ServerInfo, tasks: Sequence[LoadedTask]) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for model in (pair.base, pair.quantized):
        grid.add_row(model.id, f"{model.root} ({model.quantization or 'not quantized'}, {model.dtype})")
    grid.add_row("server", f"{url} (qconf {server.version}, vLLM {server.vllm}, {server.device})")
    grid.add_row("tasks", f"{len(tasks)}, {sum(len(task.items) for task in tasks)} items")
    return grid


def _print_end(console: Console, out: Path, rows: Sequence[ItemResult], timing: Timing) -> None:
    console.print()
    failed = [row for row in rows if row.error is not None]
    if failed:
        first = failed[0]
        console.print(
            f"{len(failed)} of {len(rows)} items failed, the first of them document {first.doc_id} of {first.task}: "
            f"{first.error}",
            style="red",
            markup=False,
            highlight=False,
        )
    speed = f"{len(rows)} items in {timing.seconds:.1f} s, {timing.items_per_second:.1f}/s"
    console.print(f"{speed}. Run written to {out}", markup=False, highlight=False, soft_wrap=True)


def _timing(started: datetime, seconds: float, items: int) -> Timing:
    return Timing(
        started=started.isoformat(timespec="milliseconds"),
        finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
        seconds=round(seconds, 3),
        items_per_second=round(items / seconds, 3) if seconds else 0.0,
    )


def _manifest(
    options: BenchOptions,
    pair: Both[ModelInfo],
    server: ServerInfo,
    tasks: Sequence[LoadedTask],
    scoreboard: Scoreboard,
    timing: Timing,
) -> Manifest:
    overall = scoreboard.overall
    return Manifest(
        created=timing.finished,
        url=options.url,
        server=server,
        models=pair,
        tasks=[
            TaskRecord(name=task.name, version=task.version, num_fewshot=task.num_fewshot, items=len(task.items))
            for task in tasks
        ],
        settings=Settings(
            tasks=options.tasks,
            include_path=str(options.include_path) if options.include_path else None,
            num_fewshot=options.num_fewshot,
            limit=options.limit,
            concurrency=options.concurrency,
            add_special_tokens=options.add_special_tokens,
        ),
        timing=timing,
        counts=Counts(items=overall.done, ok=overall.scored, failed=overall.failed),
        packages={"python": platform.python_version(), "qconf": __version__} | {p: version(p) for p in PACKAGES},
    )
