"""The templates for CI systems: valid by the systems' schemas and by shellcheck, and what they run judges a pair."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from qconf import __version__

FOLDER = Path(__file__).parent.parent / "deploy" / "ci"
ACTION, EXAMPLE, GITLAB = FOLDER / "github" / "action.yml", FOLDER / "github" / "example.yml", FOLDER / "gitlab.yml"
SCRIPTS = ("install.sh", "judge.sh")
BIN = Path(sys.executable).parent
REPLAY = ("--tasks", "demo_piqa", "--include-path", "qconf/demo/tasks")


def read(file: Path) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return parsed


def judge(gate: Path, out: Path, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [FOLDER / "judge.sh", gate, out, *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=FOLDER.parent.parent,
        env=os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"} | variables,
    )


def shellcheck(script: str, *options: str) -> None:
    done = subprocess.run(
        [BIN / "shellcheck", "--shell=bash", *options, "-"], input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "schema"),
    [(ACTION, "github-actions"), (EXAMPLE, "github-workflows"), (GITLAB, "gitlab-ci")],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_schema_of_each_system_accepts_its_template(file: Path, schema: str) -> None:
    transform = ["--data-transform", "gitlab-ci"] if schema == "gitlab-ci" else []
    command: list[str | Path] = [BIN / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *transform, file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_pass_shellcheck(name: str) -> None:
    shellcheck((FOLDER / name).read_text(encoding="utf-8"))


def test_steps_pass_shellcheck() -> None:
    steps = [step["run"] for step in read(ACTION)["runs"]["steps"] if "run" in step]
    assert len(steps) == 3
    for step in steps:
        shellcheck(step)
    job = read(GITLAB)[".qconf"]
    # The options of QCONF_BENCH are words.
    shellcheck("\n".join(job["before_script"] + job["script"] + job["after_script"]), "--exclude=SC2086")


def test_no_input_becomes_part_of_a_command() -> None:
    """GitHub pastes expressions into scripts before a shell sees them."""
    assert not [step["run"] for step in read(ACTION)["runs"]["steps"] if "${{" in step.get("run", "")]


def test_the_action_is_called_as_it_is_declared() -> None:
    inputs = read(ACTION)["inputs"]
    (call,) = [step for step in read(EXAMPLE)["jobs"]["judge"]["steps"] if "qconf" in step["uses"]]
    assert {name for name, field in inputs.items() if field.get("required")} <= call["with"].keys() <= inputs.keys()


@pytest.mark.parametrize("file", [EXAMPLE, GITLAB], ids=lambda file: file.name)
def test_templates_name_this_version(file: Path) -> None:
    assert set(re.findall(r"\bv(\d+\.\d+\.\d+)", file.read_text(encoding="utf-8"))) == {__version__}


def test_a_pair_is_judged_and_reported(tmp_path: Path) -> None:
    gate = tmp_path / "gate.toml"
    gate.write_text('[[rule]]\nstatistic = "js"\nat_most = 0.00001\n', encoding="utf-8")
    done = judge(gate, tmp_path / "out", *REPLAY)
    assert done.returncode == 3, done.stderr
    assert "fail" in done.stdout
    assert {each.name for each in (tmp_path / "out").glob("report.*")} == {"report.html", "report.md", "report.json"}


def test_a_server_that_does_not_start_fails_the_job_with_its_reason(tmp_path: Path) -> None:
    done = judge(tmp_path / "gate.toml", tmp_path / "out", QCONF_MODEL=str(tmp_path), QCONF_QUANTIZED=str(tmp_path))
    assert done.returncode == 1
    assert "qconf-server: error:" in done.stderr
