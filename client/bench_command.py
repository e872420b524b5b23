"""The command line of the bench: options, exit codes, one sentence per error."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.api import DEFAULT_URL
from client.bench_run import BenchOptions, Interrupted, run_bench
from client.errors import QconfError
from client.results import RunError
from client.tasks import TaskError

SOME_FAILED = 1
REFUSED = 2
INTERRUPTED = 130

# A table has room in a file: only terminals are narrow.
FILE_WIDTH = 160

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def split_names(tasks: str) -> list[str]:
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter("expected task names, separated by commas")
    return list(dict.fromkeys(names))


@app.command()
def bench(
    tasks: Annotated[str, typer.Option(help="Names of lm-eval tasks, groups or tags, separated by commas.")],
    url: Annotated[str, typer.Option(help="Where the qconf server is.")] = DEFAULT_URL,
    include_path: Annotated[
        Path | None,
        typer.Option(help="Folder with task definitions of your own (YAML).", exists=True, file_okay=False),
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(help="Examples in the context; else the task's own.", min=0)
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Take only the first documents of each task.", min=1)] = None,
    concurrency: Annotated[int, typer.Option(help="Items in flight at once.", min=1)] = 32,
    special_tokens: Annotated[
        bool,
        typer.Option(help="Let the tokenizer add its special tokens, such as a leading BOS, to contexts."),
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write the run to; must not exist.", show_default="runs/<time>")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show only the final table.")] = False,
) -> None:
    """Replay multiple-choice tasks of lm-eval against a qconf server and compare both models.

    Exit codes: 0 all went well, 1 some items failed, 2 nothing could be done, 130 interrupted.
    """
    options = BenchOptions(
        url=url,
        tasks=split_names(tasks),
        include_path=include_path,
        num_fewshot=num_fewshot,
        limit=limit,
        concurrency=concurrency,
        add_special_tokens=special_tokens,
        out=out or Path("runs") / datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ"),
        quiet=quiet,
    )
    console = Console() if sys.stdout.isatty() else Console(width=FILE_WIDTH)
    try:
        failed = run_bench(options, console)
    except (QconfError, TaskError, RunError) as exc:
        raise _exit(f"error: {exc}", REFUSED) from exc
    except Interrupted as exc:
        raise _exit(str(exc), INTERRUPTED) from exc
    except KeyboardInterrupt as exc:
        raise _exit("interrupted before anything was sent", INTERRUPTED) from exc
    raise typer.Exit(SOME_FAILED if failed else 0)


def _exit(message: str, code: int) -> typer.Exit:
    print(message, file=sys.stderr)
    return typer.Exit(code)
