"""``make setup``: the machines that it accepts, its progress display, and its message about a failure."""

import importlib.util
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "requirements" / "install.py"


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


MACHINES = {
    "old": ("Linux", "x86_64", (3, 10, 13), "the packages are for CPython 3.11 to 3.13"),
    "new": ("Linux", "x86_64", (3, 14, 0), "make demo PYTHON=python3.12"),
    "mac": ("Darwin", "arm64", (3, 11, 0), "this is Darwin on arm64: run the server's image"),
    "power": ("Linux", "ppc64le", (3, 11, 0), "this is Linux on ppc64le: run the server's image"),
}


@pytest.mark.parametrize("case", MACHINES)
def test_other_machines_are_refused_in_a_sentence(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    system, machine, version, expected = MACHINES[case]
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "version_info", version)
    with pytest.raises(SystemExit) as exit_:
        install.check_machine()
    assert exit_.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("minor", [11, 12, 13])
def test_these_are_taken(
    install: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], machine: str, minor: int
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "version_info", (3, minor, 0))
    install.check_machine()
    assert ("not tested" in capsys.readouterr().err) == (machine == "aarch64")


def test_packages_of_a_lock_are_counted(install: ModuleType) -> None:
    lock = ROOT / "requirements" / "cpu.txt"
    assert install.entries(str(lock)) == len(re.findall(r"^\S+==", lock.read_text(encoding="utf-8"), re.MULTILINE))
    assert install.entries("--no-deps") == 0


def test_progress_without_a_terminal(install: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    progress = install.Progress("everything", 100)
    for number in range(100):
        kinds = (
            f"Collecting package-{number}==1.0 (from -r lock)",
            f"Processing /wheels/package-{number}.whl (from -r lock)",
        )
        progress.see(f"{kinds[number % 2]}\n")
        progress.see("  Downloading package.whl (1 kB)\n")
    progress.see("Installing collected packages: package-0\n")
    progress.end()
    assert capsys.readouterr().err.splitlines() == [
        "Installing everything",
        "  40 of 100: package-39.whl",
        "  80 of 100: package-79.whl",
        "  unpacking",
    ]


def test_a_failure_names_its_reason_and_the_log(tmp_path: Path) -> None:
    """The message has pip's own reason, here that no index may be used."""
    command = [sys.executable, str(SCRIPT), str(tmp_path / "venv"), "lock.txt"]
    quiet = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": os.devnull}
    (tmp_path / "lock.txt").write_text("nothing==1.0 --hash=sha256:" + 64 * "0")
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ | quiet, check=False)
    assert run.returncode == 2
    last = run.stderr.splitlines()[-1]
    log = tmp_path / "venv" / "install.log"
    assert last.startswith("error: No matching distribution found for torch==")
    assert last.endswith(f"; what pip printed is in {log}")
    assert "No matching distribution" in log.read_text(encoding="utf-8")
