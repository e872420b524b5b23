"""Files that hold anything: each reader gives content or one sentence."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.hostile.readers import READERS, attempt, surprises

SECONDS = 120


@pytest.mark.parametrize("name", READERS)
def test_what_is_accepted_is_read(tmp_path: Path, name: str) -> None:
    reader = READERS[name]
    for content in reader.accepted(tmp_path):
        (tmp_path / reader.file).write_bytes(content)
        assert reader.read(tmp_path / reader.file)


@pytest.mark.parametrize("name", READERS)
def test_values_of_other_types_and_hand_made_content_give_a_sentence(tmp_path: Path, name: str) -> None:
    for content in surprises(READERS[name], tmp_path):
        try:
            attempt(READERS[name], tmp_path, content)
        except Exception as error:
            raise AssertionError(f"{type(error).__name__} for {content[:300]!r}") from error


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris has wheels for x86-64 only")
def test_what_a_fuzzer_makes_gives_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.hostile.fuzz", "all", str(tmp_path), "--runs", "3000", "--seed", "1"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=SECONDS)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-3000:]
    assert b"DONE" in done.stdout, done.stdout.decode(errors="replace")[-3000:]
