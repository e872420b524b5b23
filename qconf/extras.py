"""Run a command; if an optional dependency is missing, name the extra that provides it."""

import importlib
import sys

USAGE_ERROR = 2


def run_command(module: str, name: str, extra: str, packages: set[str]) -> None:
    """Run the typer application ``app`` of a module as the command ``name``."""
    try:
        importlib.import_module(module).app(prog_name=name)
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in packages:
            raise
        print(f"error: the package {exc.name} is missing: install qconf with its extra '{extra}'", file=sys.stderr)
        sys.exit(USAGE_ERROR)
