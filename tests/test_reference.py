"""Reference pages are what the generator writes now, and the same on every machine."""

import pytest

from docs.generate import FOLDER, PAGES, cli
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
