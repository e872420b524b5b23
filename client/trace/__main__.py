"""Run as a command: ``python -m client.trace``."""

from qconf.extras import run_command

PACKAGES = {"numpy", "opentelemetry", "pyarrow", "rich", "typer"}


def main() -> None:
    """Run the command."""
    run_command("client.trace.command", "python -m client.trace", "bench", PACKAGES)


if __name__ == "__main__":
    main()
