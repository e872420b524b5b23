"""Limits on statistics of a run: does the quantized model pass, fail, or is it too early to say?"""

import math
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from xml.etree import ElementTree

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from eval.analysis import Analysis
from eval.bootstrap import Interval
from eval.choices import EvalError
from eval.run_analysis import RunAnalysis
from eval.tokens import TokenAnalysis
from server.schema import invalid, problem

OVERALL, EACH = "overall", "each"
Outcome = Literal["pass", "fail", "inconclusive"]


class Rule(BaseModel):
    """A limit on one statistic.

    ``task`` is a task's name, "overall" or "each"; ``corpus`` a corpus's name in its place. ``of`` says whose value,
    for statistics that each model has. ``judge`` by the "point", or by the 95 % "interval": pass where all of it keeps
    the limits, fail where all of it breaks one, and else inconclusive. ``over_floor`` judges what the statistic is
    beyond the noise floor, item by item or token by token.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    statistic: str
    of: Literal["base", "quantized", "delta"] = "delta"
    task: str = OVERALL
    corpus: str | None = None
    at_least: Annotated[float, Field(allow_inf_nan=False)] | None = None
    at_most: Annotated[float, Field(allow_inf_nan=False)] | None = None
    judge: Literal["point", "interval"] = "interval"
    over_floor: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise invalid(
                "at_least", f"the rule on '{self.statistic}' has no limit: expected at_least, at_most or both"
            )
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise invalid("at_least", f"at_least is {self.at_least}, expected no more than at_most, {self.at_most}")
        if self.corpus is not None and "task" in self.model_fields_set:
            raise invalid("corpus", "a rule has either a task or a corpus, not both")
        return self


class Rules(BaseModel):
    """Content of a ``gate.toml``: a [[rule]] for each limit."""

    model_config = ConfigDict(extra="forbid", strict=True)

    rule: Annotated[list[Rule], Field(min_length=1)]


@dataclass(frozen=True)
class Verdict:
    """What became of a rule. ``value`` is what was judged; ``message`` a sentence with all of it."""

    outcome: Outcome
    name: str
    value: Interval
    message: str


def read_rules(path: Path) -> list[Rule]:
    """The rules of a file. EvalError names the rule, the field and what was expected."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise EvalError(f"cannot read {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise EvalError(f"{path} is no TOML: {exc}") from exc
    try:
        return Rules.model_validate(content).rule
    except ValidationError as exc:
        raise EvalError(f"{path}: {problem(exc.errors()).message}") from exc


def judge(rules: Sequence[Rule], run: RunAnalysis) -> list[Verdict]:
    """A verdict for each rule, and for each task of a rule on each. EvalError names a statistic that the run lacks."""
    return [
        _verdict(rule, name, value, count, "items" if rule.corpus is None else "windows")
        for rule in rules
        for name, value, count in _values(rule, run)
    ]


def overall(verdicts: Sequence[Verdict]) -> Outcome:
    """Fail if any rule fails, else inconclusive if any is, else pass."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return "fail" if "fail" in outcomes else "inconclusive" if "inconclusive" in outcomes else "pass"


def junit(verdicts: Sequence[Verdict], run: str) -> str:
    """The verdicts as JUnit XML: a failure for a rule that fails, an error for one that is inconclusive."""
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


def _values(rule: Rule, run: RunAnalysis) -> Iterator[tuple[str, Interval, int]]:
    """What is judged, how much it is, and from how many items or windows."""
    if rule.corpus is not None:
        corpus = _named(run.corpora, rule.corpus, "corpus")
        if rule.over_floor:
            bound = ", at most," if rule.statistic == "kl" else ""
            yield f"{rule.statistic} over the floor{bound} of {rule.corpus}", _excess(rule, run), corpus.windows
            return
        value = _named(_token_statistics(corpus), rule.statistic, "statistic")
        yield f"{rule.statistic} of {rule.corpus}", value, corpus.windows
        return
    places: dict[str, Analysis] = dict(run.tasks)
    if run.overall:
        places |= {OVERALL: run.overall}
    for place in run.tasks if rule.task == EACH else [rule.task]:
        analysis = _named(places, place, "task")
        if rule.over_floor:
            yield f"{rule.statistic} over the floor of {place}", _excess(rule, run, place), analysis.items
            continue
        name, value = _statistic(rule, analysis)
        yield f"{name} of {place}", value, analysis.items


def _statistic(rule: Rule, analysis: Analysis) -> tuple[str, Interval]:
    if rule.statistic in analysis.pair:
        if "of" in rule.model_fields_set:
            raise EvalError(f"'{rule.statistic}' is of both models together: leave out of = \"{rule.of}\"")
        return rule.statistic, analysis.pair[rule.statistic]
    known: dict[str, Any] = {**analysis.compared, **analysis.pair}
    value: Interval = getattr(_named(known, rule.statistic, "statistic"), rule.of)
    return f"{rule.of} {rule.statistic}", value


def _excess(rule: Rule, run: RunAnalysis, place: str = OVERALL) -> Interval:
    """What the statistic is beyond the noise floor, overall, of a task or of the rule's corpus."""
    floor = run.floor
    if floor is None:
        raise EvalError(f"the rule on '{rule.statistic}' is over the floor, and there is none: expected --floor RUN")
    if "of" in rule.model_fields_set:
        raise EvalError(f"'{rule.statistic}' over the floor is of both models together: leave out of = \"{rule.of}\"")
    measured = floor.corpora[rule.corpus] if rule.corpus is not None else floor.tasks.get(place, floor.overall)
    excess: dict[str, Interval] = measured.excess if measured else {}
    value: Interval = _named(excess, rule.statistic, "statistic over the floor")
    return value


def _token_statistics(corpus: TokenAnalysis) -> dict[str, Interval]:
    known = dict(corpus.means)
    for name in ("base_perplexity", "quantized_perplexity", "perplexity_ratio", "rms_delta_p"):
        known[name] = getattr(corpus, name)
    return known


def _named(known: dict[str, Any], name: str, what: str) -> Any:
    if name not in known:
        raise EvalError(f"there is no {what} '{name}', expected one of {', '.join(sorted(known)) or 'none'}")
    return known[name]


def _verdict(rule: Rule, name: str, value: Interval, count: int, unit: str) -> Verdict:
    if not all(map(math.isfinite, (value.point, value.low, value.high))):
        raise EvalError(f"{name} cannot be judged: it is {value.point} [{value.low}, {value.high}] here")
    low, high = (value.point, value.point) if rule.judge == "point" else (value.low, value.high)
    least = -math.inf if rule.at_least is None else rule.at_least
    most = math.inf if rule.at_most is None else rule.at_most
    if low >= least and high <= most:
        outcome: Outcome = "pass"
    elif high < least or low > most:
        outcome = "fail"
    else:
        outcome = "inconclusive"
    shown = f"{value.point:.4g}" if rule.judge == "point" else f"{value.point:.4g} [{low:.4g}, {high:.4g}]"
    limits = [f"at least {rule.at_least:g}"] if rule.at_least is not None else []
    limits += [f"at most {rule.at_most:g}"] if rule.at_most is not None else []
    message = f"{name} is {shown}, expected {' and '.join(limits)}"
    if outcome == "inconclusive":
        message += f": {_more(value, least, most, count, unit)}"
    return Verdict(outcome, name, value, message)


def _more(value: Interval, least: float, most: float, count: int, unit: str) -> str:
    """How many more items would settle it, if the estimate stayed: intervals shrink with the root of their number."""
    needed = 0.0
    for limit in (least, most):
        if value.low < limit < value.high:
            if value.point == limit:
                return f"the estimate is on the limit, and no number of {unit} would settle it"
            reach = value.point - value.low if limit < value.point else value.high - value.point
            needed = max(needed, count * (reach / (limit - value.point)) ** 2)
    return f"about {max(1, math.ceil(needed - count))} more {unit} would settle it, if the estimate stayed"
