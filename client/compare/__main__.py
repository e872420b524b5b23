"""Run as a command: ``python -m client.compare``."""

from qconf.extras import run_command


def main() -> None:
    """Run the command."""
    run_command("client.compare.command", "python -m client.compare", "compare", {"rich", "typer"})


if __name__ == "__main__":
    main()
