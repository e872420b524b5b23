"""``make demo``: serve the demo pair, replay its tasks, print the table, write a report, print a gate's verdict."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from demo.local_server import ServerDidNotStart, running_server
from qconf.demo import GATE, TASKS

PYTHON = os.path.relpath(sys.executable)


def main() -> int:
    """Return the exit code of the replay; the gate's verdict is only printed."""
    out = Path("runs") / f"demo-{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}"
    log = out.with_suffix(".server.log")
    log.parent.mkdir(exist_ok=True)
    print("Starting the server with the demo pair on vLLM (half a minute on two cores) ...", flush=True)
    try:
        with running_server("--demo", log=log) as server:
            tasks = ["--tasks", "demo", "--include-path", str(TASKS)]
            code = run("client.bench", "--url", server.url, *tasks, "--out", str(out))
    except ServerDidNotStart as error:
        reason = str(error).splitlines()[-1].removeprefix("qconf-server: error: ")
        print(f"The server did not start: {reason} (its output: {log})", file=sys.stderr)
        return 1
    if code:
        print(f"The replay did not finish; the server's output is in {log}", file=sys.stderr)
        return code
    run("eval", "report", str(out), "--out", str(out / "report.html"), show=True)
    run("eval", "gate", str(out), "--config", str(GATE), show=True)
    print(
        f"\nNext: open {out}/report.html in a browser; {PYTHON} -m eval table {out} prints every statistic;\n"
        "README.md says how to serve a pair of your own."
    )
    return code


def run(*module: str, show: bool = False) -> int:
    """Run a module as a command, printed before its output with ``show``, and return its exit code."""
    if show:
        print(f"\n{PYTHON} -m {' '.join(module)}", flush=True)
    return subprocess.run([sys.executable, "-m", *module], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
