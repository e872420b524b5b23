"""lm-eval's own metrics of both models, from one replay: its filters, scoring and aggregation, run on the answers."""

import importlib
import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from client.bench.items import LoadedTask
from client.bench.outcome import Outcome
from client.bench.sources.lm_eval_tasks import one_line, quiet

MODELS = ("base", "quantized")

Metrics = dict[str, float | None]
"""By "metric,filter", as lm-eval names them; null where a metric is not finite, which JSON cannot represent."""


class _Judged(NamedTuple):
    """An item's metrics by filter, and what the filters leave of its first answer, as JSON."""

    metrics: str
    filtered: str


class MetricsFailed(Exception):
    """A task's metrics cannot be computed. The scores are not affected."""


def with_metrics(task: LoadedTask, outcomes: Sequence[Outcome]) -> tuple[list[Outcome], dict[str, Metrics]]:
    """Return the outcomes with each item's metrics, and generated answers as filtered, and the task's metrics by model.

    Failed items take no part. MetricsFailed where the task's own code raises.
    """
    with quiet():
        scored = {each.row.doc_id: each for each in outcomes if each.row.error is None}
        judged, metrics = {}, {}
        for model in MODELS:
            try:
                judged[model], metrics[model] = _evaluate(task.definition, model, scored)
            except Exception as exc:  # the task's own code
                raise MetricsFailed(one_line(exc)) from exc
    return [
        _filled(each, judged["base"][each.row.doc_id], judged["quantized"][each.row.doc_id])
        if each.row.doc_id in scored
        else each
        for each in outcomes
    ], metrics


def _filled(outcome: Outcome, base: _Judged, quantized: _Judged) -> Outcome:
    answer = outcome.answer
    return replace(
        outcome,
        row=replace(outcome.row, base_metrics=base.metrics, quantized_metrics=quantized.metrics),
        answer=answer and replace(answer, base_filtered=base.filtered, quantized_filtered=quantized.filtered),
    )


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


def _evaluate(definition: Any, model: str, scored: Mapping[int, Outcome]) -> tuple[dict[int, _Judged], Metrics]:
    """Return each item's metrics by document, and the metrics of the task."""
    documents = [
        sorted(group, key=lambda instance: instance.idx)
        for doc_id, group in groupby(definition.instances, key=lambda instance: instance.doc_id)
    ]
    for instances in documents:
        outcome = scored.get(instances[0].doc_id)
        # Filters run over all instances; their results for failed items are ignored.
        answers = list(_answers(outcome, model)) if outcome else [_nothing(instances[0])] * len(instances)
        for instance, answer in zip(instances, answers, strict=True):
            instance.resps = [answer] * instance.repeats
    definition.apply_filters()
    values = defaultdict(list)
    judged = {}
    for instances in documents:
        if instances[0].doc_id not in scored:
            continue
        of_item = {}
        for key in instances[0].filtered_resps:
            results = [instance.filtered_resps[key] for instance in instances]
            of_item[key] = definition.process_results(instances[0].doc, results)
            for metric, value in of_item[key].items():
                values[metric, key].append(value)
        judged[instances[0].doc_id] = _Judged(_as_json(of_item), _as_json(instances[0].filtered_resps))
    return judged, _aggregated(definition, values)


def _as_json(by_filter: Mapping[str, Any]) -> str:
    utils = importlib.import_module("lm_eval.utils")
    return json.dumps(by_filter, default=utils.handle_non_serializable, ensure_ascii=False)


def _nothing(instance: Any) -> Any:
    """Return an answer in the form of those to a request."""
    return "" if instance.request_type == "generate_until" else (0.0, False)


def _answers(outcome: Outcome, model: str) -> Iterator[Any]:
    """Yield the value that lm-eval's models return for each request of an item."""
    row, answer = outcome.row, outcome.answer
    if answer:
        yield answer.base_text if model == "base" else answer.quantized_text
        return
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
