"""``make real`` whole, at its smallest size: a few minutes, and 451 MB to download."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.real.tasks import NAMES

ROOT = Path(__file__).parents[1]
SMALLEST = ["--limit", "6", "--samples", "4", "--characters", "20000", "--dtype", "float32"]


def real(work: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "demo.real", "--work", str(work), *SMALLEST]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=offline, check=False)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    done = real(folder)
    if "could not be fetched" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[7/7] report: done" in done.stdout
    assert "of overall is" in done.stdout
    return folder


def test_every_task_and_the_corpus_are_in_the_report(work: Path) -> None:
    manifest = json.loads((work / "run" / "manifest.json").read_text())
    items = {task["name"]: task["items"] for task in manifest["subject"]["tasks"]}
    assert items.pop("corpus") >= 3
    assert items == dict.fromkeys(NAMES, 6)
    page = (work / "report.md").read_text().replace("\\_", "_")
    assert all(name in page for name in [*NAMES, "corpus"])


def test_the_weights_can_be_read_by_whoever_can_read_the_configuration(work: Path) -> None:
    for folder in (work / "base", work / "quantized"):
        assert (folder / "model.safetensors").stat().st_mode == (folder / "config.json").stat().st_mode


def test_the_second_time_everything_is_kept(work: Path) -> None:
    done = real(work)
    assert done.returncode == 0, done.stderr
    stages = [line for line in done.stdout.splitlines() if line.startswith("[")]
    assert len(stages) == 7
    assert all(line.endswith(": kept") for line in stages)


def test_the_numbers_are_those_of_transformers(work: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.real_oracle", "--work", str(work), "--items", "6", "--windows", "3"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "social_iqa: 6 items, 0 chosen answers that differ" in done.stdout
    assert "corpus: 3 windows, 0 tokens that differ" in done.stdout
