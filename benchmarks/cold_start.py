"""``python -m benchmarks.cold_start IMAGE``: an image's size, and the time from ``docker run`` to ``/ready``.

The container serves the demo pair, hardened as in the README. The first start, with nothing of the image in memory,
is not measured: after a start that does not count, files come from the page cache.
"""

import argparse
import json
import subprocess
import time
import urllib.error
import urllib.request
from statistics import median

from demo.local_server import free_port

HARDENED = ("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges", "--tmpfs=/tmp:exec")
RUN = ("--network=host", "--shm-size=1g", *HARDENED)
LONGEST_SECONDS = 600


def main() -> None:
    """Print the size and the time."""
    parser = argparse.ArgumentParser(description="An image's size, and the time from docker run to /ready.")
    parser.add_argument("image")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    layers = docker("history", "--no-trunc", "--format={{.Size}}", options.image).split()
    size = json.loads(docker("image", "inspect", options.image))[0]["Size"]
    print(f"{options.image}: {size / 1e9:.2f} GB in layers of {', '.join(layer for layer in layers if layer != '0B')}")
    seconds = [start(options.image) for _ in range(options.rounds + 1)][1:]
    print(f"ready after {median(seconds):.1f} s (median of {', '.join(f'{each:.1f}' for each in seconds)})")


def start(image: str) -> float:
    """Return the seconds from ``docker run`` to an answer of ``/ready``."""
    port = free_port()
    started = time.perf_counter()
    name = docker("run", "--detach", *RUN, image, "--demo", "--port", str(port)).split()[-1]
    try:
        while time.perf_counter() - started < LONGEST_SECONDS:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5):
                    return time.perf_counter() - started
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise TimeoutError(f"not ready after {LONGEST_SECONDS} s: {docker('logs', name)}")
    finally:
        docker("rm", "--force", "--volumes", name)


def docker(*arguments: str) -> str:
    """Return the output of a Docker command."""
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
