"""Every setting is also read from its environment variable, and the command line comes first."""

from pathlib import Path

import pytest
from pydantic_settings import CliApp

from server.settings import Settings

OTHERS = {
    "model": "base",
    "quantized": "twin",
    "demo": True,
    "revision": "main",
    "quantized_revision": "v1",
    "allow_unquantized": True,
    "host": "0.0.0.0",
    "port": 1234,
    "max_body_bytes": 2048,
    "max_sequences": 7,
    "reference": Path("run"),
    "window_comparisons": 8,
    "window_seconds": 9.5,
    "state_dir": Path("state"),
    "grace_seconds": 5,
    "log_level": "INFO",
}
"""A value for each that is not its default."""


def read(monkeypatch: pytest.MonkeyPatch, *arguments: str, **variables: object) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"QCONF_{name.upper()}", str(value))
    pair = [] if "demo" in variables else ["--model", "a", "--quantized", "b"]
    return CliApp.run(Settings, [*arguments, *[each for each in pair if not {"model", "quantized"} & {*variables}]])


def test_all_are_tried_here() -> None:
    assert {*OTHERS, "engine_args"} == set(Settings.model_fields)


@pytest.mark.parametrize("name", OTHERS)
def test_a_variable_for_each(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pair = {"model": "base", "quantized": "twin"} if name in ("model", "quantized") else {}
    assert getattr(read(monkeypatch, **{name: OTHERS[name], **pair}), name) == OTHERS[name]


def test_the_command_line_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, "--port", "4321", port=1234).port == 4321
