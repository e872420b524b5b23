"""``python -m client.bench``: replays lm-eval tasks against a server and compares both models."""

import sys

EXTRA = {"datasets", "lm_eval", "numpy", "pyarrow", "rich", "typer"}


def main() -> None:
    """Runs the command; where packages of the extra are missing, says which extra that is."""
    try:
        from client.bench_command import app

        app(prog_name="python -m client.bench")
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] not in EXTRA:
            raise
        print(f"error: the package {exc.name} is missing: install qconf with its extra 'bench'", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
