"""``python -m eval``: what quantization did to confidence, from run folders."""

from qconf.extras import run_command

PACKAGES = {"jinja2", "markupsafe", "numpy", "plotly", "pyarrow", "rich", "scipy", "typer"}


def main() -> None:
    """Runs the command."""
    run_command("eval.command", "python -m eval", "report", PACKAGES)


if __name__ == "__main__":
    main()
