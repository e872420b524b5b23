"""Limits on statistics of a run: does the quantized model pass, fail, or is it too early to say?"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from xml.etree import ElementTree

from eval.analysis.generated import GeneratedAnalysis
from eval.analysis.items import Compared
from eval.analysis.run import RunAnalysis
from eval.analysis.tokens import TokenAnalysis
from eval.analysis.traces import TraceAnalysis
from eval.report.generated import metric_name
from qconf.rules import EACH, OVERALL, Rule
from qconf.run.choices import EvalError
from qconf.statistics.intervals import Interval

MOST_MORE = 1e6
"""Multiple of the items at hand beyond which messages no longer say how many would settle a rule."""
INSTEAD = {"risk_coverage_area": "auroc", "l2_debiased": "l2_squared", "length_ratio": "common_prefix or equal"}
"""Statistics to judge instead of one without an interval; for the other errors of calibration:"""
INSTEAD_OF_CALIBRATION = "overconfidence, l2_squared, brier or nll"
ALIKE = ("equal", "agree", "common_prefix", "acceptance", "base_kl", "quantized_kl", "length_ratio")
"""Statistics of the answers that both models generate, without a side."""
Outcome = Literal["pass", "fail", "inconclusive"]
Statistics = dict[str, list[tuple[str, Compared | Interval]]]
"""What rules can limit, by the name in the rule: its values and what each is called."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a rule. ``value`` is the statistic that was judged; ``message`` says it all in a sentence."""

    outcome: Outcome
    name: str
    value: Interval
    message: str


def judge(rules: Sequence[Rule], run: RunAnalysis) -> list[Verdict]:
    """Return a verdict for each rule, and for each task of a rule on each. EvalError names missing statistics."""
    return [verdict(rule, name, value) for rule in rules for name, value in _values(rule, run)]


def overall(verdicts: Sequence[Verdict]) -> Outcome:
    """Return fail if any rule fails, otherwise inconclusive if any is, otherwise pass."""
    outcomes = {each.outcome for each in verdicts}
    return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"


def junit(verdicts: Sequence[Verdict], run: str) -> str:
    """Return the verdicts as JUnit XML: a failure for a rule that fails, an error for one that is inconclusive."""
    count = {outcome: sum(each.outcome == outcome for each in verdicts) for outcome in ("fail", "inconclusive")}
    suite = ElementTree.Element(
        "testsuite",
        name=f"qconf gate: {run}",
        tests=str(len(verdicts)),
        failures=str(count["fail"]),
        errors=str(count["inconclusive"]),
    )
    for verdict in verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname="qconf.gate", name=verdict.name)
        if verdict.outcome != "pass":
            kind = "failure" if verdict.outcome == "fail" else "error"
            ElementTree.SubElement(case, kind, type=verdict.outcome, message=verdict.message)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _values(rule: Rule, run: RunAnalysis) -> Iterator[tuple[str, Interval]]:
    """Yield the name and the value of each statistic that the rule judges."""
    if rule.corpus is not None:
        corpus = _named(run.corpora, rule.corpus, "corpus")
        if rule.over_floor:
            bound = ", at most," if rule.statistic == "kl" else ""
            yield f"{rule.statistic} over the floor{bound} of {rule.corpus}", _excess(rule, run)
            return
        value = _named(token_statistics(corpus, run.traces.get(rule.corpus)), rule.statistic, "statistic")
        yield f"{rule.statistic} of {rule.corpus}", value
        return
    tasks = _of_tasks(run)
    for place in _places(rule, run, tasks):
        if rule.over_floor:
            yield f"{rule.statistic} over the floor of {place}", _excess(rule, run, place)
            continue
        for name, value in _named(tasks[place], rule.statistic, "statistic"):
            shown, interval = _of(rule, name, value)
            yield f"{shown} of {place}", interval


def _of_tasks(run: RunAnalysis) -> dict[str, Statistics]:
    """Return what a rule can limit on each task, and on all items with choices."""
    analyses = run.tasks | ({OVERALL: run.overall} if run.overall else {})
    found = {place: _alone({**each.compared, **each.pair}) for place, each in analyses.items()}
    return found | {place: generated_statistics(each) for place, each in run.generated.items()}


def _alone(values: Mapping[str, Compared | Interval]) -> Statistics:
    return {name: [(name, value)] for name, value in values.items()}


def _places(rule: Rule, run: RunAnalysis, tasks: dict[str, Statistics]) -> list[str]:
    """Return the tasks that the rule is on; "each" are all that have such a statistic, of which there must be one."""
    if rule.task != EACH:
        _named(tasks, rule.task, "task")
        if rule.over_floor and rule.task in run.generated:
            raise EvalError(f"'{rule.task}' generates answers, which have no noise floor: leave out over_floor")
        return [rule.task]
    found = [name for name in tasks if name != OVERALL and rule.statistic in tasks[name]]
    if rule.over_floor:
        found = list(run.tasks)
    if not found:
        known = sorted({name for each in tasks.values() for name in each})
        raise EvalError(f"there is no task with '{rule.statistic}', expected one of {', '.join(known) or 'none'}")
    return found


def _of(rule: Rule, name: str, value: Compared | Interval) -> tuple[str, Interval]:
    """Return the value for the model that the rule is about, and what it is called."""
    if isinstance(value, Compared):
        of_model: Interval = getattr(value, rule.of)
        return f"{rule.of} {name}", of_model
    if "of" in rule.model_fields_set:
        raise EvalError(f"'{name}' is of both models together: leave out of = \"{rule.of}\"")
    return name, value


def _excess(rule: Rule, run: RunAnalysis, place: str = OVERALL) -> Interval:
    """Return the statistic beyond the noise floor, overall, of a task or of the rule's corpus."""
    floor = run.floor
    if floor is None:
        raise EvalError(f"the rule on '{rule.statistic}' is over the floor, and there is none: expected --floor RUN")
    if "of" in rule.model_fields_set:
        raise EvalError(f"'{rule.statistic}' over the floor is of both models together: leave out of = \"{rule.of}\"")
    measured = floor.corpora[rule.corpus] if rule.corpus is not None else floor.tasks.get(place, floor.overall)
    excess: dict[str, Interval] = measured.excess if measured else {}
    value: Interval = _named(excess, rule.statistic, "statistic over the floor")
    return value


def token_statistics(corpus: TokenAnalysis, trace: TraceAnalysis | None) -> dict[str, Interval]:
    """Return what a rule on a corpus can limit, by name."""
    known = dict(corpus.means)
    for name in ("base_perplexity", "quantized_perplexity", "perplexity_ratio", "rms_delta_p"):
        known[name] = getattr(corpus, name)
    return known | trace_statistics(trace) if trace else known


def generated_statistics(generated: GeneratedAnalysis) -> Statistics:
    """Return what a rule on a task whose answers are generated can limit, by name.

    The metrics of right and wrong have their names in lm-eval, and a rule on "accuracy" is on each of them.
    """
    metrics = {metric_name(name): each.compared for name, each in generated.accuracy.items()}
    alike: dict[str, Interval | None] = {name: getattr(generated, name) for name in ALIKE}
    found = _alone(metrics | {name: each for name, each in alike.items() if each is not None})
    return found | ({"accuracy": list(metrics.items())} if metrics else {})


def trace_statistics(trace: TraceAnalysis) -> dict[str, Interval]:
    """Return what else a rule can limit on a corpus of the base model's greedy texts, by name."""
    return {name: getattr(trace, name) for name in ("divergent", "first_divergent", "identical")}


def _named(known: dict[str, Any], name: str, what: str) -> Any:
    if name not in known:
        raise EvalError(f"there is no {what} '{name}', expected one of {', '.join(sorted(known)) or 'none'}")
    return known[name]


def verdict(rule: Rule, name: str, value: Interval) -> Verdict:
    """Judge a rule whose statistic has that value. EvalError where the rule needs an interval and there is none."""
    if rule.judge == "interval" and value.kind == "spread":
        why = "because chance alone makes it larger" if rule.statistic != "length_ratio" else "but a spread"
        instead = INSTEAD.get(rule.statistic, INSTEAD_OF_CALIBRATION)
        raise EvalError(
            f"'{rule.statistic}' has no 95 % interval, {why}: expected a rule on {instead} in its place, or "
            'judge = "point"'
        )
    least = -math.inf if rule.at_least is None else rule.at_least
    most = math.inf if rule.at_most is None else rule.at_most
    low, high = (value.point, value.point) if rule.judge == "point" else (value.low, value.high)
    outcome: Outcome = "inconclusive"
    reason = _missing(value, low, high)
    if not reason:
        outcome = _outcome(low, high, least, most)
        reason = _more(value, least, most) if outcome == "inconclusive" else ""
    limits = [f"at least {rule.at_least:g}"] if rule.at_least is not None else []
    limits += [f"at most {rule.at_most:g}"] if rule.at_most is not None else []
    shown = f"{value.point:.4g}" + (" (a point)" if rule.judge == "point" else f" [{low:.4g}, {high:.4g}]")
    message = f"{name} is {shown}, expected {' and '.join(limits)}"
    return Verdict(outcome, name, value, f"{message}: {reason}" if reason else message)


def _outcome(low: float, high: float, least: float, most: float) -> Outcome:
    if low >= least and high <= most:
        return "pass"
    return "fail" if high < least or low > most else "inconclusive"


def _missing(value: Interval, low: float, high: float) -> str:
    """Say what there is too little of for any verdict; empty where there is enough."""
    if value.units < value.least:
        return f"{value.least - value.units} more {value.unit} are needed, in all {value.least}, for any verdict"
    if not all(map(math.isfinite, (value.point, low, high))):
        return f"its {value.units} {value.unit} do not vary, so that nothing can be said of others"
    return ""


def _more(value: Interval, least: float, most: float) -> str:
    """Say how many more items of the same kind would settle the rule, from the interval as it would then be."""
    if value.point in (least, most):
        return f"the estimate is on the limit, and no number of {value.unit} would settle it"

    def settled(times: float) -> bool:
        return value.grown is not None and _outcome(*value.grown(times), least, most) != "inconclusive"

    low, high = 1.0, 2.0
    while not settled(high):
        low, high = high, 2 * high
        if high > MOST_MORE:
            return f"no number of {value.unit} that can be had would settle it, if the estimate stayed"
    while (high - low) * value.units > 0.5 and high / low > 1.001:
        middle = (low + high) / 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    more = max(1, math.ceil((high - 1) * value.units))
    return f"about {more} more {value.unit} would settle it, if the estimate stayed"
