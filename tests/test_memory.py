"""The memory limit and OOM kills of a container's control group, in the files of both versions."""

from pathlib import Path

import pytest

from server.engine import memory
from server.errors import StartError

UNLIMITED = {
    "none": {},
    "version 1": {"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.oom_control": "oom_kill 0\n"},
    "version 2": {"memory.max": "max\n", "memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n"},
}
LIMITED = {
    "version 1": {
        "memory/memory.limit_in_bytes": "1073741824\n",
        "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
    },
    "version 2": {"memory.max": "1073741824\n", "memory.events": "low 0\nhigh 0\nmax 31\noom 2\noom_kill 1\n"},
}


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    return tmp_path


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize("files", UNLIMITED.values(), ids=UNLIMITED)
def test_no_limit(group: Path, files: dict[str, str]) -> None:
    write(group, files)
    assert memory.memory_limit() is None
    assert memory.killed_for_memory() is None
    memory.check_memory()


@pytest.mark.parametrize("files", LIMITED.values(), ids=LIMITED)
def test_a_limit_that_was_reached(group: Path, files: dict[str, str]) -> None:
    write(group, files)
    assert memory.memory_limit() == 2**30
    assert memory.killed_for_memory(before=memory.oom_kills()) is None, "it was killed before this engine began"
    assert memory.killed_for_memory() == "the kernel killed a process because the memory limit of 1.0 GiB was reached"


def test_too_small_a_limit_is_refused(group: Path) -> None:
    write(group, {"memory.max": f"{memory.PROCESSES_BYTES - 1}"})
    with pytest.raises(StartError, match=r"the memory limit here is 1\.5 GiB, but .* needs 1\.5 GiB"):
        memory.check_memory()
    write(group, {"memory.max": f"{memory.PROCESSES_BYTES}"})
    memory.check_memory()
