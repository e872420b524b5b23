"""Run of the base and one variant: its rows, and the folder that they are written to."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from client.bench.corpora import write_corpora
from client.bench.evaluation import Evaluation, evaluate
from client.bench.journal import Journal, Key
from client.bench.outcome import Outcome
from client.bench.sources.lm_eval_tasks import LoadedTasks
from client.bench.sources.load import BenchOptions
from client.bench.standing import Standing
from qconf import __version__
from qconf.run.folder import Drawn, Manifest, Subject, Timing, write_answers, write_run

PACKAGES = ("httpx", "lm_eval", "pyarrow", "pydantic")


@dataclass(frozen=True)
class Replayed:
    """What all runs of a replay have in common: options, times, and with ``--until`` its items and rules."""

    options: BenchOptions
    timing: Timing
    drawn: Drawn | None
    standings: Sequence[Standing]


class PairRun:
    """Rows and answers of the base and one variant, which become the files of ``folder``."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self.subject = subject
        self.folder = folder
        self.variant = subject.models.quantized.id
        self._outcomes: dict[Key, Outcome] = {}

    def add(self, outcome: Outcome) -> None:
        """Add what came of an item, or replace it. Tokens and counts, which may be many, stay in the journal."""
        row = outcome.row
        self._outcomes[row.task, row.doc_id] = Outcome(row, answer=outcome.answer)

    def write(
        self, loaded: LoadedTasks, journal: Journal, replayed: Replayed, text: Callable[[list[int]], str]
    ) -> Evaluation:
        """Write the run of these tasks, whose tokens are in the journal, and return its results.

        ``text`` returns the text of token ids.
        """
        items = [item for task in loaded.tasks for item in task.items]
        corpora = write_corpora(self.folder, items, journal, self.variant)
        changes = {}
        if replayed.options.expected_counts:
            # Only these replays need scipy.
            from client.bench.expected_counts import write_expected_counts

            changes = write_expected_counts(self.folder, items, journal, self.variant, text)
        evaluation = evaluate(loaded, lambda task, i: self._outcomes[task.name, task.items[i].doc_id], corpora, changes)
        if evaluation.answers:
            write_answers(self.folder, evaluation.answers)
        results = evaluation.results()
        if replayed.drawn:
            rules = [each.model_dump() for each in replayed.standings]
            results["until"] = replayed.drawn.model_dump() | {"rules": rules}
        write_run(self.folder, self._manifest(evaluation, replayed), evaluation.rows, results)
        return evaluation

    def _manifest(self, evaluation: Evaluation, replayed: Replayed) -> Manifest:
        options = replayed.options
        return Manifest(
            created=replayed.timing.finished,
            url=options.urls[0] if len(options.urls) == 1 else options.urls,
            concurrency=options.concurrency,
            include_path=str(options.include_path) if options.include_path else None,
            subject=self.subject,
            timing=replayed.timing,
            counts=evaluation.counts,
            drawn=replayed.drawn,
            packages={"python": platform.python_version(), "qconf": __version__} | {p: version(p) for p in PACKAGES},
        )
