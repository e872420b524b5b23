"""Tables of text: what a terminal shows, however narrow, is what the page and Markdown have."""

import io
import re
from html import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from eval.report.grid import Grid, as_markdown, escaped, print_grid

GRID = Grid(
    "Shares in percent; * excludes 0.",
    ["", "base", "Δ, [95 %]"],
    [
        ["accuracy, by length", "53.8 [48.3, 59.1]", "+0.5 [-2.9, +3.9] *"],
        ["odd[bold]|task", "~(0.1234, 0.5678)", "-"],
    ],
)


def shown(grid: Grid, width: int) -> str:
    file = io.StringIO()
    print_grid(Console(file=file, width=width), grid)
    return file.getvalue()


def test_cells_are_shown_as_they_are() -> None:
    lines = [re.split(r" {2,}", line.strip()) for line in shown(GRID, 100).splitlines()]
    assert lines == [["Shares in percent; * excludes 0."], ["base", "Δ, [95 %]"], *map(list, GRID.rows)]


@pytest.mark.parametrize("width", [25, 40, 50])
def test_a_narrow_terminal_loses_nothing(width: int) -> None:
    text = shown(GRID, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    for row in GRID.rows:
        for mark in set("".join(row)) - {" "}:
            expected = sum(cell.count(mark) for line in [GRID.head, *GRID.rows, [GRID.caption]] for cell in line)
            assert text.count(mark) == expected, mark


def test_intervals_go_below_their_estimates_where_there_is_no_room() -> None:
    # 19 + 17 + 19 characters, and two gaps of 2.
    assert "53.8 [48.3" in shown(GRID, 59)
    narrow = shown(GRID, 58)
    assert "53.8 [48.3" not in narrow
    assert "[48.3, 59.1]" in narrow


def test_markdown_has_the_same_cells() -> None:
    caption, _, *lines = as_markdown(GRID).replace("\\|", "¦").splitlines()
    assert caption.replace("\\", "") == GRID.caption
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[1] == ["---", "---:", "---:"]
    found = [[cell.replace("\\", "").replace("¦", "|") for cell in line] for line in (cells[0], *cells[2:])]
    assert found == [list(GRID.head), *map(list, GRID.rows)]


LINKS = ["[a](http://b)", "![a](b)", "&lt;", "~~a~~", "a](b"]


@settings(max_examples=500, derandomize=True, deadline=None)
@given(st.text("[](){}<>!&;#*_`~$|\\\"' /:.ax1") | st.sampled_from(LINKS))
def test_markdown_shows_text_as_it_is(text: str) -> None:
    """Names of tasks and folders are not ours: they must not become links, images or markup."""
    text = text.strip()
    reader = MarkdownIt("commonmark").enable("strikethrough")
    assert reader.renderInline(escaped(text)) == escape(text, quote=False).replace('"', "&quot;")
