"""Reference pages are what the generator writes now, and the same on every machine."""

from typing import Any

import pytest

from docs.generate import FOLDER, PAGES, cli
from docs.http_reference import http, type_in_words
from qconf.error_types import STATUS
from qconf.run.quantities import OF_A_MODEL, OF_THE_PAIR


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_current(page: str) -> None:
    written = (FOLDER / page).read_text(encoding="utf-8")
    assert written == PAGES[page](), f"{page} is out of date: run python -m docs.generate"


def test_terminal_and_environment_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cli()
    for name, value in {"COLUMNS": "50", "TERMINAL_WIDTH": "50", "FORCE_COLOR": "1", "QCONF_PORT": "9"}.items():
        monkeypatch.setenv(name, value)
    assert cli() == expected
    assert "\x1b" not in expected


def test_all_that_until_judges_is_on_the_page() -> None:
    lines = (FOLDER / "gate.md").read_text(encoding="utf-8").splitlines()
    judged = {line.split("`")[1] for line in lines if line.endswith("| yes |")}
    assert judged == {*OF_A_MODEL, *OF_THE_PAIR}


def test_the_page_on_http_has_defaults_and_limits() -> None:
    lines = http().splitlines()
    for line in (
        "| `top_logprobs` | integer, 0 to 20 | `0` | Likeliest tokens to return per position. |",
        "| `label` | integer, at least 0 | none | Index of the true continuation, where known. |",
        "| `requests` | list of 1 to 1,024 objects | needed | Bodies of /compare. |",
    ):
        assert line in lines


def test_the_page_on_http_has_every_type_of_error_with_its_status() -> None:
    lines = http().splitlines()
    for name, status in STATUS.items():
        assert any(line.startswith(f"| `{name}` | {status} | ") for line in lines), name


PAIR = {"title": "Both[float]", "properties": {"base": {"type": "number"}, "quantized": {"type": "number"}}}
TYPES: dict[str, dict[str, Any]] = {
    "integer, at most 5": {"type": "integer", "maximum": 5},
    '`1` or `"a"`': {"enum": [1, "a"]},
    "list of (string or null)": {"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "null"}]}},
    "list of at least 1 integers": {"type": "array", "minItems": 1, "items": {"type": "integer"}},
    "object with numbers": {"type": "object", "additionalProperties": {"type": "number"}},
    "[Other](#other)": {"$ref": "#/components/schemas/Other"},
    "(`base` and `quantized`, each number) or null": {
        "anyOf": [{"$ref": "#/components/schemas/Pair"}, {"type": "null"}]
    },
}


@pytest.mark.parametrize("words", TYPES)
def test_types_in_words(words: str) -> None:
    assert type_in_words(TYPES[words], {"Pair": PAIR, "Other": {"properties": {}}}) == words
