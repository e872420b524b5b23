"""The memory limit of this container, by its control group, and whether the OOM killer struck."""

from pathlib import Path

from server.errors import StartError

CGROUP = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
EVENTS = ("memory.events", "memory/memory.oom_control")
"""Files of control groups of version 2 and 1."""
UNLIMITED = 2**60
"""Version 1 says "no limit" with a number about as large as its counters hold."""
PROCESSES_BYTES = int(1.5 * 2**30)
"""What a server's processes have in memory before any weights; measured on vLLM's CPU build."""


def check_memory() -> None:
    """Raise StartError if the container's limit cannot even hold the program.

    The server would be OOM-killed while it starts, without a message.
    """
    limit = memory_limit()
    if limit is not None and limit < PROCESSES_BYTES:
        raise StartError(
            f"the memory limit here is {_gib(limit)}, but without weights the server needs {_gib(PROCESSES_BYTES)}"
        )


def memory_limit() -> int | None:
    """Return the limit in bytes, or None without one."""
    text = _first(LIMITS).strip()
    limit = int(text) if text.isdigit() else UNLIMITED
    return limit if limit < UNLIMITED else None


def oom_kills() -> int:
    """Count the processes of this container that were OOM-killed since the container exists."""
    return int(dict(line.split() for line in _first(EVENTS).splitlines()).get("oom_kill", 0))


def killed_for_memory(before: int = 0) -> str | None:
    """Return one sentence if more processes of this container were OOM-killed than ``before``."""
    limit = memory_limit()
    if limit is None or oom_kills() <= before:
        return None
    return f"the kernel killed a process because the memory limit of {_gib(limit)} was reached"


def _first(names: tuple[str, ...]) -> str:
    return next((file.read_text(encoding="ascii") for name in names if (file := CGROUP / name).exists()), "")


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
