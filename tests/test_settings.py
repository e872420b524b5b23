"""Every setting is also read from its environment variable, and the command line comes first."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError
from pydantic_settings import CliApp

from server.settings import Settings

OTHERS = {
    "model": "base",
    "quantized": ["four=twin", "eight=twin8"],
    "demo": True,
    "revision": "main",
    "quantized_revision": ["v1", "v2"],
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
    "shadow_rate": ["0.5", "/observe=1"],
    "shadow_queue": 10,
    "shadow_salt": "salt",
    "shadow_source": ["gateway", "batch"],
    "shadow_record": Path("record"),
    "shadow_record_tokens": True,
    "shadow_record_days": 3,
    "state_dir": Path("state"),
    "grace_seconds": 5,
    "log_level": "INFO",
    "log_format": "json",
}
"""A value for each that is not its default."""
TOGETHER = (
    ("model", "quantized", "quantized_revision"),
    ("ssl_certfile", "ssl_keyfile"),
    ("shadow_rate", "shadow_record"),
    ("shadow_rate", "shadow_source"),
)


def read(monkeypatch: pytest.MonkeyPatch, *arguments: str, **variables: object) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(f"QCONF_{name.upper()}", ",".join(value) if isinstance(value, list) else str(value))
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


@pytest.mark.parametrize(
    ("quantized", "expected"),
    [
        (["org/a"], {"quantized": ("org/a", None)}),
        (["int4=org/a"], {"int4": ("org/a", None)}),
        (["org/a-4bit", "./b=c/d/"], {"a-4bit": ("org/a-4bit", None), "d": ("./b=c/d/", None)}),
        (["int4=a=b", "c"], {"int4": ("a=b", None), "c": ("c", None)}),
    ],
)
def test_names_of_variants(
    monkeypatch: pytest.MonkeyPatch, quantized: list[str], expected: dict[str, tuple[str, str | None]]
) -> None:
    arguments = [each for given in quantized for each in ("--quantized", given)]
    settings = read(monkeypatch, "--model", "base", *arguments, quantized=",".join(quantized))
    assert settings.variants == expected


def test_each_variant_has_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ("--model", "m", "--quantized", "a=x", "--quantized", "b=x")
    settings = CliApp.run(Settings, [*given, "--quantized-revision", "4bit", "--quantized-revision", "8bit"])
    assert settings.variants == {"a": ("x", "4bit"), "b": ("x", "8bit")}
    with pytest.raises(ValidationError, match="--quantized-revision is given 1 times, expected one for each of the 2"):
        CliApp.run(Settings, [*given, "--quantized-revision", "4bit"])


@pytest.mark.parametrize(
    ("quantized", "why"),
    [
        (["org/a", "other/a"], "'a' is taken twice"),
        (["base=a"], "'base' is the full-precision model's"),
        (["org/a", "./my model"], "'my model' has other characters than letters, digits and _.-, or more than 100"),
    ],
)
def test_names_that_cannot_be_told_apart_are_refused(quantized: list[str], why: str) -> None:
    with pytest.raises(ValidationError, match=f"{why}: expected NAME=MODEL"):
        CliApp.run(Settings, ["--model", "m", *[each for given in quantized for each in ("--quantized", given)]])


def test_half_of_what_tls_needs_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    certificate = tmp_path / "certificate"
    with pytest.raises(ValidationError, match="expected both --ssl-certfile and --ssl-keyfile"):
        read(monkeypatch, "--ssl-certfile", str(certificate))
    with pytest.raises(ValidationError, match=r"--ssl-certfile is '.*certificate': expected a file"):
        read(monkeypatch, "--ssl-certfile", str(certificate), "--ssl-keyfile", str(certificate))


def test_the_command_line_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read(monkeypatch, "--port", "4321", port=1234).port == 4321


@pytest.mark.parametrize("option", ["--shadow-record", "--shadow-source"])
def test_what_needs_mirrored_calls_is_refused_without_them(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    with pytest.raises(ValidationError, match=f"{option} needs --shadow-rate"):
        read(monkeypatch, option, "calls", "--shadow-rate", "0")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["a b"], "expected a letter or digit, then letters, digits and _.-, at most 100, got 'a b'"),
        (["other"], "expected each name once, and none of mirror, observe, other, got 'other'"),
        (["a", "a"], "expected each name once, and none of mirror, observe, other, got 'a'"),
    ],
)
def test_names_of_sources_are_checked(monkeypatch: pytest.MonkeyPatch, given: list[str], expected: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(expected)):
        read(monkeypatch, "--shadow-rate", "1", *[word for name in given for word in ("--shadow-source", name)])
