"""Outcomes of the rules of a replay with ``--until``, in results.json and in a table."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from rich.table import Table
from rich.text import Text

Outcome = Literal["open", "pass", "equivalent", "fail", "inconclusive"]
STYLES: dict[Outcome, str] = {"pass": "green", "equivalent": "green", "fail": "red", "inconclusive": "yellow"}


class Standing(BaseModel):
    """A rule on a task, or on all tasks, and its outcome so far.

    ``used`` of ``of`` items were judged; ``failed`` of these have no answer; ``estimate`` is the mean of the others.
    ``low`` and ``high`` are the 95 % confidence sequence. Null stands for an unknown estimate or an infinite bound.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    outcome: Outcome
    at_least: float | None
    at_most: float | None
    method: Literal["betting", "asymptotic"]
    used: int
    of: int
    failed: int
    estimate: float | None
    low: float | None
    high: float | None


def standings_of(results: Mapping[str, Any]) -> list[Standing]:
    """Return the rules in ``results.json``; empty where the replay had no rules."""
    return [Standing.model_validate(each) for each in results.get("until", {"rules": []})["rules"]]


def rules_table(standings: Sequence[Standing]) -> Table:
    """Return a table with a row for each rule."""
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="bold")
    for name in ("rule", "limits", "verdict"):
        table.add_column(name)
    for name in ("estimate", "95 % sequence", "items used"):
        table.add_column(name, justify="right", no_wrap=True)
    for each in standings:
        sequence = f"[{_number(each.low)}, {_number(each.high)}]"
        failed = f", {each.failed} failed" if each.failed else ""
        table.add_row(
            each.name,
            _limits(each),
            Text(each.outcome, style=STYLES.get(each.outcome, "")),
            _number(each.estimate),
            Text(sequence + (" asymptotic" if each.method == "asymptotic" else "")),
            f"{each.used} of {each.of}{failed}",
        )
    return table


def _limits(standing: Standing) -> str:
    limits = (("≥", standing.at_least), ("≤", standing.at_most))
    return ", ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
