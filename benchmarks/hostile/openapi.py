"""Schemathesis over a running server's OpenAPI document."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

NOT_CHECKED = "positive_data_acceptance"
"""Rules between fields, such as 'one of prompt and messages', and limits of the model are not in the document."""


@dataclass(frozen=True)
class Explored:
    """Cases that were generated, how many failed, the phases that ran, and what the tool printed."""

    cases: int
    failures: int
    phases: list[str]
    printed: str


def explore(url: str, *, examples: int, seed: int, key: str = "") -> Explored:
    """Send valid and invalid requests by the document, up to ``examples`` for each operation, and chains of them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--no-color"]
        command += ["--checks", "all", "--exclude-checks", NOT_CHECKED, "--phases", "coverage,fuzzing,stateful"]
        command += ["--max-examples", str(examples), "--seed", str(seed), "--suppress-health-check", "all"]
        command += ["--continue-on-failure", "--no-shrink", "--report-json-path", str(report)]
        if key:
            command += ["--header", f"Authorization: Bearer {key}"]
        # It keeps examples of earlier runs in the current folder, and reads its settings from there.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if not report.exists():
            raise RuntimeError(f"schemathesis made no report:\n{done.stdout}")
        found = json.loads(report.read_text())
    phases = [name for name, phase in found["phases"].items() if phase["status"] != "skip"]
    counts = found["test_cases"]
    failures = counts["with_failures"] + counts["errored"] + len(found["errors"])
    return Explored(counts["generated"], failures, phases, done.stdout)
