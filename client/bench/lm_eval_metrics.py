"""lm-eval's own metrics of both models, from one replay: its filters, scoring and aggregation, run on the rows."""

import importlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from client.bench.items import LoadedTask
from client.bench.sources.lm_eval_tasks import one_line, quiet
from qconf.run.columns import ItemResult

MODELS = ("base", "quantized")

Metrics = dict[str, float | None]
"""By "metric,filter", as lm-eval names them; null where a metric is not finite, which JSON cannot represent."""


class MetricsFailed(Exception):
    """A task's metrics cannot be computed. The scores are not affected."""


def with_metrics(task: LoadedTask, rows: Sequence[ItemResult]) -> tuple[list[ItemResult], dict[str, Metrics]]:
    """Return the rows with each item's metrics, and the task's metrics by model. Failed items take no part.

    MetricsFailed where the task's own code raises.
    """
    with quiet():
        scored = [row for row in rows if row.error is None]
        columns, metrics = {}, {}
        for model in MODELS:
            try:
                per_item, metrics[model] = _evaluate(task.definition, model, scored)
            except Exception as exc:  # the task's own code
                raise MetricsFailed(one_line(exc)) from exc
            columns[model] = dict(zip((row.doc_id for row in scored), per_item, strict=True))
    filled = [
        replace(
            row, base_metrics=columns["base"].get(row.doc_id), quantized_metrics=columns["quantized"].get(row.doc_id)
        )
        for row in rows
    ]
    return filled, metrics


def group_metrics(
    groups: Mapping[str, Any], tasks: Mapping[str, Metrics], sizes: Mapping[str, int]
) -> dict[str, Metrics]:
    """Return one model's metrics of lm-eval's groups, aggregated over their tasks."""
    known = {name: {**metrics, "sample_len": sizes[name]} for name, metrics in tasks.items()}
    with quiet():
        found = {
            name: group.aggregate(known)
            for name, group in groups.items()
            if group.has_aggregation and known.keys() >= {task.task_name for task in group.get_all_tasks()}
        }
    return {name: {key: value for key, value in each.items() if _is_metric(key)} for name, each in found.items()}


def _is_metric(key: str) -> bool:
    return "," in key and "_stderr" not in key


def _evaluate(definition: Any, model: str, rows: Sequence[ItemResult]) -> tuple[list[str], Metrics]:
    """Return each item's metrics as JSON, and the metrics of the task."""
    utils = importlib.import_module("lm_eval.utils")
    by_doc = {row.doc_id: row for row in rows}
    documents = [
        sorted(group, key=lambda instance: instance.idx)
        for doc_id, group in groupby(definition.instances, key=lambda instance: instance.doc_id)
    ]
    for instances in documents:
        row = by_doc.get(instances[0].doc_id)
        # Filters run over all instances; their results for failed items are ignored.
        answers = list(_answers(row, model)) if row else [(0.0, False)] * len(instances)
        for instance, answer in zip(instances, answers, strict=True):
            instance.resps = [answer] * instance.repeats
    definition.apply_filters()
    values = defaultdict(list)
    per_item = []
    for instances in documents:
        if instances[0].doc_id not in by_doc:
            continue
        of_item = {}
        for key in instances[0].filtered_resps:
            results = [instance.filtered_resps[key] for instance in instances]
            of_item[key] = definition.process_results(instances[0].doc, results)
            for metric, value in of_item[key].items():
                values[metric, key].append(value)
        per_item.append(json.dumps(of_item, default=utils.handle_non_serializable, ensure_ascii=False))
    return per_item, _aggregated(definition, values)


def _answers(row: ItemResult, model: str) -> Iterator[Any]:
    """Yield the value that lm-eval's models return for each request of an item."""
    logprobs = row.base_logprob if model == "base" else row.quantized_logprob
    greedy = row.base_is_greedy if model == "base" else row.quantized_is_greedy
    if row.kind == "loglikelihood_rolling":
        yield from logprobs
        return
    yield from zip(logprobs, greedy, strict=True)
    for logprob in row.base_unconditional if model == "base" else row.quantized_unconditional:
        yield logprob, None


def _aggregated(definition: Any, values: Mapping[tuple[str, str], list[Any]]) -> Metrics:
    mean = importlib.import_module("lm_eval.api.metrics").mean
    found: Metrics = {}
    for (metric, key), items in values.items():
        value = float(definition.aggregation().get(metric, mean)(items))
        found[f"{metric},{key}"] = value if math.isfinite(value) else None
    return found
