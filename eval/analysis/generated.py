"""The answers that both models generate to a task's items: right or wrong by lm-eval's metrics, and how alike."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from eval.analysis.items import Compared, mcnemar
from qconf.run.choices import EvalError, read_clusters, without_gaps
from qconf.run.columns import AnswerResult
from qconf.run.folder import ANSWERS, Run
from qconf.run.quantities import mean_within
from qconf.statistics.arrays import Booleans, Ints
from qconf.statistics.bootstrap import Statistic, by_cell, resample, spread
from qconf.statistics.intervals import Interval, Proportion
from qconf.statistics.significance import McNemarTest


@dataclass(frozen=True)
class Accuracy:
    """The share of answers that are right by a metric of lm-eval, and the test of whether the models differ in it."""

    compared: Compared
    mcnemar: McNemarTest


@dataclass(frozen=True)
class GeneratedAnalysis:
    """Generated answers of a task: 95 % intervals, over items.

    ``accuracy`` has the metrics of right and wrong, by "metric,filter"; others are only in ``results.json``. ``equal``
    is the share of answers that are the same text, ``agree`` of those that are the same after each of lm-eval's
    filters, None where these failed; ``common_prefix`` the mean number of equal tokens before answers part.
    ``length_ratio`` divides the tokens of all answers of the quantized model by those of the base: a spread.
    ``acceptance`` is the mean over answers of the share of drafted tokens that speculative decoding would accept if the
    quantized model drafted, ``base_kl`` and ``quantized_kl`` of the mean KL over the tokens of each model's answer.
    """

    items: int
    clusters: int | None
    accuracy: dict[str, Accuracy]
    equal: Interval
    agree: Interval | None
    common_prefix: Interval
    length_ratio: Interval
    acceptance: Interval
    base_kl: Interval
    quantized_kl: Interval


def analyse_generated(run: Run, rng: np.random.Generator, resamples: int) -> dict[str, GeneratedAnalysis]:
    """Analyse the generated answers of a run whose items all succeeded, by task."""
    table = run.table.filter(pc.equal(run.table["kind"], "generate_until"))
    answers = {(row["task"], row["doc_id"]): AnswerResult(**row) for row in run.answers.to_pylist()}
    found = {}
    for task in dict.fromkeys(table["task"].to_pylist()):
        items = table.filter(pc.equal(table["task"], task))
        keys = [(task, doc_id) for doc_id in items["doc_id"].to_pylist()]
        if missing := [doc_id for _, doc_id in keys if (task, doc_id) not in answers]:
            raise EvalError(f"{run.path / ANSWERS} has no answers to document {missing[0]} of '{task}'")
        found[task] = _analysis(items, [answers[key] for key in keys], rng, resamples)
    return found


def _analysis(
    items: pa.Table, answers: Sequence[AnswerResult], rng: np.random.Generator, resamples: int
) -> GeneratedAnalysis:
    named = read_clusters(items)
    clusters = None if named is None else without_gaps(named)

    def mean(values: Sequence[float], low: float, high: float) -> Interval:
        return mean_within(np.array(values, np.float64), low, high).interval(clusters)

    def share(hits: Sequence[bool | None]) -> Interval:
        return Proportion(np.array(hits, np.bool_)).interval(clusters)

    agree = [each.agree for each in answers]
    return GeneratedAnalysis(
        items=len(answers),
        clusters=None if clusters is None else int(clusters.max()) + 1,
        accuracy={
            name: Accuracy(
                Compared(
                    Proportion(base).interval(clusters),
                    Proportion(quantized).interval(clusters),
                    Proportion(quantized).less(Proportion(base), clusters),
                ),
                mcnemar(base, quantized, clusters, rng),
            )
            for name, (base, quantized) in _right(items).items()
        },
        equal=share([each.equal for each in answers]),
        agree=None if None in agree else share(agree),
        common_prefix=mean([each.common_prefix for each in answers], 0.0, np.inf),
        length_ratio=_length_ratio(answers, clusters, rng, resamples),
        acceptance=mean([each.acceptance for each in answers], 0.0, 1.0),
        base_kl=mean([each.base_mean_kl for each in answers], 0.0, np.inf),
        quantized_kl=mean([each.quantized_mean_kl for each in answers], 0.0, np.inf),
    )


def _right(items: pa.Table) -> dict[str, tuple[Booleans, Booleans]]:
    """Return whether the answers of the base and the quantized model are right, by each metric that only says that."""
    ours, theirs = (
        [json.loads(each or "{}") for each in items[f"{m}_metrics"].to_pylist()] for m in ("base", "quantized")
    )
    found = {}
    for key, metrics in ours[0].items():
        for metric in metrics:
            values = [[each.get(key, {}).get(metric) for each in model] for model in (ours, theirs)]
            if all(_is_verdict(value) for model in values for value in model):
                base, quantized = (np.array(model, np.bool_) for model in values)
                found[f"{metric},{key}"] = base, quantized
    return found


def _is_verdict(value: Any) -> bool:
    return isinstance(value, bool | int | float) and value in (0, 1)


def _length_ratio(
    answers: Sequence[AnswerResult], clusters: Ints | None, rng: np.random.Generator, resamples: int
) -> Interval:
    tokens = [
        np.array([getattr(each, f"{model}_tokens") for each in answers], np.float64) for model in ("base", "quantized")
    ]
    features = by_cell(np.zeros(len(answers), np.int64), 1, tokens)
    ratio = Statistic(features, lambda sums, _: sums[:, 1] / sums[:, 0])
    drawn = resample({"length_ratio": ratio}, rng, clusters=clusters, resamples=resamples)
    return spread(ratio.point, drawn["length_ratio"], len(answers))
