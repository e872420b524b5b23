"""The analysis of a whole run: each task, all of them together, its corpora, and the noise floor."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.analysis.floor import Floor, measure_floor
from eval.analysis.generated import GeneratedAnalysis, analyse_generated
from eval.analysis.items import Analysis, adjusted, analyse
from eval.analysis.tokens import TokenAnalysis, analyse_tokens
from eval.analysis.traces import TraceAnalysis, analyse_traces
from qconf.run.choices import Choices, EvalError, read_choices
from qconf.run.folder import Run, read_run
from qconf.run.token_changes import TokenChanges, token_changes_of
from qconf.statistics.bootstrap import RESAMPLES

FEWEST = 3
"""Labelled items below which a task has no analysis: the trend tests need them."""


@dataclass(frozen=True)
class RunAnalysis:
    """``overall`` pools the items of all tasks; None without labelled items. ``unlabelled`` items take no part.

    ``adjusted`` has the tasks' p-values after Holm's adjustment, by test and task; ``generated`` the tasks whose
    answers are generated; ``traces`` the corpora that are the base model's own greedy texts; ``token_changes`` the
    tokens that became likelier or rarer in corpora whose expected counts were asked for; ``settings`` what must be the
    same to get the same numbers.
    """

    path: str
    overall: Analysis | None
    tasks: dict[str, Analysis]
    adjusted: dict[str, dict[str, float]]
    unlabelled: int
    generated: dict[str, GeneratedAnalysis]
    corpora: dict[str, TokenAnalysis]
    traces: dict[str, TraceAnalysis]
    token_changes: dict[str, TokenChanges]
    floor: Floor | None
    settings: dict[str, int]


def analyse_run(
    run: Run | Path, *, floor: Path | None = None, seed: int = 0, resamples: int = RESAMPLES
) -> RunAnalysis:
    """Analyse a run, or the run of a folder, and its noise floor: a second run of the same pair.

    Spreads come from ``resamples`` resamples, and whatever is drawn comes from ``seed``. Raises EvalError or RunError
    for runs that cannot be read, that have items that failed, or nothing to analyse.
    """
    if isinstance(run, Path):
        run = read_run(run)
    rng = np.random.default_rng(seed)
    choices = read_choices(run)
    labelled = choices.labelled
    tasks = {name: labelled.of_task(name) for name in labelled.tasks}
    for name, items in tasks.items():
        if 0 < len(items) < FEWEST:
            raise EvalError(f"'{name}' of {run.path} has {len(items)} labelled items, expected {FEWEST} or more")
    measured = measure_floor(run, floor) if floor else None  # first, so that a wrong floor is reported at once
    analyses = {name: analyse(items, rng, resamples) for name, items in tasks.items() if len(items)}
    overall = _overall(labelled, analyses, rng, resamples)
    generated = analyse_generated(run, rng, resamples)
    if not analyses and not run.corpora and not generated:
        raise EvalError(
            f"{run.path} has no labelled multiple-choice items, no generated answers and no corpus: there is nothing "
            "to analyse"
        )
    return RunAnalysis(
        path=str(run.path),
        overall=overall,
        tasks=analyses,
        adjusted=adjusted({name: each.tests for name, each in analyses.items()}),
        unlabelled=len(choices) - len(labelled),
        generated=generated,
        corpora={name: analyse_tokens(run.path, name) for name in run.corpora},
        traces={name: analyse_traces(run.path, name) for name in run.corpora if run.is_trace(name)},
        token_changes=token_changes_of(run),
        floor=measured,
        settings={"seed": seed, "resamples": resamples},
    )


def _overall(
    labelled: Choices, analyses: dict[str, Analysis], rng: np.random.Generator, resamples: int
) -> Analysis | None:
    if len(analyses) == 1:
        return next(iter(analyses.values()))
    return analyse(labelled, rng, resamples) if analyses else None
