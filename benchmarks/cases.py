"""Cases that run one by one and are recorded at once: a run that is killed keeps the earlier records."""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASSED, FAILED, NOT_AVAILABLE, NOT_RUN = "passed", "failed", "not available", "not run"

LOG_LINES = 60
OWN = "qconf-server: error: "
RAISED = re.compile(r"(?:\(.*?\) )?(?:ERROR \S+ \S+ \[\S+\] )?((?:\w+\.)*\w*Error: .+)")
"""The end of a traceback, as Python prints it or as vLLM logs it."""
ELSEWHERE = "See root cause above"

Record = dict[str, Any]


class NotAvailable(Exception):
    """This machine, or this vLLM, lacks something that the case needs."""


class Wrong(Exception):
    """The case measured a wrong value."""


@dataclass(frozen=True)
class Case:
    """A case; ``run`` puts its measurements into a record, even if it fails, and returns one line for the table."""

    name: str
    run: Callable[[Record], str]


class Report:
    """A JSON file of cases by name, each with its run; a case that is run again replaces the old one."""

    def __init__(self, path: Path, facts: Record) -> None:
        self._path = path
        self._run: str = facts["date"]
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": {}, "cases": {}}
        self._runs: dict[str, Record] = found["runs"] | {self._run: facts}
        self._cases: dict[str, Record] = found["cases"]

    def add(self, name: str, record: Record) -> None:
        """Write the file with one more case."""
        self._cases[name] = {"run": self._run, **record}
        used = {case["run"] for case in self._cases.values()}
        runs = {date: facts for date, facts in self._runs.items() if date in used}
        text = json.dumps({"runs": runs, "cases": self._cases}, indent=2, default=str)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self._path.with_suffix(".part")
        unfinished.write_text(text + "\n", encoding="utf-8")
        os.replace(unfinished, self._path)


def run_cases(part: str, cases: Sequence[Case], report: Report, minutes: float) -> list[str]:
    """Run a part's cases in order, starting none after so many minutes, and return their outcomes."""
    began = time.monotonic()
    outcomes = []
    for case in cases:
        started = time.monotonic()
        record: Record = {}
        outcome, line = _run(case, record) if started - began < 60 * minutes else (NOT_RUN, f"{minutes:g} minutes over")
        ended = time.monotonic()
        told = {"outcome": outcome, "says": line, "seconds": round(ended - started, 1)}
        report.add(f"{part}: {case.name}", told | record)
        print(f"{ended - began:5.0f} s {ended - started:5.0f} s  {outcome:14} {part}: {case.name}: {line}", flush=True)
        outcomes.append(outcome)
    return outcomes


def _run(case: Case, record: Record) -> tuple[str, str]:
    try:
        return PASSED, case.run(record)
    except NotAvailable as error:
        return NOT_AVAILABLE, reason(error)
    except Exception as error:  # any error: the other cases still run
        record.setdefault("log", last_lines(str(error)))
        return FAILED, reason(error)


def last_lines(text: str) -> list[str]:
    """Return the end of a log, which has the reason for a failure."""
    return text.splitlines()[-LOG_LINES:]


def reason(error: Exception) -> str:
    """Return one line: the server's own error message if its output has one, otherwise the last exception."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    own = [line.removeprefix(OWN) for line in lines if line.startswith(OWN)]
    raised = [found[1] for line in reversed(lines) if (found := RAISED.fullmatch(line))]
    for line in (*own, *raised):
        if ELSEWHERE not in line:
            return line
    last = lines[-1] if lines else ""
    return last if isinstance(error, NotAvailable | Wrong) else f"{type(error).__name__}: {last}"


def exit_code(outcomes: Iterable[str]) -> int:
    """Return 1 if any case failed, otherwise 0."""
    return int(FAILED in outcomes)
