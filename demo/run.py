"""``make demo``: serve the demo pair, replay its tasks, print the table, write a report, print a gate's verdict."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from demo.local_server import ServerDidNotStart, running_server

DEMO = Path(__file__).parent


def main() -> int:
    """Returns the exit code of the replay; the verdict is there to be read."""
    out = Path("runs") / f"demo-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}"
    print("Starting the server with the demo pair on vLLM ...", flush=True)
    try:
        with running_server("--demo") as server:
            tasks = ["--tasks", "demo", "--include-path", str(DEMO / "tasks")]
            code = run("client.bench", "--url", server.url, *tasks, "--out", str(out))
    except ServerDidNotStart as error:
        print(f"The server did not start: {error}", file=sys.stderr)
        return 1
    if code == 0:
        print(f"\npython -m eval report {out} --out {out}/report.html", flush=True)
        run("eval", "report", str(out), "--out", str(out / "report.html"))
        print(f"\npython -m eval gate {out} --config demo/gate.toml", flush=True)
        run("eval", "gate", str(out), "--config", str(DEMO / "gate.toml"))
    return code


def run(*module: str) -> int:
    """Runs a module as a command; returns its exit code."""
    return subprocess.run([sys.executable, "-m", *module], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
