"""A comparison in the terminal. Without colours, tables of numbers stand in the place of coloured tokens."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from client.compare.tokens import colored, legend, plain_table, token_table
from qconf.show.quantities import Quantity
from qconf.show.sentences import answer_heading, answers_sentence, choice_sentence, fork_sentence, summary_sentence
from qconf.show.text import described, number, percent, quoted, visible
from qconf.wire import Continuation, Generation, Generations, PairScores, TokenComparison

BAR = 8
"""Characters of a confidence of 100 %."""
CHOSEN, TRUE = "◀", "✓"
COLORS = {"base": "#0072b2", "quantized": "#d55e00"}


def print_comparison(console: Console, scores: PairScores, quantity: Quantity, *, tables: bool) -> None:
    """Print the models, the prompt, the choices, the answers and a summary; with ``tables`` every token's numbers."""
    in_color = console.color_system is not None and not console.no_color
    console.print(_models(scores))
    if in_color:
        console.print(legend(quantity))
        if scores.prompt is not None:
            console.print("", colored(scores.prompt, quantity), sep="\n")
    if tables or not in_color:
        for heading, columns in _texts(scores):
            console.print("", token_table(columns, heading))
    if scores.continuations:
        console.print("", _continuations(scores, scores.continuations, quantity, in_color))
        if scores.choice is not None:
            _print(console, choice_sentence(scores.choice, scores.continuations), scores.choice.flip)
    if scores.generation is not None:
        _print_answers(console, scores.generation, quantity, in_color)
    console.print("")
    _print(console, summary_sentence(scores))


def _print(console: Console, sentence: str, bold: bool = False) -> None:
    console.print(Text(sentence, "bold" if bold else ""), soft_wrap=not console.is_terminal)


def _models(scores: PairScores) -> Table:
    grid = Table.grid(padding=(0, 2))
    for side, model in (("base", scores.models.base), ("quantized", scores.models.quantized)):
        grid.add_row(Text(model.id, f"bold {COLORS[side]}"), Text(described(model)))
    return grid


def _texts(scores: PairScores) -> Iterator[tuple[str, TokenComparison]]:
    """Yield every text that has columns."""
    if scores.prompt is not None:
        yield "prompt", scores.prompt
    for each in scores.continuations or []:
        if each.scores is not None:
            yield f"continuation {each.index}", each.scores
    for side, answer in _sides(scores.generation) if scores.generation else ():
        if answer.scores is not None:
            yield f"{side}'s answer", answer.scores


def _sides(answers: Generations) -> Iterator[tuple[str, Generation]]:
    for side, answer in (("base", answers.base), ("quantized", answers.quantized)):
        if answer is not None:
            yield side, answer


def _continuations(scores: PairScores, continuations: list[Continuation], quantity: Quantity, in_color: bool) -> Table:
    choice = scores.choice
    table = plain_table()
    table.add_column("\n#", justify="right", no_wrap=True)
    table.add_column("\ncontinuation", overflow="fold")
    for header in ("confidence\nbase", "\nquantized"):
        table.add_column(header, no_wrap=True)
    for header in ("log-prob\nbase", "\nquantized"):
        table.add_column(header, justify="right", no_wrap=True)
    if choice is not None:
        table.caption = f"{CHOSEN} the model's choice" + ("" if choice.label is None else f", {TRUE} the true one")
    for index, each in enumerate(continuations):
        tokens = colored(each.scores, quantity) if in_color and each.scores else Text(quoted(each.text))
        table.add_row(
            f"{TRUE} {index}" if choice and index == choice.label else str(index),
            tokens,
            _bar(each.base.confidence, "base", choice is not None and index == choice.base),
            _bar(each.quantized.confidence, "quantized", choice is not None and index == choice.quantized),
            number(each.base.logprob),
            number(each.quantized.logprob),
        )
    return table


def _bar(share: float, side: str, chosen: bool) -> Text:
    full = round(share * BAR)
    text = Text(f"{percent(share):>7} ").append("█" * full, COLORS[side]).append("░" * (BAR - full), "dim")
    return text.append(f" {CHOSEN}" if chosen else "")


def _print_answers(console: Console, answers: Generations, quantity: Quantity, in_color: bool) -> None:
    """Print the answers side by side, and where they part."""
    fork = None if answers.fork is None else answers.fork.index
    table = plain_table()
    table.expand = True
    columns = []
    for side, answer in _sides(answers):
        table.add_column(Text(answer_heading(side, answer), f"bold {COLORS[side]}"), ratio=1, overflow="fold")
        columns.append(_answer(answer, quantity, fork, in_color))
    table.add_row(*columns)
    console.print("", table)
    if (parted := fork_sentence(answers)) is not None:
        console.print("")
        _print(console, parted, fork is not None)
    _print(console, answers_sentence(answers))


def _answer(answer: Generation, quantity: Quantity, fork: int | None, in_color: bool) -> Text:
    if answer.scores is None:
        return Text(visible(answer.text))
    tokens = colored(answer.scores, quantity, fork)
    return tokens if in_color else Text(tokens.plain)
