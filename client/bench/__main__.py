"""``python -m client.bench``: replay lm-eval tasks against a server and compare its models."""

from qconf.extras import run_command

PACKAGES = {"datasets", "lm_eval", "numpy", "opentelemetry", "pyarrow", "rich", "scipy", "typer"}


def main() -> None:
    """Run the command."""
    run_command("client.bench.command", "python -m client.bench", "bench", PACKAGES)


if __name__ == "__main__":
    main()
