"""Turn scored items into rows, metrics and summaries."""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from client.bench.display.answers import summarize_answers
from client.bench.display.corpus_summary import CorpusSummary
from client.bench.display.scoreboard import Scoreboard
from client.bench.items import LoadedTask
from client.bench.lm_eval_metrics import MODELS, Metrics, MetricsFailed, group_metrics, with_metrics
from client.bench.outcome import Outcome
from client.bench.sources.lm_eval_tasks import LoadedTasks
from qconf.run.columns import AnswerResult, ItemResult
from qconf.run.folder import SCHEMA_VERSION, Counts, Run
from qconf.run.token_changes import TokenChanges, token_changes_of

ByModel = dict[str, Metrics]


@dataclass(frozen=True)
class Evaluation:
    """Results of all items: rows and answers in the order of the tasks, lm-eval's metrics of each task and group."""

    rows: list[ItemResult]
    answers: list[AnswerResult]
    scoreboard: Scoreboard
    metrics: dict[str, ByModel]
    groups: dict[str, ByModel]
    corpora: dict[str, CorpusSummary]
    token_changes: dict[str, TokenChanges]
    without_metrics: dict[str, str]
    """Why the metrics of a task could not be computed, by task."""

    @property
    def counts(self) -> Counts:
        """Return the number of items, and how many failed."""
        overall = self.scoreboard.overall
        return Counts(items=overall.done, ok=overall.scored, failed=overall.failed)

    def results(self) -> dict[str, Any]:
        """Return the content of ``results.json``. JSON has no NaN: null stands for a mean over nothing."""
        answers = summarize_answers(self.answers)
        tasks = {
            name: {"summary": _without_nan(asdict(tally.summary()))}
            | ({"metrics": self.metrics[name]} if name in self.metrics else {})
            | ({"metrics_error": self.without_metrics[name]} if name in self.without_metrics else {})
            | ({"answers": asdict(answers[name])} if name in answers else {})
            | ({"corpus": asdict(self.corpora[name])} if name in self.corpora else {})
            | ({"expected_counts": self.token_changes[name].model_dump()} if name in self.token_changes else {})
            for name, tally in self.scoreboard.tasks.items()
        }
        return {"schema_version": SCHEMA_VERSION, "tasks": tasks, "groups": self.groups}


def part_of(loaded: LoadedTasks, kept: Collection[tuple[str, int]]) -> LoadedTasks:
    """Return the tasks with only the items ``kept``, by task and document; groups only where all items are."""
    tasks = [
        replace(task, items=tuple(item for item in task.items if (item.task, item.doc_id) in kept))
        for task in loaded.tasks
    ]
    whole = sum(len(task.items) for task in loaded.tasks) == len(kept)
    return LoadedTasks(tasks, loaded.groups if whole else {})


def evaluate(
    loaded: LoadedTasks,
    outcome_of: Callable[[LoadedTask, int], Outcome],
    corpora: dict[str, CorpusSummary],
    token_changes: dict[str, TokenChanges],
) -> Evaluation:
    """Evaluate the tasks; ``outcome_of`` returns what came of an item by its place in its task."""
    outcomes: list[Outcome] = []
    metrics: dict[str, ByModel] = {}
    without_metrics: dict[str, str] = {}
    for task in loaded.tasks:
        of_task = [outcome_of(task, index) for index in range(len(task.items))]
        if task.definition is not None:
            try:
                of_task, metrics[task.name] = with_metrics(task, of_task)
            except MetricsFailed as exc:  # hours of scoring are not given up for it
                without_metrics[task.name] = str(exc)
        outcomes += of_task
    rows = [each.row for each in outcomes]
    scoreboard = _scoreboard([task.name for task in loaded.tasks], rows)
    sizes = {name: scoreboard.tasks[name].scored for name in metrics}
    return Evaluation(
        rows=rows,
        answers=[each.answer for each in outcomes if each.answer],
        scoreboard=scoreboard,
        metrics=metrics,
        groups=_groups(loaded.groups, metrics, sizes),
        corpora=corpora,
        token_changes=token_changes,
        without_metrics=without_metrics,
    )


def evaluation_of(run: Run) -> Evaluation:
    """Return the evaluation of a run that was read."""
    rows, tasks = run.items(), run.results["tasks"]
    return Evaluation(
        rows=rows,
        answers=[AnswerResult(**row) for row in run.answers.to_pylist()],
        scoreboard=_scoreboard(list(tasks), rows),
        metrics={name: each["metrics"] for name, each in tasks.items() if "metrics" in each},
        groups=run.results["groups"],
        corpora={name: CorpusSummary(**each["corpus"]) for name, each in tasks.items() if "corpus" in each},
        token_changes=token_changes_of(run),
        without_metrics={name: each["metrics_error"] for name, each in tasks.items() if "metrics_error" in each},
    )


def _scoreboard(tasks: list[str], rows: list[ItemResult]) -> Scoreboard:
    """Sum in the order of the items, so that sums do not depend on the order of the answers."""
    scoreboard = Scoreboard(tasks)
    for row in rows:
        scoreboard.add(row)
    return scoreboard


def _groups(groups: Mapping[str, Any], metrics: Mapping[str, ByModel], sizes: Mapping[str, int]) -> dict[str, ByModel]:
    by_model = {
        model: group_metrics(groups, {name: each[model] for name, each in metrics.items()}, sizes) for model in MODELS
    }
    return {name: {model: by_model[model][name] for model in MODELS} for name in by_model["base"]}


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
