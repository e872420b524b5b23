"""How alike the answers of both models are, by task."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rich.table import Table

from qconf.run.columns import AnswerResult


@dataclass(frozen=True, slots=True)
class AnswersSummary:
    """The answers of a task: shares of items, means over items, and tokens of each model in all.

    ``equal`` is the share of answers that are the same text, ``agree`` of those that are the same after lm-eval's
    filters, None where these failed; ``common_prefix`` the mean number of equal tokens before answers part; ``kl`` the
    mean KL(base || quantized) over the tokens of the base model's answers.
    """

    answers: int
    equal: float
    agree: float | None
    common_prefix: float
    acceptance: float
    kl: float
    base_tokens: int
    quantized_tokens: int


def summarize_answers(answers: Iterable[AnswerResult]) -> dict[str, AnswersSummary]:
    """Return a summary of each task."""
    by_task: dict[str, list[AnswerResult]] = {}
    for each in answers:
        by_task.setdefault(each.task, []).append(each)
    return {name: _summary(of_task) for name, of_task in by_task.items()}


def _summary(answers: list[AnswerResult]) -> AnswersSummary:
    count = len(answers)
    agree = [each.agree for each in answers if each.agree is not None]
    return AnswersSummary(
        answers=count,
        equal=sum(each.equal for each in answers) / count,
        agree=sum(agree) / len(agree) if agree else None,
        common_prefix=sum(each.common_prefix for each in answers) / count,
        acceptance=sum(each.acceptance for each in answers) / count,
        kl=sum(each.base_mean_kl for each in answers) / count,
        base_tokens=sum(each.base_tokens for each in answers),
        quantized_tokens=sum(each.quantized_tokens for each in answers),
    )


def answers_table(summaries: Mapping[str, AnswersSummary]) -> Table:
    """Return a row per task. Shares are in percent."""
    table = Table(
        box=None,
        padding=(0, 1),
        pad_edge=False,
        header_style="bold",
        caption="Shares in percent, KL in nats. Equal: the same text; agree: the same after the task's filters; common "
        "prefix: tokens before the answers part; base, quantized: tokens of an answer.",
        caption_justify="left",
    )
    table.add_column("generated answers", overflow="ellipsis", no_wrap=True)
    for header in ("items", "equal", "agree", "common prefix", "base", "quantized", "acceptance", "KL"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, each in summaries.items():
        table.add_row(
            name,
            str(each.answers),
            f"{100 * each.equal:.1f}",
            "-" if each.agree is None else f"{100 * each.agree:.1f}",
            f"{each.common_prefix:.1f}",
            f"{each.base_tokens / each.answers:.1f}",
            f"{each.quantized_tokens / each.answers:.1f}",
            f"{100 * each.acceptance:.1f}",
            f"{each.kl:.4f}",
        )
    return table
