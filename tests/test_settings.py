"""Every setting is also read from its environment variable, and the command line comes first."""

from pathlib import Path

import pytest
from pydantic import ValidationError
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
    "operations_port": 1235,
    "operations_host": "::",
    "api_key_file": Path("keys"),
    "ssl_certfile": Path("certificate"),
    "ssl_keyfile": Path("key"),
    "max_body_bytes": 2048,
    "max_requests": 6,
    "max_sequences": 7,
    "queue_seconds": 2.5,
    "request_seconds": 3.5,
    "stalled_seconds": 4.5,
    "reference": Path("run"),
    "window_comparisons": 8,
    "window_seconds": 9.5,
    "state_dir": Path("state"),
    "grace_seconds": 5,
    "log_level": "INFO",
    "log_format": "json",
}
"""A value for each that is not its default."""
TOGETHER = (("model", "quantized"), ("ssl_certfile", "ssl_keyfile"))


def read(monkeypatch: pytest.MonkeyPatch, *arguments: str, **variables: object) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"QCONF_{name.upper()}", str(value))
    pair = [] if "demo" in variables else ["--model", "a", "--quantized", "b"]
    return CliApp.run(Settings, [*arguments, *[each for each in pair if not {"model", "quantized"} & {*variables}]])


def test_all_are_tried_here() -> None:
    assert {*OTHERS, "engine_args"} == set(Settings.model_fields)


@pytest.mark.parametrize("name", OTHERS)
def test_a_variable_for_each(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    together = next((names for names in TOGETHER if name in names), ())
    for file in ("certificate", "key"):
        (tmp_path / file).touch()
    assert getattr(read(monkeypatch, **{each: OTHERS[each] for each in (name, *together)}), name) == OTHERS[name]


def test_half_of_what_tls_needs_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate"
    with pytest.raises(ValidationError, match="expected both --ssl-certfile and --ssl-keyfile"):
        read(monkeypatch, "--ssl-certfile", str(certificate))
    with pytest.raises(ValidationError, match=r"--ssl-certfile is '.*certificate': expected a file"):
        read(monkeypatch, "--ssl-certfile", str(certificate), "--ssl-keyfile", str(certificate))


def test_the_command_line_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, "--port", "4321", port=1234).port == 4321
