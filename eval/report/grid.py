"""A table of text, printed on a terminal, as Markdown, and by the page's template."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Grid:
    """A table: the first column heads its rows."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def print_grid(console: Console, grid: Grid) -> None:
    """Print the table; cells are shown as they are, without rich's markup.

    Where the terminal is too narrow, intervals go below their estimates, and what is still too wide is folded: no digit
    is cut off.
    """
    lines = [grid.head, *grid.rows]
    natural = sum(2 + max(map(cell_len, column)) for column in zip(*lines, strict=True)) - 2
    head, *rows = lines if natural <= console.width else [[broken(cell) for cell in line] for line in lines]
    table = Table(
        title=Text(grid.caption), title_justify="left", title_style="bold", box=None, padding=(0, 1), pad_edge=False
    )
    for place, name in enumerate(head):
        table.add_column(Text(name), justify="right" if place else "left", vertical="bottom", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)


def broken(cell: str) -> str:
    """Return the cell with its interval on a line of its own."""
    return re.sub(r" (?=\[|~?\()", "\n", cell)


def as_markdown(grid: Grid) -> str:
    """Return the table as Markdown, with its caption above it."""
    lines = [grid.head, ["---", *["---:"] * (len(grid.head) - 1)], *grid.rows]
    text = "\n".join(f"| {' | '.join(escaped(cell.strip()) for cell in line)} |" for line in lines)
    return f"{escaped(grid.caption)}\n\n{text}" if grid.caption else text


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    for mark in "\\|*_`<&~$":
        text = text.replace(mark, f"\\{mark}")
    # Brackets alone stand for themselves, and intervals have many.
    return text.replace("](", "]\\(")
