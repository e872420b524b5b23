"""Answers in the terminal while they come."""

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from client.compare.display import COLORS
from client.compare.tokens import colored, plain_table
from qconf.show.quantities import Quantity
from qconf.wire import Comparison, GeneratedToken

PADDING = 2


class GrowingAnswers:
    """The last lines of the answers side by side, the base's first. ``variant``: the only other one to show."""

    def __init__(self, quantity: Quantity, variant: str | None) -> None:
        self._quantity = quantity
        self._variant = variant
        self._answers: dict[str, list[Text]] = {}

    def add(self, token: GeneratedToken) -> None:
        """Add a token to the answers that it belongs to."""
        drawn = colored(token.scores, self._quantity)
        for name in token.models:
            if name == "base" or self._variant in (None, name):
                self._answers.setdefault(name, []).append(drawn)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw what there is: rich does, from a thread of its own, while tokens are added."""
        answers = sorted(self._answers.items(), key=lambda answer: answer[0] != "base")
        table = plain_table()
        table.expand = True
        width = max(1, options.max_width // max(1, len(answers)) - PADDING)
        lines = max(1, console.height - 2)
        cells = []
        for name, tokens in answers:
            table.add_column(Text(name, f"bold {COLORS['base' if name == 'base' else 'quantized']}"), ratio=1)
            wrapped = Text.assemble(*tokens).wrap(console, width, overflow="fold")
            cells.append(Text("\n").join(wrapped[-lines:]))
        table.add_row(*cells)
        yield table


def watched(console: Console, events: Iterable[GeneratedToken | Comparison], growing: GrowingAnswers) -> Comparison:
    """Show the answers of a stream while they come, and return its reply, the last event."""
    with Live(growing, console=console, transient=True, refresh_per_second=10):
        for event in events:
            if isinstance(event, GeneratedToken):
                growing.add(event)
            else:
                reply = event
    return reply
