"""What each command prints for --help: the same on every terminal."""

import io
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from unittest.mock import patch

import typer
from pydantic_settings import CliApp
from typer.core import TyperGroup

from client.bench.command import app as bench
from client.compare.command import app as compare
from client.results.command import app as results
from client.trace.command import app as trace
from eval.command import app as evaluation
from server.quantize.command import app as quantize
from server.settings import Settings

WIDTH = 100


def command_helps() -> Iterator[tuple[str, str]]:
    """Yield the name and the help of each command and of its subcommands."""
    yield "qconf-server", _argparse_help(lambda: CliApp.run(Settings, cli_args=["--help"]))
    yield from _typer_helps(quantize, "qconf-quantize")
    yield from _typer_helps(bench, "python -m client.bench")
    yield from _typer_helps(compare, "python -m client.compare")
    yield from _typer_helps(trace, "python -m client.trace")
    yield from _typer_helps(results, "python -m client.results")
    yield from _typer_helps(evaluation, "python -m eval")


def _argparse_help(run: Callable[[], object]) -> str:
    """Return what is printed before the parser exits; argparse takes the width from the environment."""
    out = io.StringIO()
    with patch.dict(os.environ, COLUMNS=str(WIDTH)), redirect_stdout(out), suppress(SystemExit):
        run()
    return out.getvalue()


def _typer_helps(app: typer.Typer, name: str) -> Iterator[tuple[str, str]]:
    command = typer.main.get_command(app)
    context = command.context_class(command, info_name=name, terminal_width=WIDTH, **command.context_settings)
    yield name, command.get_help(context)
    if isinstance(command, TyperGroup):
        for part, each in command.commands.items():
            within = each.context_class(each, info_name=part, parent=context)
            yield f"{name} {part}", each.get_help(within)
