"""``make demo``: serve the demo pair, replay its tasks, print the table, stop the server."""

import subprocess
import sys
from pathlib import Path

from demo.local_server import ServerDidNotStart, running_server

TASKS = Path(__file__).parent / "tasks"


def main() -> int:
    """Returns the exit code of the replay."""
    print("Starting the server with the demo pair on vLLM ...", flush=True)
    try:
        with running_server("--demo") as server:
            command = ["client.bench", "--url", server.url, "--tasks", "demo", "--include-path", str(TASKS)]
            return subprocess.run([sys.executable, "-m", *command, *sys.argv[1:]], check=False).returncode
    except ServerDidNotStart as error:
        print(f"The server did not start: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
