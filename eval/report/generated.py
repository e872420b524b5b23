"""The table of a task whose answers are generated."""

from eval.analysis.generated import GeneratedAnalysis
from eval.report.format import bracket, change, number, p_value
from eval.report.grid import Grid
from eval.report.sentences import mcnemar_name
from qconf.statistics.intervals import Interval


def generated_table(name: str, generated: GeneratedAnalysis) -> Grid:
    """Return the accuracy of both models by each metric, and how alike their answers are."""
    rows = []
    for metric, each in generated.accuracy.items():
        shares = [number(model.point, True) for model in (each.compared.base, each.compared.quantized)]
        rows.append([metric_name(metric), *shares, *change(each.compared.delta, True), p_value(each.mcnemar.p_value)])
    means: list[tuple[str, Interval | None, bool]] = [
        ("same after the task's filters", generated.agree, True),
        ("same text", generated.equal, True),
        ("equal tokens before they part", generated.common_prefix, False),
        ("tokens, quantized / base", generated.length_ratio, False),
        ("acceptance of drafts", generated.acceptance, True),
        ("KL over the base's answer, nats", generated.base_kl, False),
        ("KL over the quantized's, nats", generated.quantized_kl, False),
    ]
    rows += [
        [heading, "", "", number(each.point, share), bracket(each, share), ""] for heading, each, share in means if each
    ]
    return Grid(
        f"{name}: {generated.items} generated answers, shares in percent; p of the {mcnemar_name(generated)}.",
        ["", "base", "quantized", "Δ or mean", "95 %", "p"],
        rows,
    )


def metric_name(metric: str) -> str:
    """Return the name of a metric, without the filter that does nothing."""
    return metric.removesuffix(",none")
