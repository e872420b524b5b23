"""A server started as a user starts it, for the demo and for tests, and stopped by process id."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY = re.compile(r"\bready on (https?://[^\s\"]+)")
START_SECONDS = 600  # six models on a busy machine
STOP_SECONDS = 60


class ServerDidNotStart(Exception):
    """The server ended, or was not ready in time; the message is its output, with the reason in the last line."""


@dataclass(frozen=True)
class LocalServer:
    """A running server: its URL, its process, and the file that holds its output so far."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> int:
        """Ask it to stop, and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)


def free_port() -> int:
    """Return a free port of this machine, for programs that cannot choose one themselves."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def running_server(
    *arguments: str, port: int = 0, log: Path | None = None, program: Sequence[str] = ("server",)
) -> Iterator[LocalServer]:
    """Run ``python -m server`` on this machine, on a free port if none is given, and wait until it is ready.

    ``log`` is a file that keeps its output, ``program`` a module that serves in place of ``server``, with arguments.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = log or Path(folder) / "server.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", *program, "--port", str(port), *arguments],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
            )
        try:
            yield LocalServer(_wait_until_ready(process, log), process, log)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        ready = READY.search(log.read_text(errors="replace"))
        if ready:
            return ready[1]
        if process.poll() is not None:
            break
        time.sleep(0.2)
    ended = "not ready in time" if process.poll() is None else f"exit code {process.poll()}"
    raise ServerDidNotStart(f"{ended}:\n{log.read_text(errors='replace').strip()}")
