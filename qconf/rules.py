"""Rules of a ``gate.toml``: limits on statistics, for ``eval gate`` and for ``client.bench --until``."""

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from qconf.run.choices import EvalError
from qconf.wire import invalid, problem

OVERALL, EACH = "overall", "each"


class Rule(BaseModel):
    """A limit on one statistic.

    ``task`` is a task's name, "overall", which is all items with choices, or "each", which is every task that has the
    statistic; ``corpus`` is a corpus's name in its place. ``of`` says whose value, for statistics that each model has.
    ``judge`` by the "point", or by the 95 % "interval": pass where all of it keeps the limits, fail where all of it
    breaks one, and else inconclusive. Where there is too little to go by, either is inconclusive. ``over_floor`` judges
    what the statistic is beyond the noise floor, item by item or token by token.
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


def read_rules(path: Path) -> list[Rule]:
    """Read the rules of a file. EvalError names the rule, the field and what was expected."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise EvalError(f"cannot read {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise EvalError(f"{path} is no TOML: {exc}") from exc
    try:
        return Rules.model_validate(content).rule
    except ValidationError as exc:
        raise EvalError(f"{path}: {problem(exc.errors()).message}") from exc
