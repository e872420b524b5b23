"""Tokens in the terminal: as coloured text, or as a table of numbers."""

from rich.style import Style
from rich.table import Table
from rich.text import Text

from qconf.show.quantities import Quantity
from qconf.show.scale import text_on
from qconf.show.text import likeliest, number, percent, quoted, visible_token
from qconf.wire import TokenComparison

FORK = "▸"


def legend(quantity: Quantity) -> Text:
    """Return the quantity's name, and some of its values in their colours."""
    text = Text(f"{quantity.heading} ")
    for value in quantity.legend():
        text.append(f" {value:.2g} ", _style(quantity, value))
    return text


def colored(scores: TokenComparison, quantity: Quantity, fork: int | None = None) -> Text:
    """Return the tokens on the colours of a quantity; a sign precedes the token at ``fork``."""
    text = Text()
    for index, (token, value) in enumerate(zip(scores.tokens, quantity.column(scores), strict=True)):
        if index == fork:
            text.append(FORK, "bold")
        text.append(visible_token(token), None if value is None else _style(quantity, value))
    return text


def token_table(scores: TokenComparison, heading: str) -> Table:
    """Return a row per token with the numbers of both models, and their likeliest tokens where the reply has them."""
    table = plain_table(heading)
    table.add_column("\n#", justify="right", no_wrap=True)
    table.add_column("\ntoken", overflow="fold")
    for header in ("log-prob\nbase", "\nquantized", "confidence\nbase", "\nquantized", "entropy\nbase", "\nquantized"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("\nKL", justify="right", no_wrap=True)
    base, quantized = scores.base, scores.quantized
    tops = [each.top for each in (base, quantized) if each.top is not None]
    for header in ("likeliest\nbase", "\nquantized")[: len(tops)]:
        table.add_column(header, overflow="fold")
    for index, token in enumerate(scores.tokens):
        table.add_row(
            str(index),
            Text(quoted(token)),
            *(number(each.logprobs[index]) for each in (base, quantized)),
            *(percent(each.confidence[index]) for each in (base, quantized)),
            *(number(each.entropy[index]) for each in (base, quantized)),
            number(scores.kl[index]),
            *(Text(likeliest(top[index])) for top in tops),
        )
    return table


def plain_table(heading: str | None = None) -> Table:
    """Return a table without lines."""
    return Table(
        box=None,
        padding=(0, 1),
        pad_edge=False,
        header_style="bold",
        title=None if heading is None else Text(heading, "bold"),
        title_justify="left",
        caption_justify="left",
    )


def _style(quantity: Quantity, value: float) -> Style:
    background = quantity.color(value)
    return Style(color=text_on(background).hex, bgcolor=background.hex)
