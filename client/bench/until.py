"""Replays that stop when their rules are settled: the order of items, and the outcome of each rule.

Only ``--until`` loads this module, and with it scipy. Rules judge the benchmark as a finite population:
docs/explanation/until.md.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from client.bench.items import Item, TaskError
from client.bench.standing import Outcome, Standing
from qconf.item_rules import LATER, ItemStatistic, item_statistic
from qconf.rules import EACH, OVERALL, Rule, read_rules
from qconf.run.choices import Choices, EvalError
from qconf.run.columns import ItemResult
from qconf.run.folder import UntilSettings
from qconf.statistics.sequential import Asymptotic, Betting, Limits

Key = tuple[str, int]


def load_rules(path: Path) -> list[Rule]:
    """Read the rules of a file; raise TaskError where one cannot be judged item by item."""
    try:
        rules = read_rules(path)
        for rule in rules:
            item_statistic(rule)
    except EvalError as exc:
        raise TaskError(f"--until {path}: {exc}") from exc
    return rules


def drawn_order(items: Sequence[Item], seed: int) -> list[Item]:
    """Return the items in random order: by the SHA-256 of seed, task and document, whatever the library's version."""

    def rank(item: Item) -> bytes:
        return hashlib.sha256(f"{seed}\n{item.task}\n{item.doc_id}".encode()).digest()

    return sorted(items, key=rank)


def judged(item: Item) -> bool:
    """Return whether rules can judge the item, as ``eval gate`` does."""
    return item.kind == "multiple_choice" and item.label is not None


class _Judge:
    """A rule on the items of one task, or of all."""

    def __init__(self, rule: Rule, place: str, size: int) -> None:
        self._rule, self._size = rule, size
        self._statistic: ItemStatistic = item_statistic(rule)
        self.name = f"{self._statistic.name} of {place}"
        self._test: Limits = (Betting if self._statistic.bounded else Asymptotic)(
            size, self._statistic.low, self._statistic.high, at_least=rule.at_least, at_most=rule.at_most
        )
        self._used, self._failed, self._sum = 0, 0, 0.0

    @property
    def outcome(self) -> Outcome:
        found = self._test.outcome
        if found is None:
            return "inconclusive" if self._test.lost or self._used == self._size else "open"
        least, most = self._rule.at_least, self._rule.at_most
        margin = least is not None and most is not None and least < 0 < most
        return "equivalent" if found == "pass" and margin else found

    def add(self, item: Choices | None) -> None:
        """Add the next item in the order of drawing; None for one that failed."""
        self._used += 1
        if item is None:
            self._failed += 1
            self._test.update(np.array([self._statistic.low]), np.array([self._statistic.high]))
        else:
            values = self._statistic.values(item)
            self._sum += float(values[0])
            self._test.update(values, values)

    def standing(self) -> Standing:
        known = self._used - self._failed
        low, high = (end if math.isfinite(end) else None for end in self._test.interval())
        return Standing(
            name=self.name,
            outcome=self.outcome,
            at_least=self._rule.at_least,
            at_most=self._rule.at_most,
            method="betting" if self._statistic.bounded else "asymptotic",
            used=self._used,
            of=self._size,
            failed=self._failed,
            estimate=self._sum / known if known else None,
            low=low,
            high=high,
        )


class Until:
    """Queue of items to send, and judge of their answers in the order of drawing, whatever order they arrive in.

    In the order of arrival, quick answers to short items would be judged first, and the estimate would be biased.
    ``kept`` are the items judged so far: they depend on the seed and the answers only, not on times of arrival. A run
    with other ``settings`` is another run.
    """

    def __init__(self, rules: Sequence[Rule], items: Sequence[Item], seed: int) -> None:
        tasks = list(dict.fromkeys(item.task for item in items))
        self.settings = _settings(rules, seed)
        self._order = [item for item in drawn_order(items, seed) if judged(item)]
        sizes = {task: sum(item.task == task for item in self._order) for task in tasks}
        self._of_task: dict[str, list[_Judge]] = {task: [] for task in tasks}
        self._judges: list[_Judge] = []
        for rule in rules:
            for place in _places(rule, sizes):
                members = tasks if place == OVERALL else [place]
                self._judges.append(_Judge(rule, place, sum(sizes[task] for task in members)))
                for task in members:
                    self._of_task[task].append(self._judges[-1])
        for task in tasks:
            if not sizes[task] or not self._of_task[task]:
                why = "no rule applies to it" if sizes[task] else _unjudged(task, items)
                raise TaskError(f"'{task}' cannot be replayed until rules are settled: {why}")
        self._answers: dict[Key, ItemResult] = {}
        self._reached = 0
        self.kept: set[Key] = set()

    @property
    def settled(self) -> bool:
        """Return whether all rules are settled."""
        return all(judge.outcome != "open" for judge in self._judges)

    def progress(self) -> list[tuple[str, Outcome]]:
        """Return each rule's name and its outcome so far."""
        return [(judge.name, judge.outcome) for judge in self._judges]

    def standings(self) -> list[Standing]:
        """Return each rule's standing."""
        return [judge.standing() for judge in self._judges]

    def queue(self) -> Iterator[Item]:
        """Yield items to send, in the order of drawing: without an answer, and needed by a rule that is still open."""
        for item in self._order:
            if _key(item) not in self._answers and _key(item) not in self.kept and self._open(item):
                yield item

    def add(self, row: ItemResult) -> None:
        """Add an answer, and judge all answers that no longer wait for an earlier one."""
        self._answers[row.task, row.doc_id] = row
        while self._reached < len(self._order):
            item = self._order[self._reached]
            if judges := self._open(item):
                answer = self._answers.pop(_key(item), None)
                if answer is None:
                    return
                choices = _choices(answer)
                for judge in judges:
                    judge.add(choices)
                self.kept.add(_key(item))
            self._reached += 1

    def _open(self, item: Item) -> list[_Judge]:
        return [judge for judge in self._of_task[item.task] if judge.outcome == "open"]


def _settings(rules: Sequence[Rule], seed: int) -> UntilSettings:
    return UntilSettings(seed=seed, rules=[rule.model_dump(exclude_unset=True) for rule in rules])


def _places(rule: Rule, sizes: dict[str, int]) -> list[str]:
    if rule.task == EACH:
        return [task for task, size in sizes.items() if size]
    if rule.task not in {OVERALL, *sizes}:
        known = ", ".join(sorted({OVERALL, EACH, *sizes}))
        raise TaskError(f"the rule on '{rule.statistic}' names the task '{rule.task}', expected one of {known}")
    return [rule.task]


def _unjudged(task: str, items: Sequence[Item]) -> str:
    """Say why rules can judge no item of the task before the end."""
    if any(item.task == task and item.generating for item in items):
        return f"its answers are generated, replay it without --until; {LATER}"
    return "it has no multiple-choice items with a label"


def _key(item: Item) -> Key:
    return item.task, item.doc_id


def _choices(row: ItemResult) -> Choices | None:
    """Return the item as ``eval`` analyses it; None where it failed."""
    if row.error is not None or row.label is None:
        return None
    return Choices(
        tasks=(row.task,),
        task=np.zeros(1, np.int64),
        doc_id=np.array([row.doc_id]),
        labels=np.array([row.label]),
        sizes=np.array([row.n_choices]),
        base_logprobs=np.array([row.base_logprob], np.float64),
        quantized_logprobs=np.array([row.quantized_logprob], np.float64),
        chars=np.array([row.choice_chars], np.int64),
    )
