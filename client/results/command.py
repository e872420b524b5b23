"""``python -m client.results``: run folders to lm-eval's sample files and back."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from client.results.samples import export_samples, import_samples
from qconf.run.folder import RunError, read_run

REFUSED = 2

T = TypeVar("T")

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=True)


@app.command()
def export_lm_eval(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[Path, typer.Argument(help="Folder to write to; must not exist.")],
) -> None:
    """Write the samples of both models as lm-eval's --log_samples does, a folder for each model."""
    for path in _or_exit(lambda: export_samples(read_run(run), out)):
        print(path)


@app.command()
def import_lm_eval(
    base: Annotated[Path, typer.Argument(help="Samples of the full-precision model: a file, or a folder of several.")],
    quantized: Annotated[Path, typer.Argument(help="Samples of the quantized model.")],
    out: Annotated[Path, typer.Argument(help="Run folder to write; must not exist.")],
) -> None:
    """Make a run folder from the samples of two models that lm-eval logged with --log_samples."""
    manifest = _or_exit(lambda: import_samples(base, quantized, out))
    print(f"{manifest.counts.items} items written to {out}")


def _or_exit(action: Callable[[], T]) -> T:
    try:
        return action()
    except RunError as exc:
        print(f"error: {exc}", file=sys.stderr)
        raise typer.Exit(REFUSED) from exc
