"""What the client's commands share: options, exit codes, and how an error ends them."""

import math
import sys
from typing import Annotated

import typer
from rich.console import Console

SOME_FAILED = 1
REFUSED = 2
INTERRUPTED = 130

# Tables in a file need not fit a terminal.
FILE_WIDTH = 160


def positive(seconds: float) -> float:
    if not (math.isfinite(seconds) and seconds > 0):
        raise typer.BadParameter(f"expected more than 0 seconds, got {seconds}")
    return seconds


Retries = Annotated[
    int,
    typer.Option(
        help="Retries of a request while the server is down, restarting or busy, with pauses that grow to 30 seconds.",
        min=0,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        help="Seconds to wait for a reply, including time in a queue; a pause that a busy server asks for may be "
        "as long.",
        callback=positive,
    ),
]


def output() -> Console:
    """Return the console of standard output."""
    return Console() if sys.stdout.isatty() else Console(width=FILE_WIDTH)


def exit_with(message: str, code: int) -> typer.Exit:
    """Print a message to standard error, and return what ends the command."""
    print(message, file=sys.stderr)
    return typer.Exit(code)
