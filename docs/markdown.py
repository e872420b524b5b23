"""Pieces of the reference pages."""

from collections.abc import Iterable

NOTICE = "<!-- Written by `python -m docs.generate`; do not edit. -->"


def page(title: str, *parts: str) -> str:
    """Return a page of paragraphs, marked as generated."""
    return "\n\n".join([NOTICE, f"# {title}", *parts]) + "\n"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown(docstring: str | None) -> str:
    """Return a docstring with Markdown's marks for code."""
    return (docstring or "").replace("``", "`")


def anchor(heading: str) -> str:
    """Return the name by which GitHub links to a heading."""
    return "".join(each for each in heading.lower().replace(" ", "-") if each.isalnum() or each in "-_")
